"""Claims that wait for a free slot in this worker, and how many more it may take."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Sequence
from typing import Final

from bananas_core.job import Claim

AHEAD_SECONDS: Final = 0.05
"""Claim ahead at most this much work, so that a priority inversion has that bound."""
AHEAD_FACTOR: Final = 3
"""… and at most this many times the concurrency."""
STALLED: Final = 1.0
"""Claims that waited this long for a slot are handed back, so that others can run them."""


class Backlog:
    """A queue for each priority in use; equals in order of arrival."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._queues: dict[int, deque[tuple[float, Claim]]] = {}
        self._priorities: list[int] = []
        """Those of the queues that are not empty, ascending."""
        self._count = 0
        self._average: float | None = None

    def __len__(self) -> int:
        return self._count

    def push(self, claims: Sequence[Claim], now: float) -> None:
        """Take claims; ``now`` in monotonic seconds."""
        for claim in claims:
            queue = self._queues.get(claim.priority)
            if queue is None:
                queue = self._queues[claim.priority] = deque()
                insort(self._priorities, claim.priority)
            queue.append((now, claim))
        self._count += len(claims)

    def pop(self) -> Claim:
        """The most important claim."""
        return self.take(1)[0]

    def take(self, most: int) -> list[Claim]:
        """Up to ``most`` claims, the most important first."""
        taken: list[Claim] = []
        while self._priorities and len(taken) < most:
            priority = self._priorities[-1]
            queue = self._queues[priority]
            for _ in range(min(len(queue), most - len(taken))):
                taken.append(queue.popleft()[1])
            if not queue:
                self._forget(priority)
        self._count -= len(taken)
        return taken

    def clear(self) -> list[Claim]:
        """Take all out."""
        taken = [claim for queue in self._queues.values() for _, claim in queue]
        self._queues.clear()
        self._priorities.clear()
        self._count = 0
        return taken

    def stalled(self, now: float) -> list[Claim]:
        """Take out what has waited too long."""
        old: list[Claim] = []
        for priority in list(self._priorities):
            queue = self._queues[priority]
            while queue and now - queue[0][0] > STALLED:
                old.append(queue.popleft()[1])
            if not queue:
                self._forget(priority)
        if old:
            self._count -= len(old)
            self._average = None
        return old

    def ended(self, count: int, duration: float) -> None:
        """So many jobs took ``duration`` seconds on average."""
        average = self._average
        weight = 1.0 - 0.9 ** min(count, 50)
        self._average = duration if average is None else average + weight * (duration - average)

    def capacity(self, running: int) -> int:
        """How many claims to fetch now; 0 while more than half of the room is taken and
        nothing is idle, so that not every freed slot costs a round trip."""
        ahead = 0
        if self._average is not None:
            fits = int(self._concurrency * AHEAD_SECONDS / max(self._average, 1e-4))
            ahead = min(AHEAD_FACTOR * self._concurrency, fits)
        held = running + self._count
        room = self._concurrency + ahead - held
        if running >= self._concurrency and 2 * room < ahead:
            return 0
        return max(0, room)

    def _forget(self, priority: int) -> None:
        del self._queues[priority]
        self._priorities.remove(priority)
