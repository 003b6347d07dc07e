"""What all ``memory://`` objects of one name, namespace and process share."""

from __future__ import annotations

import asyncio
import os
from typing import Final
from weakref import WeakValueDictionary

from bananas_brokers.memory.bell import Bell
from bananas_brokers.memory.documents import Documents
from bananas_brokers.memory.ledger import Ledger
from bananas_brokers.memory.queues import Queues
from bananas_brokers.memory.records import Records
from bananas_brokers.memory.upkeep import Upkeep
from bananas_core.clock import Clock
from bananas_core.errors import ConfigurationError
from bananas_core.job import Verdict


class Store:
    """Everything that is kept, on the clock of whoever came first (L1). It lives as long as one
    object that was made for it does, open or not."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.bell = Bell()
        self.clear()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open = 0

    def clear(self) -> None:
        """Start with nothing."""
        self.records = Records(self.bell)
        self.queues = Queues()
        self.documents = Documents()
        self.ledger = Ledger(self.records)
        self.upkeep = Upkeep(self.records, self.documents)

    def now(self) -> float:
        return self.clock.now()

    def enter(self) -> asyncio.AbstractEventLoop:
        """A connection opens, in the loop that is returned.

        Raises:
            ConfigurationError: another event loop has a connection open.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not None and self._loop is not loop and not self._loop.is_closed():
            raise ConfigurationError(
                "this memory:// store is open in another event loop; close it there first, use "
                "another name (memory://other), or sqlite:// to share jobs between loops"
            )
        if self._loop is not loop:
            self._loop, self._open = loop, 0  # what a closed loop left open is gone with it
        self._open += 1
        return loop

    def leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """A connection closes that was opened in ``loop``."""
        if loop is self._loop:
            self._open -= 1
            if self._open == 0:
                self._loop = None
        self.bell.ring_all()

    def claim(self, session: str, job_id: str) -> Verdict:
        """T21: claim a pending record that was found without a message."""
        now = self.now()
        self.upkeep.know(session, now)
        return self.ledger.claim_pending(session, self.records.jobs[job_id], now)


_stores: Final[WeakValueDictionary[tuple[int, str, str], Store]] = WeakValueDictionary()
# The one global of this package: to be found by name within a process is what memory:// is for.
# A forked child gets stores of its own, or both would run the same jobs.


def find_store(name: str, namespace: str, clock: Clock) -> Store:
    """The store of this name, made if nobody has it yet."""
    key = (os.getpid(), name, namespace)
    store = _stores.get(key)
    if store is None:
        store = _stores[key] = Store(clock)
    return store
