"""One background event loop for code that has none: blocking twins run the same async code.

asyncio is imported by whoever needs it first: `import bananas` would take twice as long with it.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from bananas_core.errors import BananasError

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


class Portal:
    """An event loop in a daemon thread, started when first used.

    After a fork the child starts a loop of its own: threads don't survive a fork.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        if hasattr(os, "register_at_fork"):
            forget = weakref.WeakMethod(self._forget)
            os.register_at_fork(after_in_child=lambda: (f := forget()) and f())

    @property
    def running(self) -> bool:
        """Whether the loop runs in this process."""
        return self._loop is not None

    def call(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine function on the loop and wait for it. From any thread.

        Raises:
            BananasError: called on a thread that runs an event loop, which would stand still.
        """
        refuse_in_loop()
        return wait_for(self._start(), function)

    def close(self) -> None:
        """Stop the loop. A later call starts a new one."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                import asyncio

                loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._run, args=(loop,), name="bananas-portal", daemon=True
                )
                self._thread.start()
                self._loop = loop
            return self._loop

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        import asyncio

        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._loop = self._thread = None


def refuse_in_loop() -> None:
    """Raises BananasError when this thread runs an event loop."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise BananasError(
        "a blocking call inside a running event loop would stop that loop; "
        "await the async method of the same name instead (submit, result, …)"
    )


def wait_for(loop: asyncio.AbstractEventLoop, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine function on a loop of another thread; an interrupted wait cancels it."""
    import asyncio

    future = asyncio.run_coroutine_threadsafe(function(), loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
