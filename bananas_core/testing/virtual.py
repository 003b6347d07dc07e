"""A virtual-time event loop: sleeping costs nothing, and one seed gives one interleaving."""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections.abc import Coroutine
from typing import Any

EPOCH = 1_700_000_000.0
"""Unix seconds at virtual time 0."""


class Deadlock(RuntimeError):
    """Nothing is left that could ever happen."""


class _Selector(selectors.SelectSelector):
    """Never waits: it moves the loop's time to the next timer instead."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise Deadlock("all tasks wait for something that no task will do")
        self.time += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is a number. No threads, no sockets."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.time


class VirtualClock:
    """The clock of one simulated machine: the loop's time, off by ``skew`` seconds."""

    def __init__(self, loop: VirtualLoop, skew: float = 0.0) -> None:
        self._loop = loop
        self.skew = skew

    def now(self) -> float:
        return EPOCH + self._loop.time() + self.skew

    def monotonic(self) -> float:
        return self._loop.time()


_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class Process:
    """A simulated process: all tasks begun inside it die together, without a last word."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.session = ""
        """The worker session that runs in it."""
        self.alive = True
        self.cut_until = 0.0
        """On the loop's time: until then its requests and replies are on their way."""
        self.hazard = 0.0
        """Chance that it dies or stands still for a while, at each end of each call it makes."""
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in order, so that a seed replays

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a coroutine as part of this process."""
        context = contextvars.copy_context()
        context.run(_process.set, self)
        return asyncio.get_running_loop().create_task(coroutine, context=context)

    def crash(self) -> None:
        """kill -9: nothing of this process runs any more, not even ``finally`` with effect,
        since its connections never answer again."""
        self.alive = False
        for task in list(self._tasks):
            task.cancel()

    async def gone(self) -> None:
        """Wait until its tasks are unwound."""
        while self._tasks:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.wait(list(self._tasks))

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """A task was begun inside this process."""
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))


def install(loop: asyncio.AbstractEventLoop) -> None:
    """Make the loop assign new tasks to the process that they are begun in."""

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **options)
        context = options.get("context") or contextvars.copy_context()
        process = context.get(_process)
        if process is not None:
            process.adopt(task)
        return task

    loop.set_task_factory(factory)


def current_process() -> Process | None:
    """The simulated process that runs now."""
    return _process.get()
