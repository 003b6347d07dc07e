"""Priorities on brokers that tell only a few levels apart, each a queue of its own: a band.

The message keeps its exact priority, and a worker sorts what it has claimed by it.
"""

from __future__ import annotations

from typing import Final

FAIR: Final = 16
"""Every so many fetches one begins at a lower band, so that none starves."""


def band_of(priority: int, levels: int, *, head: bool = False) -> int:
    """The band of a priority, 0 the lowest; heads go to the top band."""
    return levels - 1 if head else priority * levels // 101


def band_order(turn: int, levels: int) -> tuple[int, ...]:
    """In which order fetch number ``turn`` (from 1) asks the bands: the highest first, but for
    every ``FAIR``-th, which begins at one of the lower bands, each of them in its turn, and goes
    on downwards from there."""
    first = levels - 1
    if turn % FAIR == 0 and levels > 1:
        first = levels - 2 - (turn // FAIR - 1) % (levels - 1)
    return (*range(first, -1, -1), *range(levels - 1, first, -1))
