"""``python -m bananas_core.child``: one worker process under a supervisor, which starts it.

Arguments: the pipe's file descriptor, the parent's pid, the app, the slot, flags as JSON. The first
message in the pipe is what the parent has read of the settings' sources.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from bananas_core.clock import Clock, SystemClock
from bananas_core.errors import (
    BananasError,
    ConfigurationError,
    ResultBackendUnavailable,
    TransportUnavailable,
)
from bananas_core.isolate import ProcessIsolation
from bananas_core.job import Session
from bananas_core.link import frame, read_first
from bananas_core.pipe import Bye, Failed, Hello, PipeKeeper, ReadyNow, read_sources, to_bytes
from bananas_core.probe import PROBE, register_probe
from bananas_core.processes import (
    die_with_parent,
    inherit,
    loop_factory,
    resident_memory,
    set_up_logging,
    watch_parent,
)
from bananas_core.settings import Loaded, Settings, environment, overlay
from bananas_core.worker import Worker, WorkerOptions, new_session

if TYPE_CHECKING:
    from bananas_core.app import Bananas

log = logging.getLogger("bananas.child")

YOUNG: Final = 10_000
"""New objects between two runs of the garbage collector; Python's own is 700."""
CLOSE_WITHIN: Final = 1.0
"""Seconds to disconnect at the end."""


def main(arguments: Sequence[str]) -> int:
    """The process's exit code."""
    fd, parent, reference, slot, flags = arguments
    faulthandler.enable()
    die_with_parent(int(parent))
    watch_parent(int(parent))
    # Ctrl-C, or a closed terminal, reaches the whole group of processes; only the supervisor
    # decides what it means.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sock = inherit(int(fd))
    try:
        child = ChildProcess(reference, int(slot), msgspec.json.decode(flags), sock)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(child.run(sock))
    except BananasError as error:
        unavailable = isinstance(error, (TransportUnavailable, ResultBackendUnavailable))
        _tell_failure(
            sock,
            Failed(
                error=str(error),
                unavailable=unavailable,
                usage=isinstance(error, ConfigurationError),
            ),
        )
        return 1


