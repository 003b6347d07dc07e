"""One feed of events out of several: a cursor is theirs, joined.

Each feed keeps its own order, and so do the events of a job, which all are in one. Among jobs of
different feeds the order is that of time within a page.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from bananas_brokers.redis.shards import portions
from bananas_core.errors import ResultBackendError
from bananas_core.job import Event, EventPage

_JOIN = "~"


class Feed(Protocol):
    async def __call__(self, after: str, *, limit: int = 1000) -> EventPage: ...


async def read(feeds: Sequence[Feed], after: str, limit: int) -> EventPage:
    """L41 over all feeds. Whoever is behind is asked first.

    Raises:
        CursorExpired: one of them has deleted what would come next.
        ResultBackendError: not a cursor of so many feeds.
    """
    cursors = _split(after, len(feeds))
    found: list[Event] = []
    open_ = list(range(len(feeds)))
    while open_ and len(found) < limit:
        behind = sorted(open_, key=lambda feed: _stamp(cursors[feed]))
        shares = portions(limit - len(found), len(behind), 0)
        asked = [(feed, share) for feed, share in zip(behind, shares, strict=True) if share]
        pages = await asyncio.gather(
            *(feeds[feed](cursors[feed], limit=share) for feed, share in asked)
        )
        for (feed, share), page in zip(asked, pages, strict=True):
            cursors[feed] = page.cursor
            found += page.events
            if len(page.events) < share:
                open_.remove(feed)
    found.sort(key=lambda event: event.at)
    return EventPage(events=tuple(found), cursor=_JOIN.join(cursors))


def _split(after: str, feeds: int) -> list[str]:
    if after in ("", "$"):
        return [after] * feeds
    cursors = after.split(_JOIN)
    if len(cursors) != feeds:
        raise ResultBackendError(f"{after!r:.80} is not an event cursor of this ledger")
    return cursors


def _stamp(cursor: str) -> int:
    """When the entry was written, in milliseconds, by the server's clock."""
    stamp = cursor.partition("-")[0]
    return int(stamp) if stamp.isdigit() else 0
