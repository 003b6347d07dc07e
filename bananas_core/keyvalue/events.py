"""The event feed: numbered pages, written as an intent before the records change.

A page that was never confirmed belongs to a call that crashed or is still under way. While it is
young, readers wait before it. Later a reader closes it: what the records show to have happened
stays; records that don't show it are touched, so that the change can't come after all without a
page of its own. A number without a page is closed with an empty one. So a page that one reader
has passed never changes, and an event is told at least once, and in order for each job.

One gap is left: a ``put`` that is held up for longer than PATIENCE and then dies between its
record and its page tells nothing of the new job.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import Final

import msgspec

from bananas_core.errors import CursorExpired, ResultBackendUnavailable
from bananas_core.job import Event
from bananas_core.job import EventPage as Page
from bananas_core.keyvalue import keys
from bananas_core.keyvalue.records import PAGES, TRIES, EventPage, Found, Records
from bananas_core.keyvalue.store import Change, Entry

PATIENCE: Final = 5.0
"""Seconds after which an unconfirmed page, or a missing number, is not waited for any more."""
SCAN: Final = 50

_page = msgspec.msgpack.Decoder(EventPage).decode
_encode = msgspec.msgpack.Encoder().encode


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
            raise _expired(first)
        found: list[Event] = []
        now = await self._store.now()
        while len(found) < limit:
            entries = await self._store.scan(keys.EVENTS, keys.events(number - 1), SCAN)
            if not entries:
                break
            for entry in entries:
                page = _page(entry.value)
                open_ = not page.confirmed or keys.event_number(entry.key) != number
                if open_ and now - page.at < PATIENCE:
                    return Page(events=tuple(found), cursor=f"{number}.{offset}")
                if keys.event_number(entry.key) != number:
                    if number < await self._first():  # it was pruned since we began
                        raise _expired(await self._first())
                    await self._fill(range(number, keys.event_number(entry.key)), page.at)
                    break  # and look again: a page may have come just before
                if not page.confirmed:
                    closed = await self._close(entry, page)
                    if closed is None:
                        break
                    page = closed
                taken = page.events[offset : offset + limit - len(found)]
                found += taken
                if offset + len(taken) < len(page.events):
                    return Page(events=tuple(found), cursor=f"{number}.{offset + len(taken)}")
                number, offset = number + 1, 0
        return Page(events=tuple(found), cursor=f"{number}.{offset}")

    async def prune(self, before: float) -> None:
        """Forget pages older than ``before``."""
        while True:
            entries = await self._store.scan(keys.EVENTS, "", SCAN)
            old = list(takewhile(lambda entry: _page(entry.value).at < before, entries))
            if not old:
                return
            await self._pass(keys.event_number(old[-1].key) + 1)
            await self._store.write([Change(key=entry.key, value=None) for entry in old])
            if len(old) < SCAN:
                return

    async def _pass(self, first: int) -> None:
        """Let ``first`` be the first number that is kept. It never goes back: another caller may
        have pruned more meanwhile.

        Raises:
            ResultBackendUnavailable: too many conflicts; nothing is pruned yet.
        """
        for attempt in range(TRIES):
            (entry,) = await self._store.get([keys.PRUNED])
            if entry is not None and int(entry.value) >= first:
                return
            version = 0 if entry is None else entry.version
            change = Change(key=keys.PRUNED, value=str(first).encode(), version=version)
            if (await self._store.write([change]))[0] is not None:
                return
            await self._records.pause(attempt)
        raise ResultBackendUnavailable(f"others prune events in every one of {TRIES} tries")

    async def _first(self) -> int:
        (entry,) = await self._store.get([keys.PRUNED])
        return 1 if entry is None else int(entry.value)

    async def _end(self) -> int:
        """The number behind the last page. The counter itself would skip pages on their way."""
        now = await self._store.now()
        page = await self._records.publish(EventPage(at=now, confirmed=True, events=()))
        return keys.event_number(page.key) + 1

    async def _fill(self, numbers: Iterable[int], at: float) -> None:
        """Pages that never came; from now on they can't."""
        value = _encode(EventPage(at=at, confirmed=True, events=()))
        changes = [Change(key=keys.events(n), value=value, version=0) for n in numbers]
        await self._store.write(changes)

    async def _close(self, entry: Entry, page: EventPage) -> EventPage | None:
        """An unconfirmed page with what happened of it; None if it has changed meanwhile."""
        records = await self._records.read([event.id for event in page.events])
        happened, denied = [], {}
        for event, found in zip(page.events, records, strict=True):
            if _shows(event, found, keys.event_number(entry.key)):
                happened.append(event)
            elif found is not None:
                denied[event.id] = found
        if await self._records.touch(list(denied.values())):
            return None
        closed = EventPage(at=page.at, confirmed=True, events=tuple(happened))
        change = Change(key=entry.key, value=_encode(closed), version=entry.version)
        return closed if (await self._store.write([change]))[0] is not None else None


def _expired(first: int) -> CursorExpired:
    return CursorExpired(f"events before number {first} are pruned; start from the oldest")


def _shows(event: Event, found: Found | None, number: int) -> bool:
    """Whether a record was changed as the page of this number said. If only younger pages are
    remembered, or the record has been pruned since, it may have been: rather tell too much than
    too little."""
    if found is None:
        return event.old is not None
    return number in found.pages or (len(found.pages) == PAGES and found.pages[0] > number)


def _parts(cursor: str) -> tuple[int, int]:
    number, _, offset = cursor.partition(".")
    try:
        return int(number), int(offset or 0)
    except ValueError as error:
        raise CursorExpired(f"{cursor!r} is not a cursor of this ledger") from error
