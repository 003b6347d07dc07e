"""How many jobs a receive takes from which shard: the most important first, equals evenly. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Level(NamedTuple):
    """What a shard has of one priority in one queue. ``front``: 0 if a head is in front, else since
    when the first entry is ready."""

    level: int
    entries: int
    front: float


def allot(looks: Sequence[Sequence[Level]], limit: int) -> list[int]:
    """How many to take from each shard of one queue; ``looks``: its levels there, highest first."""
    shares = [0] * len(looks)
    left = limit
    for level in sorted({found.level for levels in looks for found in levels}, reverse=True):
        here = [
            (found.front, shard, found.entries)
            for shard, levels in enumerate(looks)
            for found in levels
            if found.level == level
        ]
        for shard, share in _evenly(sorted(here), left):
            shares[shard] += share
            left -= share
        if left <= 0:
            break
    return shares


def lowest(levels: Sequence[Level], share: int) -> int:
    """The priority down to which a share of one shard goes. Some of the entries may be of jobs that
    are gone: then less is taken, and nothing of a lower priority in their place."""
    left = share
    for level in levels:
        left -= level.entries
        if left <= 0:
            return level.level
    return levels[-1].level if levels else 0


def allot_all(
    looks: Sequence[Sequence[Sequence[Level]]], limit: int, first: int
) -> dict[int, list[int]]:
    """The same for several queues, of which none starves another: queue → shares. ``looks``: by
    shard, then by queue; ``first``: the queue whose turn it is."""
    queues = len(looks[0]) if looks else 0
    order = [(first + i) % queues for i in range(queues)]
    there = {queue: [by_queue[queue] for by_queue in looks] for queue in order}
    has = {queue: sum(one.entries for levels in there[queue] for one in levels) for queue in order}
    wanted = dict.fromkeys(order, 0)
    left = limit
    for i, queue in enumerate(order):
        wanted[queue] = min(has[queue], -(-left // (queues - i)))
        left -= wanted[queue]
    for queue in order:  # what others did not need
        more = min(has[queue] - wanted[queue], left)
        wanted[queue] += more
        left -= more
    return {queue: allot(there[queue], wanted[queue]) for queue in order if wanted[queue]}


def _evenly(here: Sequence[tuple[float, int, int]], most: int) -> list[tuple[int, int]]:
    """Shares of shards that have equals; what is odd goes to who is first."""
    shares = dict.fromkeys((shard for _, shard, _ in here), 0)
    left = most
    while left > 0:
        open_ = [(shard, n - shares[shard]) for _, shard, n in here if n > shares[shard]]
        if not open_:
            break
        each = max(1, left // len(open_))
        for shard, room in open_:
            part = min(each, room, left)
            shares[shard] += part
            left -= part
    return list(shares.items())
