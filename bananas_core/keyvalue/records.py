"""Changing records with compare-and-set.

One transition is: index keys first, then an event page that says what is about to happen, then the
record itself under its version, then the page is confirmed and old index keys go. A conflict
starts over from what is there now. A crash leaves index keys too many and an unconfirmed page,
which readers check against the records (``events.py``).

A writer may also be slow: stopped, or its request late, for any time between two of its steps.
So nobody may delete a key that a record doesn't need *yet*. Whoever repairs first rewrites the
record under a new version (``touch``); what was planned on the old one then conflicts, and is
planned anew with keys of its own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import msgspec

from bananas_core import state
from bananas_core.errors import ResultBackendError, ResultBackendUnavailable
from bananas_core.job import Event, Job, Ready
from bananas_core.keyvalue import keys
from bananas_core.keyvalue.store import Change, Entry, KeyValueStore

TRIES: Final = 100
"""Conflicts on one record before the call gives up."""
BATCH: Final = 100
"""Records in one round of requests."""
PAGES: Final = 8
"""Pages of events that a record remembers."""

Transition = Callable[[str, Job | None], Job | None]
"""From id and record to the new record. The same object, or None: nothing changes. It may be
called again, after a conflict."""

Intent = Callable[[list[str]], Awaitable[None]]
"""Called with the ids that are about to be written, after they were read, before they are written;
once more after a conflict."""

_encode = msgspec.msgpack.Encoder().encode


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    """``confirmed``: these things happened; else they were about to, at ``at``."""

    at: float
    confirmed: bool
    events: tuple[Event, ...]


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The value of a record's key. ``pages``: numbers of the event pages that told of its last
    changes, by which a reader knows whether what an unconfirmed page says has happened."""

    job: Job
    pages: tuple[int, ...] = ()


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A record as it is stored."""

    job: Job
    pages: tuple[int, ...]
    entry: Entry


class _Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One record that is about to be written."""

    found: Found | None
    new: Job

    @property
    def old(self) -> Job | None:
        return None if self.found is None else self.found.job


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """A record before and after a transition; both the same if nothing changed."""

    old: Job | None
    new: Job | None


