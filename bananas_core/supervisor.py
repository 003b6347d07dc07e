"""``python -m bananas_core.supervisor``: the parent of worker processes. Starts them, renews for
them, replaces them, stops them. ``bananas worker`` becomes this program once it knows its options.

It never imports the app: user code runs in the children only, so that nothing of it can block
or bring down the process that keeps the claims. It tells each child what was read of the settings'
sources, so that neither has to import what reads them.

Argument: the descriptor of a file with a ``SupervisorConfig`` in msgpack. Others are for ``ps``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Coroutine, Sequence
from typing import Any, Final

import msgspec

from bananas_core.children import YOUNG, Child, restart_delay
from bananas_core.clock import Clock, SystemClock
from bananas_core.errors import BananasError
from bananas_core.health import WorkerHealth
from bananas_core.health_server import HealthServer
from bananas_core.launch import SupervisorConfig
from bananas_core.pipe import Sources, Stop
from bananas_core.processes import set_up_logging, spawn
from bananas_core.settings import Loaded
from bananas_core.upkeep import Pairs, end_session, renew_child

log = logging.getLogger("bananas.supervisor")

TICK: Final = 0.05
"""Seconds between two looks at the children."""
STOP_EXTRA: Final = 1.8
"""Seconds after the grace time at which what still runs is killed."""
ABORT_WITHIN: Final = 1.0
"""Seconds that children have to hand back their jobs after a second signal."""
BURY_WITHIN: Final = 1.0
"""Seconds at the very end for the ledger to end the sessions of dead children."""
PAUSED: Final = 2.0
"""A gap between two looks, in seconds, that means: we were stopped, not the children slow."""
READ_WITHIN: Final = 20.0
"""Seconds for another process to read the settings' sources."""
FORGIVE: Final = 5.0
"""Seconds after such a gap during which nobody is killed for being late."""


