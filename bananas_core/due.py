"""The duty that every worker has for all: what is due is sent, and what got lost is repaired."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Final

from bananas_core.clock import Clock
from bananas_core.errors import BananasError, ResultBackendError
from bananas_core.job import Retention
from bananas_core.pair import Pair
from bananas_core.settle import Sender
from bananas_core.unique import tidy

log = logging.getLogger("bananas.due")

EVERY: Final = 1.0
EVERY_IN_PAIRS: Final = 0.4
"""Where transport and ledger are apart nobody else sees that a job is due. Two workers that just
miss each other are 0.8 and 1.1 times this apart: less than a second, so no job is a second late."""
LIMIT: Final = 500
LOST_AFTER: Final = 60.0
"""A pending job whose message is not in its queue after this long is sent again, seconds."""
LOST_EVERY: Final = 15.0
PRUNE_EVERY: Final = 30.0
PRUNE_LIMIT: Final = 1000
PAUSE_PREFIX: Final = "pause/"


class DueLoop:
    """Runs ``due`` each second, or more often, unless another worker just did, and sends what it
    returns."""

    def __init__(
        self,
        pair: Pair,
        sender: Sender,
        queues: Sequence[str],
        *,
        clock: Clock,
        rng: random.Random,
        retention: Retention,
    ) -> None:
        self._pair = pair
        self._every = EVERY if pair.fused else EVERY_IN_PAIRS
        self._sender = sender
        self._queues = tuple(queues)
        self._clock = clock
        self._rng = rng
        self._retention = retention
        self._tidied = ""
        start = clock.monotonic()
        self._next_lost = start + LOST_EVERY
        self._next_prune = start + PRUNE_EVERY * rng.random()

    async def run(self) -> None:
        """Until cancelled. An outage is logged and waited out."""
        while True:
            try:
                await self.once()
            except BananasError as error:
                log.warning("due jobs wait: %s", error)
            await asyncio.sleep(self._every * self._rng.uniform(0.9, 1.1))

    async def once(self) -> None:
        """One round."""
        now = self._clock.monotonic()
        lost = {}
        if not self._pair.fused and now >= self._next_lost:
            self._next_lost = now + LOST_EVERY
            lost = await self._lost_queues()
        more = True
        while more:
            settled = self._sender.take()
            if not (settled or lost) and await self._just_ran():
                break
            try:
                ready, more = await self._pair.backend.due(LIMIT, settled=settled, lost=lost)
            except BaseException:
                self._sender.give_back(settled)
                raise
            lost = {}
            await self._sender.send(ready)
        if now >= self._next_prune:
            self._next_prune = now + PRUNE_EVERY
            while await self._pair.backend.prune(self._retention, PRUNE_LIMIT) >= PRUNE_LIMIT:
                await asyncio.sleep(0)
            self._tidied = await tidy(self._pair.backend, self._tidied)

    async def _just_ran(self) -> bool:
        last = await self._pair.backend.last_due()
        if last is None:
            return False
        return 0 <= await self._pair.backend.now() - last < self._every * 0.8

    async def _lost_queues(self) -> dict[str, float]:
        """Routing keys whose pending jobs may have no message any more, and how old those are."""
        now = await self._pair.backend.now()
        before = now - LOST_AFTER
        lost: dict[str, float] = {}
        for stats in await self._pair.transport.stats(self._queues):
            if stats.ready == 0 and stats.leased == 0:
                lost[stats.queue] = before
            elif stats.oldest is not None and stats.oldest < before:
                lost[stats.queue] = stats.oldest
            elif stats.oldest is not None:
                lost[stats.queue] = before
        return lost


class PauseWatch:
    """Which routing keys are paused: documents ``pause/{routing_key}``, read each second."""

    def __init__(self, pair: Pair, changed: Callable[[frozenset[str]], None]) -> None:
        self._pair = pair
        self._changed = changed
        self._paused: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Until cancelled. In an outage the last known flags hold."""
        while True:
            try:
                await self.once()
            except ResultBackendError as error:
                log.warning("pause flags are not read: %s", error)
            await asyncio.sleep(EVERY)

    async def once(self) -> None:
        """Read all flags; tell if they changed."""
        found: set[str] = set()
        after = ""
        while docs := await self._pair.backend.docs(PAUSE_PREFIX, after=after, limit=100):
            found.update(doc.key.removeprefix(PAUSE_PREFIX) for doc in docs)
            after = docs[-1].key
        if found != self._paused:
            self._paused = frozenset(found)
            self._changed(self._paused)
