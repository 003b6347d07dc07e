"""The event feed: numbered pages, written as an intent before the records change.

A page that was never confirmed belongs to a call that crashed or is still under way. While it is
young, readers wait before it; later they ask the records whether its events happened. So an event
is told at least once, and in order for each job, without anything written twice on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from bananas_core.errors import CursorExpired
from bananas_core.job import Event, Job
from bananas_core.job import EventPage as Page
from bananas_core.keyvalue import keys
from bananas_core.keyvalue.records import EventPage, Records
from bananas_core.keyvalue.store import Change

PATIENCE: Final = 5.0
"""Seconds after which an unconfirmed page, or a missing number, is not waited for any more."""
PAGES: Final = 50

_page = msgspec.msgpack.Decoder(EventPage).decode


class Feed:
    """Reads and prunes events. A cursor is ``{number}.{offset}``: where the next event stands."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._store = records.store

    async def read(self, after: str, limit: int) -> Page:
        """L41."""
        if after == "$":
            return Page(events=(), cursor=f"{await self._end()}.0")
        first = await self._first()
        number, offset = (first, 0) if after == "" else _parts(after)
        if number < first:
            raise CursorExpired(f"events before number {first} are pruned; start from the oldest")
        found: list[Event] = []
        now = await self._store.now()
        while len(found) < limit:
            entries = await self._store.scan(keys.EVENTS, keys.events(number - 1), PAGES)
            if not entries:
                break
            for entry in entries:
                page = _page(entry.value)
                if _number(entry.key) != number and now - page.at < PATIENCE:
                    return Page(events=tuple(found), cursor=f"{number}.{offset}")
                if not page.confirmed and now - page.at < PATIENCE:
                    return Page(events=tuple(found), cursor=f"{number}.{offset}")
                if _number(entry.key) != number:
                    number, offset = _number(entry.key), 0
                events = page.events if page.confirmed else await self._happened(page.events)
                taken = events[offset : offset + limit - len(found)]
                found += taken
                if offset + len(taken) < len(events):
                    return Page(events=tuple(found), cursor=f"{number}.{offset + len(taken)}")
                number, offset = number + 1, 0
        return Page(events=tuple(found), cursor=f"{number}.{offset}")

    async def prune(self, before: float) -> None:
        """Forget pages older than ``before``."""
        while True:
            entries = await self._store.scan(keys.EVENTS, "", PAGES)
            old = [entry for entry in entries if _page(entry.value).at < before]
            if not old:
                return
            last = _number(old[-1].key)
            await self._store.write([Change(key=keys.PRUNED, value=str(last + 1).encode())])
            await self._store.write([Change(key=entry.key, value=None) for entry in old])
            if len(old) < PAGES:
                return

    async def _first(self) -> int:
        (entry,) = await self._store.get([keys.PRUNED])
        return 1 if entry is None else int(entry.value)

    async def _end(self) -> int:
        """The number behind the last page. The counter itself would skip pages on their way."""
        number = await self._store.number(keys.EVENT_NUMBER)
        now = await self._store.now()
        page = EventPage(at=now, confirmed=True, events=())
        value = msgspec.msgpack.encode(page)
        await self._store.write([Change(key=keys.events(number), value=value)])
        return number + 1

    async def _happened(self, events: Sequence[Event]) -> tuple[Event, ...]:
        """Those events of an unconfirmed page whose records show that they came about."""
        jobs = await self._records.get([event.id for event in events])
        return tuple(e for e, job in zip(events, jobs, strict=True) if _shows(job, e))


def _shows(job: Job | None, event: Event) -> bool:
    if job is None:
        return False
    if event.old is None:
        return True
    later = (job.changed_at, job.fence) > (event.at, event.fence)
    return later or (job.state is event.new and job.fence == event.fence)


def _number(key: str) -> int:
    return int(key.removeprefix(keys.EVENTS))


def _parts(cursor: str) -> tuple[int, int]:
    number, _, offset = cursor.partition(".")
    try:
        return int(number), int(offset or 0)
    except ValueError as error:
        raise CursorExpired(f"{cursor!r} is not a cursor of this ledger") from error