class Slot:
    """A place for one child."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.child: Child | None = None
        self.start_at = 0.0
        self.young_deaths = 0


class Supervisor:
    """Runs until told to stop: SIGTERM or SIGINT gracefully, again: at once; SIGHUP replaces the
    children one by one, but means a graceful stop when it comes from a terminal that was closed.
    """

    def __init__(self, config: SupervisorConfig, *, clock: Clock | None = None) -> None:
        self._config = config
        self._sources = config.sources
        self._clock = clock or SystemClock()
        self._slots = [Slot(0)]
        self._children: set[Child] = set()
        self._renewals: dict[Child, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._announced = False
        self._worked = False
        """Whether any child ever became ready."""
        self._signals = 0
        self._hangups = 0
        self._grace = 30.0
        self._kill_at: float | None = None
        self._mercy_until = 0.0
        self._exit: int | None = None

    def run(self) -> int:
        """The exit code: 0 after a graceful stop, 1 after an abrupt one or if the app can't be
        loaded, 3 if broker or ledger can't be reached at the start."""
        return asyncio.run(self._run())

    async def _run(self) -> int:
        self._pairs = Pairs()
        self._health: HealthServer | None = None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        closes = os.isatty(0)  # then a hang-up says that nobody is there any more
        loop.add_signal_handler(signal.SIGHUP, self._signalled if closes else self._hung_up)
        try:
            await self._watch()
        finally:
            await self._clean_up()
        return self._exit or 0

    def _signalled(self) -> None:
        self._signals += 1

    def _hung_up(self) -> None:
        self._hangups += 1

    async def _watch(self) -> None:
        """Look at everything, 20 times a second, until no child is left after a stop."""
        acted, reloaded = 0, 0
        before = self._clock.monotonic()
        while True:
            now = self._clock.monotonic()
            if now - before > PAUSED:
                self._mercy_until = now + FORGIVE
            before = now
            if self._signals > acted:
                acted = self._signals
                self._stop(now, at_once=acted > 1)
            if self._hangups > reloaded and not self._stopping:
                reloaded = self._hangups
                self._spawn_task(self._reload())
            for child in list(self._children):
                self._look_at(child, now)
            if self._stopping:
                if not self._children:
                    return
            else:
                self._fill_slots(now)
                self._announce()
            await asyncio.sleep(TICK)

    @property
    def _stopping(self) -> bool:
        return self._kill_at is not None

    def _stop(self, now: float, *, at_once: bool) -> None:
        self._kill_at = now + (ABORT_WITHIN if at_once else self._grace + STOP_EXTRA)
        if at_once:
            self._exit = self._exit or 1
        for child in self._children:
            self._tell_to_stop(child, now, at_once=at_once)

    def _tell_to_stop(self, child: Child, now: float, *, at_once: bool = False) -> None:
        child.told_to_stop = now
        if child.hello is None:
            child.kill()  # it holds nothing yet, and may be importing for long
        else:
            child.tell(Stop(now=at_once))

    def _look_at(self, child: Child, now: float) -> None:
        if child.gone():
            self._bury(child, now)
            return
        if child.hello is not None and child not in self._renewals:
            self._grace = child.hello.grace
            self._renewals[child] = self._spawn_task(renew_child(child, self._pairs))
        if now >= self._mercy_until and (late := child.overdue(now)):
            log.error("%r is killed: past the time-out of %s", child, ", ".join(k[0] for k in late))
            child.kill(late)
        if self._kill_at is not None and now >= self._kill_at:
            log.warning("%r did not stop in time and is killed; its jobs go back", child)
            child.kill()
        elif child.lingers(now) or (not self._stopping and self._replaced_for_long(child, now)):
            child.kill()

    def _replaced_for_long(self, child: Child, now: float) -> bool:
        told = child.told_to_stop
        return told is not None and now >= told + self._grace + STOP_EXTRA

    def _bury(self, child: Child, now: float) -> None:
        """A child is gone: end its session, and start another in its place."""
        self._children.discard(child)
        renewal = self._renewals.pop(child, None)
        if renewal is not None:
            renewal.cancel()
        self._spawn_task(end_session(child, self._pairs))
        slot = next((s for s in self._slots if s.child is child), None)
        if slot is None:
            return  # it was replaced before
        slot.child = None
        if self._stopping:
            return
        self._worked = self._worked or child.ready_at is not None
        if not self._worked and not any(other.ready_at for other in self._children):
            self._give_up(child)
            return
        young = child.ready_at is None or now - child.ready_at < YOUNG
        good = child.reason is not None and child.ready_at is not None
        slot.young_deaths = slot.young_deaths + 1 if young and not good else 0
        slot.start_at = now + restart_delay(slot.young_deaths)
        if not good:
            why = child.failed.error if child.failed else child.describe_end()
            log.error("%r: %s; another one is started", child, why)

    def _give_up(self, child: Child) -> None:
        """No child was ever ready: say why and end."""
        text = child.failed.error if child.failed else f"the worker process {child.describe_end()}"
        print(f"bananas: {text}", file=sys.stderr, flush=True)
        self._exit = 1
        if child.failed is not None and child.failed.unavailable:
            self._exit = 3
        elif child.failed is not None and child.failed.usage:
            self._exit = 2
        self._stop(self._clock.monotonic(), at_once=True)

    def _fill_slots(self, now: float) -> None:
        first = self._slots[0].child
        if first is not None and first.hello is not None:
            wanted = first.hello.processes
            self._slots += [Slot(i) for i in range(len(self._slots), wanted)]
        for slot in self._slots:
            if slot.child is None and now >= slot.start_at:
                slot.child = self._start(slot.index)

    def _start(self, slot: int) -> Child:
        config = self._config
        flags = msgspec.json.encode({"name": config.name, **config.flags}).decode()
        process, sock = spawn("bananas_core.child", [config.app, str(slot), flags])
        child = Child(slot, process, sock, self._clock)
        self._children.add(child)
        child.tell(Sources(loaded=self._sources))
        return child

    def _announce(self) -> None:
        if self._announced:
            return
        children = [slot.child for slot in self._slots]
        first = children[0]
        if first is None or first.hello is None or first.hello.processes != len(children):
            return
        if all(child is not None and child.ready_at is not None for child in children):
            self._announced = self._worked = True
            if first.hello.health_port is not None:
                at = (first.hello.health_host, first.hello.health_port)
                self._spawn_task(self._serve_health(*at))
            print("ready", file=sys.stderr, flush=True)

    async def _serve_health(self, host: str, port: int) -> None:
        health = WorkerHealth(self._current, self._pairs, self._clock)
        self._health = HealthServer(health.report, port, host=host)
        try:
            await self._health.start()
        except OSError as error:
            log.error("no health server on %s port %d: %s", host, port, error)

    def _current(self) -> list[Child | None]:
        return [slot.child for slot in self._slots]

    async def _reload(self) -> None:
        """Replace each child: the old one is told to stop when the new one consumes."""
        self._sources = await read_sources()
        for slot in list(self._slots):
            new = self._start(slot.index)
            while new in self._children and new.ready_at is None:
                await asyncio.sleep(TICK)
            if new not in self._children:
                why = new.failed.error if new.failed else new.describe_end()
                log.error("not reloaded, the old processes stay: %s", why)
                return
            old, slot.child = slot.child, new
            while old is not None and old in self._children:
                if old.told_to_stop is None:
                    self._tell_to_stop(old, self._clock.monotonic())
                await asyncio.sleep(TICK)
        log.info("all worker processes were replaced")

    def _spawn_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a duty of the supervisor ended", exc_info=error)

    async def _clean_up(self) -> None:
        """Nothing of ours outlives us."""
        for child in self._children:
            child.kill()
        for child in list(self._children):
            child.process.wait()
            self._bury(child, self._clock.monotonic())
        if self._health is not None:
            await self._health.stop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=BURY_WITHIN)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self._pairs.close()
        except BananasError as error:
            log.debug("a connection did not close: %s", error)


async def read_sources() -> Loaded | None:
    """Have a process read what the environment and ``pyproject.toml`` say now. None if it can't:
    children that read them themselves find out why."""
    command = [sys.executable, "-m", "bananas_core.sources"]
    process = None
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        async with asyncio.timeout(READ_WITHIN):
            said, _ = await process.communicate()
        return msgspec.msgpack.decode(said, type=Loaded) if process.returncode == 0 else None
    except (OSError, msgspec.MsgspecError) as error:  # a TimeoutError is an OSError
        log.warning("each worker process reads the settings itself: %s", str(error) or "no answer")
        return None
    finally:
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()


def main(arguments: Sequence[str]) -> int:
    """The process's exit code."""
    with os.fdopen(int(arguments[0]), "rb") as file:
        config = msgspec.msgpack.decode(file.read(), type=SupervisorConfig)
    set_up_logging()
    return Supervisor(config).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
