"""Threads for ``def`` tasks.

``run_in_executor`` costs several times what a short task does, so the pool is our own: one queue
in, one list out, and one wake-up of the loop for all results that are there.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final

Call = tuple[Callable[[], Any], contextvars.Context, "asyncio.Future[Any]"]
_STOP: Final = None


class TaskInterrupted(BaseException):
    """Raised inside a thread's task when it ran out of time or was cancelled.

    Not an ``Exception``, so that a task's own ``except Exception`` doesn't swallow it.
    """


class ThreadPool:
    """Up to ``size`` daemon threads, started when first needed. Used from one event loop."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._queue: SimpleQueue[Call | None] = SimpleQueue()
        self._results: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._lock = threading.Lock()
        self._running: dict[asyncio.Future[Any], threading.Thread] = {}
        self._woken = False
        self._loop = asyncio.get_running_loop()
        self.abandoned = 0
        """Threads that did not stop when interrupted; each keeps its core until it ends."""

    def submit(
        self, function: Callable[[], Any], context: contextvars.Context
    ) -> asyncio.Future[Any]:
        """Run ``function`` in ``context`` on a thread. Cancelling the future detaches it only."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put((function, context, future))
        with self._lock:
            if self._idle == 0 and len(self._threads) - self.abandoned < self._size:
                thread = threading.Thread(target=self._work, name="bananas-task", daemon=True)
                self._threads.add(thread)
                thread.start()
        return future

    def interrupt(self, future: asyncio.Future[Any]) -> None:
        """Raise TaskInterrupted in the thread that runs ``future``, at its next Python step."""
        with self._lock:
            thread = self._running.get(future)
            if thread is not None and thread.ident is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread.ident), ctypes.py_object(TaskInterrupted)
                )

    def abandon(self, future: asyncio.Future[Any]) -> None:
        """Give up a thread that ignores the interrupt; another takes its place."""
        with self._lock:
            if future in self._running:
                self.abandoned += 1

    def close(self) -> None:
        """Let idle threads end. Busy ones are daemons and end with the process."""
        for _ in range(len(self._threads)):
            self._queue.put(_STOP)

    def busy(self, future: asyncio.Future[Any]) -> bool:
        """Whether a thread still runs the function of ``future``, cancelled or not."""
        return future in self._running

    def _work(self) -> None:
        me = threading.current_thread()
        while True:
            with self._lock:
                self._idle += 1
            call = self._queue.get()
            with self._lock:
                self._idle -= 1
            if call is None:
                return
            function, context, future = call
            if future.cancelled():
                continue
            value, error = None, None
            try:
                with self._lock:
                    self._running[future] = me
                value = context.run(function)
            except BaseException as caught:  # handed to the loop as data
                error = caught
            self._end(future, value, error)

    def _end(self, future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
        again = False
        while True:
            try:
                with self._lock:
                    self._running.pop(future, None)
                    self._results.append((future, value, error))
                    wake, self._woken = again or not self._woken, True
                if wake:
                    self._loop.call_soon_threadsafe(self._deliver)
                return
            except TaskInterrupted:
                again = True  # an interrupt that came just after the task's end
            except RuntimeError:
                return  # the loop is closed: the process is ending

    def _deliver(self) -> None:
        with self._lock:
            self._woken = False
            results = list(self._results)
            self._results.clear()
        for future, value, error in results:
            if future.done():
                continue
            if error is None:
                future.set_result(value)
            elif isinstance(error, StopIteration):
                future.set_exception(RuntimeError(f"the task raised {error!r}"))
            else:
                future.set_exception(error)