class ChildProcess:
    """An imported app with what its worker needs."""

    def __init__(
        self, reference: str, slot: int, flags: dict[str, Any], sock: socket.socket
    ) -> None:
        """Raises ConfigurationError: the app can't be imported, or a setting is wrong."""
        self._reference = reference
        self._slot = slot
        name = flags.pop("name", "worker")
        self._app, self._sources = load_with_settings(reference, sock)
        set_up_logging()
        self._settings = effective_settings(self._app, flags)
        if self._settings.broker_url.startswith("memory:"):
            raise ConfigurationError(
                "memory:// lives inside one process, so no job would ever reach a worker process; "
                "set BANANAS_BROKER_URL, to sqlite:///jobs.db for example"
            )
        keys = self._settings.routing_keys or default_keys(self._app)
        self._probe_key = None
        if self._settings.health_port is not None:
            self._probe_key = probe_key(slot)
            keys = (*keys, self._probe_key)
        register_probe(self._app)
        self._options = worker_options(self._settings, name, keys)
        self._worker: Worker | None = None
        self._stops = 0

    async def run(self, sock: socket.socket) -> int:
        """Work until told to stop. Raises BananasError if that can't even begin."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stop, False)
        app, clock = self._app, SystemClock()
        keeper = PipeKeeper(sock, clock, hello=self._hello, memory=resident_memory, stop=self.stop)
        warm = 0
        if self._options.pool == "process":
            warm = min(self._options.concurrency, os.cpu_count() or 1)
        isolation = ProcessIsolation(
            self._reference, sources=self._sources, warm=warm, most=self._options.concurrency
        )
        await app.open()
        try:
            await isolation.start()
            self._worker = worker = Worker(
                app,
                self._options,
                keeper=keeper,
                isolation=isolation,
                clock=clock,
                memory=resident_memory,
                session=self._session(clock),
                on_ready=lambda: keeper.tell(ReadyNow()),
            )
            for _ in range(self._stops):
                worker.stop()
            # What was imported stays: the garbage collector need not look at it again, and at
            # thousands of jobs a second it need not look at each few hundred new objects.
            gc.collect()
            gc.freeze()
            gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
            reason = await worker.run()
            keeper.tell(Bye(reason=reason.value))
        finally:
            await isolation.stop()
            await self._disconnect()
        keeper.close()
        return 0

    def stop(self, now: bool) -> None:
        """Gracefully, or now. Any number of SIGTERMs means gracefully: a process manager may
        signal all processes of a group while the supervisor passes its own on."""
        wanted = 2 if now else 1
        while self._stops < wanted:
            self._stops += 1
            if self._worker is not None:
                self._worker.stop()

    async def _disconnect(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_WITHIN):
                await self._app.close()
        except (BananasError, TimeoutError) as error:
            log.warning("the app was not closed in good order: %s", str(error) or "no answer")

    def _session(self, clock: Clock) -> Session:
        """What the ledger is told of this process at once; the next beat is a second away."""
        return replace(
            new_session(self._options, clock, tuple(self._app.tasks)),
            version=package_version(),
            memory=resident_memory(),
        )

    def _hello(self, session: Session) -> Hello:
        settings = self._settings
        return Hello(
            session=session,
            broker_url=settings.broker_url,
            result_backend_url=settings.result_backend_url,
            namespace=settings.namespace,
            processes=settings.processes,
            grace=settings.grace,
            health_port=settings.health_port,
            health_host=settings.health_host,
            probe_key=self._probe_key,
        )


def load_with_settings(reference: str, sock: socket.socket) -> tuple[Bananas, Loaded | None]:
    """Import the app and give it the settings that the other end of the pipe has read, so that
    nobody reads them here; and these, to hand them down. None if the app reads them itself: the
    other end could not, or the app's module has changed what they are read from.

    Raises:
        ConfigurationError: the app can't be imported, or a setting is wrong.
    """
    from bananas_core.target import load_app

    before = environment()
    app = load_app(reference)
    sources = read_sources(read_first(sock))
    if environment() != before:
        sources = None
    if sources is not None:
        app.use_settings(sources)
    return app, sources


def effective_settings(app: Bananas, flags: Mapping[str, Any]) -> Settings:
    """The app's settings with command-line flags over them. Raises ConfigurationError."""
    loaded = Loaded(settings=app.settings, sources=app.sources)
    return overlay(loaded, flags, "option").settings


def package_version() -> str:
    """Of Bananas as it is installed; empty when it isn't (run from a bare checkout)."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("bananas")
    except PackageNotFoundError:
        return ""


def default_keys(app: Bananas) -> tuple[str, ...]:
    """Without any choice, a worker consumes what its tasks are sent to."""
    return tuple(sorted({"default", *(task.routing_key for task in app.tasks.values())}))


def probe_key(slot: int) -> str:
    """The same after each restart, so that queues don't pile up."""
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:80] or "host"
    return f"{PROBE}.{host}.{slot}"


def worker_options(settings: Settings, name: str, keys: tuple[str, ...]) -> WorkerOptions:
    """The worker's part of the settings."""
    return WorkerOptions(
        name=name,
        routing_keys=keys,
        concurrency=settings.concurrency,
        grace=settings.grace,
        pool=settings.pool,
        max_jobs=settings.max_jobs,
        max_memory=settings.max_memory,
        retention=settings.retention,
    )


def _tell_failure(sock: socket.socket, failure: Failed) -> None:
    """The last word of a process that has no event loop (any more)."""
    try:
        sock.setblocking(True)
        sock.sendall(frame(to_bytes(failure)))
    except OSError:
        print(f"error: {failure.error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