class Records:
    """Records of one store. ``guard`` as given to ``open``."""

    def __init__(self, store: KeyValueStore, rng: random.Random) -> None:
        self.store = store
        self.guard = True
        self.horizon = 0.0
        self._rng = rng

    async def get(self, ids: Sequence[str]) -> list[Job | None]:
        """Records in order."""
        return [None if found is None else found.job for found in await self.read(ids)]

    async def read(self, ids: Sequence[str]) -> list[Found | None]:
        """Records in order, with what ``touch`` needs."""
        entries = await self.store.get([keys.job(id) for id in ids])
        return [None if entry is None else _found(entry) for entry in entries]

    async def touch(self, found: Sequence[Found]) -> set[str]:
        """Give unchanged records a new version, so that what was planned on them conflicts.
        Those that had changed already are left alone; their ids are returned."""
        if not found:
            return set()
        answers = await self.store.write(
            [
                Change(key=one.entry.key, value=one.entry.value, version=one.entry.version)
                for one in found
            ]
        )
        return {one.job.id for one, version in zip(found, answers, strict=True) if version is None}

    def token(self) -> int:
        """A number that nobody else has, for the name of a key."""
        return self._rng.getrandbits(64)

    async def pause(self, attempt: int) -> None:
        """Wait a little before trying again after a conflict."""
        await asyncio.sleep(self._rng.random() * min(0.05, 0.0005 * 2**attempt))

    async def page(self, after: str, limit: int) -> tuple[list[Job], str | None]:
        """Some records in order of id, and where the next ones begin (None: no more)."""
        entries = await self.store.scan(keys.JOBS, after, limit)
        jobs = [_decode(entry.value).job for entry in entries]
        return jobs, entries[-1].key if len(entries) == limit else None

    async def change(
        self,
        ids: Sequence[str],
        transition: Transition,
        now: float,
        intent: Intent | None = None,
    ) -> dict[str, Changed]:
        """Apply a transition to each record.

        Raises:
            ResultBackendUnavailable: too many conflicts, or the store can't be reached; some
                may have been changed. Repeating is safe if the transition is.
        """
        done: dict[str, Changed] = {}
        unique = list(dict.fromkeys(ids))
        for begin in range(0, len(unique), BATCH):
            await self._change(unique[begin : begin + BATCH], transition, now, done, intent)
        return done

    async def _change(
        self,
        ids: list[str],
        transition: Transition,
        now: float,
        done: dict[str, Changed],
        intent: Intent | None,
    ) -> None:
        for attempt in range(TRIES):
            plans: list[_Plan] = []
            for id, found in zip(ids, await self.read(ids), strict=True):
                old = None if found is None else found.job
                new = transition(id, old)
                if new is None or new is old:
                    done[id] = Changed(old=old, new=old)
                else:
                    plans.append(_Plan(found=found, new=new))
            if not plans:
                return
            if intent is not None:
                await intent([plan.new.id for plan in plans])
            ids = await self._write(plans, now, done)
            if not ids:
                return
            await self.pause(attempt)
        raise ResultBackendUnavailable(
            f"{len(ids)} records changed under every one of {TRIES} tries; try again"
        )

    async def _write(
        self, plans: Sequence[_Plan], now: float, done: dict[str, Changed]
    ) -> list[str]:
        """Write the planned records; the ids of those that conflicted."""
        store = self.store
        index = [key for plan in plans for key in _index(plan.new) if key not in _index(plan.old)]
        if index:
            await store.write([Change(key=key, value=b"") for key in index])
        told = [state.event(plan.old, plan.new) for plan in plans]
        page = await self._announce([event for event in told if event is not None], now)
        number = None if page is None else keys.event_number(page.key)
        changes = [
            self._change_of(plan, None if event is None else number)
            for plan, event in zip(plans, told, strict=True)
        ]
        conflicts: list[str] = []
        events: list[Event] = []
        stale: list[str] = []
        for plan, event, version in zip(plans, told, await store.write(changes), strict=True):
            if version is None:
                conflicts.append(plan.new.id)
                continue
            done[plan.new.id] = Changed(old=plan.old, new=plan.new)
            if event is not None:
                events.append(event)
            stale += [key for key in _index(plan.old) if key not in _index(plan.new)]
        if page is not None:
            await self._confirm(page, events, now)
        if stale:
            await store.write([Change(key=key, value=None) for key in dict.fromkeys(stale)])
        return conflicts

    async def _announce(self, events: list[Event], now: float) -> Entry | None:
        if not events:
            return None
        return await self.publish(EventPage(at=now, confirmed=False, events=tuple(events)))

    async def _confirm(self, page: Entry, events: list[Event], now: float) -> None:
        """An empty page stays too: readers expect numbers without a gap. If a reader took this
        call for dead and closed its page, what that leaves out is told in a new one."""
        told = EventPage(at=now, confirmed=True, events=tuple(events))
        change = Change(key=page.key, value=_encode(told), version=page.version)
        if (await self.store.write([change]))[0] is not None or not events:
            return
        (entry,) = await self.store.get([page.key])
        known = () if entry is None else _decode_page(entry.value).events
        rest = tuple(event for event in events if event not in known)
        if rest:
            await self.publish(EventPage(at=now, confirmed=True, events=rest))

    async def publish(self, page: EventPage) -> Entry:
        """Append a page to the feed. A number that a reader has given up on is not used."""
        value = _encode(page)
        for attempt in range(TRIES):
            key = keys.events(await self.store.number(keys.EVENT_NUMBER))
            (version,) = await self.store.write([Change(key=key, value=value, version=0)])
            if version is not None:
                return Entry(key=key, value=value, version=version)
            await self.pause(attempt)
        raise ResultBackendUnavailable(f"no page of events to be had in {TRIES} tries; try again")

    def _change_of(self, plan: _Plan, page: int | None) -> Change:
        """The conditional write of a record; ``page`` tells of it."""
        pages = () if plan.found is None else plan.found.pages
        if page is not None:
            pages = (*pages, page)[-PAGES:]
        value = _encode(Kept(job=plan.new, pages=pages))
        if len(value) > self.store.capabilities.max_value:
            raise ResultBackendError(
                f"the record of job {plan.new.id} has {len(value)} bytes; this store takes "
                f"{self.store.capabilities.max_value}"
            )
        version = 0 if plan.found is None else plan.found.entry.version
        return Change(key=keys.job(plan.new.id), value=value, version=version)

    def calls(self, changed: Mapping[str, Changed]) -> dict[str, Job]:
        """Records about which something must be done because a call changed them."""
        return {
            id: item.new
            for id, item in changed.items()
            if item.new is not None
            and item.new is not item.old
            and state.calls_for(item.old, item.new, guard=self.guard) is not None
        }

    def ready(self, changed: Mapping[str, Changed]) -> list[Ready]:
        """What must be done because of a call: sends, if anybody has to, and follow-ups."""
        return [state.ready(job) for job in self.calls(changed).values()]


_decode = msgspec.msgpack.Decoder(Kept).decode
_decode_page = msgspec.msgpack.Decoder(EventPage).decode


def _found(entry: Entry) -> Found:
    kept = _decode(entry.value)
    return Found(job=kept.job, pages=kept.pages, entry=entry)


def _index(job: Job | None) -> list[str]:
    """Index keys that a record needs."""
    if job is None:
        return []
    return [key for key in (keys.due_of(job), keys.final_of(job)) if key is not None]
