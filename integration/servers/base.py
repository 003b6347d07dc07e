"""What all servers have in common: a process, a port and a folder of their own."""

from __future__ import annotations

import asyncio
import atexit
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final, Self

HOST: Final = "127.0.0.1"
PORTS: Final = range(20_000, 32_000)
"""Below those that the kernel gives to outgoing connections, so that nobody takes a server's port
between its death and its restart."""
POLL: Final = 0.01
START_TRIES: Final = 5


class ServerMissing(RuntimeError):
    """The server's program is not installed; the text says how to install it."""


class ServerFailed(RuntimeError):
    """The server did not start, or did not stop in time; the text ends with its last log lines."""


class Server(ABC):
    """One server as a process of ours, on a port and in a folder of its own.

    Made stopped; ``start`` or ``with``/``async with`` runs it. A restart keeps port and data, so
    clients that reconnect find what they left. Whatever is still running when the interpreter ends
    is killed, unless it was made ``detached``.

    Methods block for some milliseconds up to their time limit; ``async with`` doesn't block the
    loop, and ``asyncio.to_thread(server.restart)`` is how a coroutine calls the others.
    """

    name: ClassVar[str]
    ready_within: ClassVar[float] = 10.0
    """Seconds from the start of the process until it must answer."""
    stop_within: ClassVar[float] = 10.0
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    """What makes it end in good order."""

    def __init__(self, *, folder: Path | None = None, detached: bool = False) -> None:
        """``folder``: an existing folder that the caller removes; default: a temporary one that
        ``stop`` removes. ``detached``: outlives this interpreter and its terminal."""
        self.binary = self.find_binary()
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix=f"bananas-{self.name}-"))
        self.port = free_port()
        self._detached = detached
        self._process: subprocess.Popen[bytes] | None = None
        self._started_before = False

    # -- what each kind of server says ---------------------------------------------------------

    @classmethod
    @abstractmethod
    def find_binary(cls) -> Path:
        """Raises ServerMissing."""

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """The command line; called at each start, after ``port`` is final for this try."""

    def environment(self) -> dict[str, str] | None:
        """Its environment; None: as ours."""
        return None

    @abstractmethod
    def answers(self) -> bool:
        """Whether it serves requests now; an OSError counts as no."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The broker URL."""

    # -- life ----------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start it and wait until it answers. Does nothing while it runs.

        Raises:
            ServerFailed: it ended, or did not answer within ``ready_within``.
        """
        if self.running:
            return self
        for left in reversed(range(START_TRIES)):
            self._launch()
            try:
                self._wait_until_ready()
                break
            except ServerFailed:
                self.kill()
                # Somebody else was quicker to bind the port. Only a first start may move.
                if self._started_before or not left or not self._address_in_use():
                    if not self._started_before:
                        self._forget()
                    raise
                self.port = free_port()
        self._started_before = True
        return self

    def stop(self) -> None:
        """End it (SIGTERM, then SIGKILL) and remove its folder if that was made here. For good."""
        try:
            self.terminate()
        finally:
            self.kill()
            self._forget()

    def terminate(self) -> int | None:
        """``stop_signal``, and wait for the end; its exit code, None if it didn't run.

        Raises:
            ServerFailed: it did not end within ``stop_within``.
        """
        if not self.running:
            return None
        self.signal(signal.SIGCONT)
        self.signal(self.stop_signal)
        assert self._process is not None
        try:
            return self._process.wait(self.stop_within)
        except subprocess.TimeoutExpired as error:
            raise ServerFailed(
                f"{self.name} (pid {self.pid}) ignores {self.stop_signal.name}{self.log_tail()}"
            ) from error

    def kill(self) -> None:
        """kill -9, and wait for the end. Safe to repeat."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(self.stop_within)

    def restart(self, *, kill: bool = False) -> None:
        """End it by SIGTERM, or kill -9, and start it on the same port and data."""
        if kill:
            self.kill()
        else:
            self.terminate()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay, nothing answers."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server's process."""
        os.kill(self.pid, number)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.to_thread(self.stop)

    # -- looking at it -------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Raises ServerFailed if it was never started."""
        if self._process is None:
            raise ServerFailed(f"{self.name} was not started")
        return self._process.pid

    @property
    def log_path(self) -> Path:
        return self.folder / f"{self.name}.log"

    def log_tail(self, lines: int = 15) -> str:
        """The end of its log, on lines of their own, for error texts."""
        try:
            text = self.log_path.read_text(errors="replace")
        except OSError:
            return ""
        return "".join(f"\n  {line}" for line in text.splitlines()[-lines:])

    # -- inside --------------------------------------------------------------------------------

    def _launch(self) -> None:
        command = [str(part) for part in self.command()]
        with self.log_path.open("ab") as log:
            # In our process group, a signal to the group (a terminal's Ctrl-C, `timeout`) ends it.
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=self._detached,
            )
        if not self._detached:
            atexit.register(self._at_exit)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.ready_within
        while time.monotonic() < deadline:
            if not self.running:
                raise ServerFailed(f"{self.name} ended at its start{self.log_tail()}")
            try:
                if self.answers():
                    return
            except OSError:
                pass
            time.sleep(POLL)
        raise ServerFailed(
            f"{self.name} on port {self.port} did not answer within {self.ready_within:g} s"
            f"{self.log_tail()}"
        )

    def _address_in_use(self) -> bool:
        return "address already in use" in self.log_tail().lower()

    def _at_exit(self) -> None:
        self.kill()
        self._forget()

    def _forget(self) -> None:
        atexit.unregister(self._at_exit)
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    """A loopback port that nobody listens on."""
    rng = random.SystemRandom()
    for _ in range(100):
        port = rng.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        return port
    raise ServerFailed(f"no free port found from {PORTS.start} to {PORTS.stop}")
