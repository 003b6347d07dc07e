"""Changing records with compare-and-set.

One transition is: index keys first, then an event page that says what is about to happen, then the
record itself under its version, then the page is confirmed and old index keys go. A conflict
starts over from what is there now. A crash leaves index keys too many and an unconfirmed page,
which readers check against the records (``events.py``).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from bananas_core import state
from bananas_core.errors import ResultBackendError, ResultBackendUnavailable
from bananas_core.job import FINAL, Event, Job, JobState, Ready
from bananas_core.keyvalue import keys
from bananas_core.keyvalue.store import Change, KeyValueStore

TRIES: Final = 100
"""Conflicts on one record before the call gives up."""
BATCH: Final = 100
"""Records in one round of requests."""

Transition = Callable[[str, Job | None], Job | None]
"""From id and record to the new record. The same object, or None: nothing changes. It may be
called again, after a conflict."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Job).decode


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    """``confirmed``: these things happened; else they were about to, at ``at``."""

    at: float
    confirmed: bool
    events: tuple[Event, ...]


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
        entries = await self.store.get([keys.job(id) for id in ids])
        return [None if entry is None else _decode(entry.value) for entry in entries]

    async def page(self, after: str, limit: int) -> tuple[list[Job], str | None]:
        """Some records in order of id, and where the next ones begin (None: no more)."""
        entries = await self.store.scan(keys.JOBS, after, limit)
        jobs = [_decode(entry.value) for entry in entries]
        return jobs, entries[-1].key if len(entries) == limit else None

    async def change(
        self, ids: Sequence[str], transition: Transition, now: float
    ) -> dict[str, Changed]:
        """Apply a transition to each record.

        Raises:
            ResultBackendUnavailable: too many conflicts, or the store can't be reached; some
                may have been changed. Repeating is safe if the transition is.
        """
        done: dict[str, Changed] = {}
        unique = list(dict.fromkeys(ids))
        for begin in range(0, len(unique), BATCH):
            await self._change(unique[begin : begin + BATCH], transition, now, done)
        return done

    async def _change(
        self,
        ids: list[str],
        transition: Transition,
        now: float,
        done: dict[str, Changed],
    ) -> None:
        for attempt in range(TRIES):
            entries = await self.store.get([keys.job(id) for id in ids])
            planned: list[tuple[str, Job | None, Job, int]] = []
            for id, entry in zip(ids, entries, strict=True):
                old = None if entry is None else _decode(entry.value)
                new = transition(id, old)
                if new is None or new is old:
                    done[id] = Changed(old=old, new=old)
                else:
                    planned.append((id, old, new, 0 if entry is None else entry.version))
            if not planned:
                return
            conflicts = await self._write(planned, now, done)
            if not conflicts:
                return
            ids = conflicts
            await asyncio.sleep(self._rng.random() * min(0.05, 0.0005 * 2**attempt))
        raise ResultBackendUnavailable(
            f"{len(ids)} records changed under every one of {TRIES} tries; try again"
        )

    async def _write(
        self,
        planned: Sequence[tuple[str, Job | None, Job, int]],
        now: float,
        done: dict[str, Changed],
    ) -> list[str]:
        """Write the planned records; the ids of those that conflicted."""
        store = self.store
        changes = [
            Change(key=keys.job(id), value=self._packed(new), version=version)
            for id, _, new, version in planned
        ]
        index = [key for _, old, new, _ in planned for key in _index(old, new)]
        if index:
            await store.write([Change(key=key, value=b"") for key in index])
        planned_events = [state.event(old, new) for _, old, new, _ in planned]
        page = await self._announce([e for e in planned_events if e is not None], now)
        answers = await store.write(changes)
        conflicts: list[str] = []
        events: list[Event] = []
        stale: list[str] = []
        for (id, old, new, _), event, version in zip(planned, planned_events, answers, strict=True):
            if version is None:
                conflicts.append(id)
                continue
            done[id] = Changed(old=old, new=new)
            if event is not None:
                events.append(event)
            if old is not None:
                stale += [key for key in _index(None, old) if key not in _index(None, new)]
        if page is not None:
            await self._confirm(page, events, now)
        if stale:
            await store.write([Change(key=key, value=None) for key in dict.fromkeys(stale)])
        return conflicts

    async def _announce(self, events: list[Event], now: float) -> str | None:
        if not events:
            return None
        key = keys.events(await self.store.number(keys.EVENT_NUMBER))
        page = EventPage(at=now, confirmed=False, events=tuple(events))
        await self.store.write([Change(key=key, value=_encode(page))])
        return key

    async def _confirm(self, key: str, events: list[Event], now: float) -> None:
        """An empty page stays too: readers expect numbers without a gap."""
        page = EventPage(at=now, confirmed=True, events=tuple(events))
        await self.store.write([Change(key=key, value=_encode(page))])

    def _packed(self, job: Job) -> bytes:
        value = _encode(job)
        if len(value) > self.store.capabilities.max_value:
            raise ResultBackendError(
                f"the record of job {job.id} has {len(value)} bytes; this store takes "
                f"{self.store.capabilities.max_value}"
            )
        return value

    def ready(self, changed: dict[str, Changed]) -> list[Ready]:
        """What a call made pending and has to be sent."""
        if not self.guard:
            return []
        found = []
        for item in changed.values():
            new = item.new
            if new is None or new is item.old or new.state is not JobState.PENDING:
                continue
            old = item.old
            if old is None or old.state is not JobState.PENDING or old.gen != new.gen:
                found.append(state.ready(new))
        return found


def _index(old: Job | None, new: Job) -> list[str]:
    """Index keys that ``new`` needs and ``old`` did not have."""
    found = []
    at = new.due_at
    if at is not None and (old is None or old.due_at != at):
        found.append(keys.due(at, new.id))
    if new.state in FINAL and new.finished_at is not None:
        key = keys.final(new.state, new.finished_at, new.id)
        if old is None or old.state is not new.state or old.finished_at != new.finished_at:
            found.append(key)
    return found
