"""A pair that is open on one event loop, with the producer's side on top of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from bananas_core.clock import Clock
from bananas_core.codec import Codecs
from bananas_core.job import Ready
from bananas_core.pair import Pair
from bananas_core.plugins import PluginManager
from bananas_core.results import ResultBackend
from bananas_core.submit import Submitter


class Connection:
    """Made on the loop that it is used on. Serves handles as their ``Desk``."""

    def __init__(
        self, pair: Pair, plugins: PluginManager, codecs: Codecs, *, clock: Clock, max_payload: int
    ) -> None:
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

    async def send_ready(self, ready: Sequence[Ready]) -> None:
        """Send what a signal made pending."""
        await self.submitter.send_ready(ready)
