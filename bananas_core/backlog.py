"""Claims that wait for a free slot in this worker, and how many more it may take."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Final

from bananas_core.job import Claim

AHEAD_SECONDS: Final = 0.05
"""Claim ahead at most this much work, so that a priority inversion has that bound."""
AHEAD_FACTOR: Final = 2
"""… and at most this many times the concurrency."""
STALLED: Final = 1.0
"""Claims that waited this long for a slot are handed back, so that others can run them."""


class Backlog:
    """A heap by priority; equals in order of arrival."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._heap: list[tuple[int, int, float, Claim]] = []
        self._count = 0
        self._average: float | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, claims: Sequence[Claim], now: float) -> None:
        """Take claims; ``now`` in monotonic seconds."""
        for claim in claims:
            self._count += 1
            heapq.heappush(self._heap, (-claim.priority, self._count, now, claim))

    def pop(self) -> Claim:
        """The most important claim."""
        return heapq.heappop(self._heap)[3]

    def clear(self) -> list[Claim]:
        """Take all out."""
        taken = [item[3] for item in self._heap]
        self._heap.clear()
        return taken

    def stalled(self, now: float) -> list[Claim]:
        """Take out what has waited too long."""
        old = [item[3] for item in self._heap if now - item[2] > STALLED]
        if old:
            self._heap = [item for item in self._heap if now - item[2] <= STALLED]
            heapq.heapify(self._heap)
            self._average = None
        return old

    def ended(self, duration: float) -> None:
        """A job took this many seconds."""
        average = self._average
        self._average = duration if average is None else average + 0.1 * (duration - average)

    def capacity(self, running: int) -> int:
        """How many claims to fetch now; 0 while more than half of the room is taken and
        nothing is idle, so that not every freed slot costs a round trip."""
        ahead = 0
        if self._average is not None:
            fits = int(self._concurrency * AHEAD_SECONDS / max(self._average, 1e-4))
            ahead = min(AHEAD_FACTOR * self._concurrency, fits)
        held = running + len(self._heap)
        room = self._concurrency + ahead - held
        if running >= self._concurrency and 2 * room < ahead:
            return 0
        return max(0, room)
