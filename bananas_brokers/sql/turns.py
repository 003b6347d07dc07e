"""Receiving from several queues at once, none of which may starve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import merge
from itertools import islice
from typing import Final, TypeVar

R = TypeVar("R")

_EVERY: Final = 8
"""One in so many places goes to the queues in turn, whatever their priorities."""


class Turns:
    """Which queue may go first, so that none starves behind another's higher priorities."""

    def __init__(self) -> None:
        self._served = 0
        self._turn = 0

    def next(self) -> int | None:
        """The number of the queue whose turn it is; None: strictly by priority."""
        if self._served < _EVERY:
            return None
        self._served = 0
        self._turn += 1
        return self._turn

    def served(self, count: int) -> None:
        self._served += count


def best(
    queues: Sequence[Sequence[R]],
    place: Callable[[R], tuple[int, int]],
    limit: int,
    turn: int | None,
) -> list[R]:
    """The first ``limit`` rows of several sorted queues, as if they were one. With a ``turn``
    the first row of that queue, or of the next that has any, goes before all."""
    if len(queues) == 1:
        return list(queues[0][:limit])
    found = list(islice(merge(*queues, key=place), limit))
    if turn is None or not found:
        return found
    count = len(queues)
    first = next(queue[0] for queue in (queues[(turn + i) % count] for i in range(count)) if queue)
    return [first, *(row for row in found if row is not first)][:limit]
