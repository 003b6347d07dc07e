"""What both memory drivers do to open, close and take turns."""

from __future__ import annotations

import asyncio

from bananas_brokers.memory.settings import Settings
from bananas_brokers.memory.store import Store, find_store
from bananas_core.clock import Clock, SystemClock
from bananas_core.errors import BananasError


class Connection:
    """One object's hold on its store; it keeps the store alive."""

    def __init__(
        self,
        settings: Settings,
        namespace: str,
        clock: Clock | None,
        unavailable: type[BananasError],
    ) -> None:
        self.key = (settings.name, namespace)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clock = clock or SystemClock()
        self._unavailable = unavailable
        self._store = find_store(*self.key, self._clock)

    @property
    def is_open(self) -> bool:
        return self._loop is not None

    def open(self) -> None:
        """Safe to repeat. A forked child finds a store of its own here."""
        if not self.is_open:
            self._store = find_store(*self.key, self._clock)
            self._loop = self._store.enter()

    def close(self) -> None:
        """Safe to repeat."""
        loop, self._loop = self._loop, None
        if loop is not None:
            self._store.leave(loop)

    async def turn(self) -> Store:
        """Let other tasks run, then the store: what follows until the next ``await`` is atomic.
        A call that is cancelled here has not happened (L4, T4).

        Raises:
            BananasError: not open.
        """
        await asyncio.sleep(0)
        return self.store()

    def store(self) -> Store:
        """The store, without giving way."""
        if not self.is_open:
            raise self._unavailable(f"memory://{self.key[0]} is not open; call open() first")
        return self._store
