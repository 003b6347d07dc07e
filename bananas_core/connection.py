"""A pair that is open on one event loop, with the producer's side on top of it; and which of them
an app has."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from bananas_core.clock import Clock
from bananas_core.codec import Codecs
from bananas_core.errors import ConfigurationError
from bananas_core.job import Ready
from bananas_core.options import Submission
from bananas_core.plugins import PluginManager
from bananas_core.portal import Portal, refuse_in_loop, wait_for

if TYPE_CHECKING:
    from bananas_core.pair import Pair
    from bananas_core.results import ResultBackend

T = TypeVar("T")


def pinned(tx: Any) -> Any:
    """The connection itself: some libraries give out a proxy that is another one on each thread."""
    return getattr(getattr(tx, "cursor", None), "__self__", tx)


class Connection:
    """Made on the loop that it is used on. Serves handles as their ``Desk``, and workflows as
    their ``Door``."""

    def __init__(
        self, pair: Pair, plugins: PluginManager, codecs: Codecs, *, clock: Clock, max_payload: int
    ) -> None:
        # Not at `import bananas`, of which asyncio alone would be half.
        import asyncio

        from bananas_core.submit import Submitter

        self.pair = pair
        self.codecs = pair.codecs = codecs
        self.max_payload = max_payload
        self.loop = asyncio.get_running_loop()
        self.submitter = Submitter(pair, plugins, codecs, clock=clock)
        self._pid = os.getpid()
        self._lock = asyncio.Lock()
        self._open = False

    @property
    def backend(self) -> ResultBackend:
        """The open ledger."""
        return self.pair.backend

    @property
    def alive(self) -> bool:
        """Whether its loop runs in this process; False after a fork."""
        return self._pid == os.getpid() and self.loop.is_running()

    async def open(self) -> None:
        """Open the pair. Safe to repeat, also at the same time."""
        async with self._lock:
            if not self._open:
                await self.pair.open()
                self._open = True

    async def close(self) -> None:
        """Finish what was submitted and close the pair. Safe to repeat."""
        async with self._lock:
            if self._open:
                self._open = False
                try:
                    await self.submitter.close()
                finally:
                    await self.pair.close()

    async def submit(self, jobs: Sequence[Submission], *, tx: Any = None) -> list[str]:
        """Record and send; see ``Submitter.submit``."""
        return await self.submitter.submit(jobs, tx=tx)

    async def send_ready(self, ready: Sequence[Ready]) -> None:
        """Send what a signal made pending."""
        await self.submitter.send_ready(ready)


class Connections:
    """Those of one app: one on the loop that opened it, and one on a background loop for blocking
    calls elsewhere. ``make`` builds one for the running loop, not open yet."""

    def __init__(self, make: Callable[[], Connection]) -> None:
        self._make = make
        self._own: Connection | None = None
        self._portal = Portal()
        self._blocking: Connection | None = None

    @property
    def own(self) -> Connection | None:
        """The one that ``open`` made, while it is open."""
        return self._own

    @property
    def background(self) -> bool:
        """Whether the background loop runs."""
        return self._portal.running

    async def open(self) -> None:
        """Connect on the running event loop. Safe to repeat.

        Raises:
            ConfigurationError: a setting is wrong, or it is open on another loop.
            TransportUnavailable, ResultBackendUnavailable: can't be reached.
        """
        import asyncio

        connection = self._own
        if connection is None or not connection.alive:
            connection = self._own = self._make()
        elif connection.loop is not asyncio.get_running_loop():
            raise ConfigurationError("the app is open on another event loop; close it there first")
        try:
            await connection.open()
        except BaseException:
            if self._own is connection:
                self._own = None
            raise

    async def close(self) -> None:
        """Finish what was submitted, and disconnect. Safe to repeat."""
        connection, self._own = self._own, None
        if connection is not None and connection.alive:
            await connection.close()

    def close_blocking(self) -> None:
        """Disconnect what blocking calls opened. Safe to repeat."""
        connection, self._blocking = self._blocking, None
        if self._portal.running:
            if connection is not None and connection.alive:
                self._portal.call(connection.close)
            self._portal.close()

    def here(self) -> Connection:
        """The open one. Raises ConfigurationError if there is none."""
        if self._own is None:
            raise ConfigurationError("the app is not open: use `async with app:` or app.open()")
        return self._own

    def elsewhere(self, function: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
        """Call it on the loop that has the app open, if it runs (a ``def`` task in a worker, say),
        else on the background loop, and wait.

        Raises:
            BananasError: called on a thread that runs an event loop.
        """
        refuse_in_loop()
        connection = self._own
        if connection is not None and connection.alive:
            return wait_for(connection.loop, lambda: function(connection))
        return self._portal.call(lambda: self._with_blocking(function))

    async def _with_blocking(self, function: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
        connection = self._blocking
        if connection is None or not connection.alive:
            connection = self._blocking = self._make()
        try:
            await connection.open()
        except BaseException:
            self._blocking = None
            raise
        return await function(connection)
