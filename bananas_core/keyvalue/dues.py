"""What is due: an index by time, and the reconciler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from bananas_core import state
from bananas_core.job import Job, JobState, Ready, ReadyKind, Settled
from bananas_core.keyvalue import keys
from bananas_core.keyvalue.records import Records
from bananas_core.keyvalue.sessions import Sessions
from bananas_core.keyvalue.store import Change, Entry

PAGE: Final = 200
AGAIN: Final = 5.0
"""Seconds between looks for a record that is not there yet."""
GIVE_UP: Final = 600.0
"""Seconds after which it is taken for granted that it will never be there."""


class LastDue(msgspec.Struct, frozen=True, kw_only=True):
    """When ``due`` ran last, and until when no claim lapses."""

    at: float
    grace_until: float = 0.0


_encode = msgspec.msgpack.Encoder().encode
_last_due = msgspec.msgpack.Decoder(LastDue).decode


class Dues:
    """``due``."""

    def __init__(self, records: Records, sessions: Sessions) -> None:
        self._records = records
        self._sessions = sessions
        self._store = records.store

    async def run(
        self, limit: int, settled: Sequence[Settled], lost: Mapping[str, float]
    ) -> tuple[list[Ready], bool]:
        """L33-L37."""
        now = await self._store.now()
        await self.settle(settled, now)
        allowed = await self._remember(now)
        calls, count, more = await self._sessions.lapse(now, limit, allowed)
        looked, more_due = await self._look(max(0, limit - count), now)
        calls.update(looked)
        if lost and self._records.guard:
            calls.update(await self._lost(lost, max(0, limit - count), now, calls))
        return [state.ready(job) for job in calls.values()], more or more_due

    async def settle(self, settled: Sequence[Settled], now: float) -> None:
        """L9."""
        items: dict[str, list[Settled]] = {}
        for item in settled:
            items.setdefault(item.id, []).append(item)

        def settle(id: str, job: Job | None) -> Job | None:
            if job is None:
                return None
            for item in items[id]:
                job = state.settle(job, item)
            return job

        if items:
            await self._records.change(list(items), settle, now)

    async def last(self) -> float | None:
        """L44."""
        (entry,) = await self._store.get([keys.LAST_DUE])
        return None if entry is None else _last_due(entry.value).at

    async def _remember(self, now: float) -> bool:
        """Note this run; whether claims may lapse now."""
        (entry,) = await self._store.get([keys.LAST_DUE])
        grace = 0.0
        if entry is not None:
            last = _last_due(entry.value)
            grace = last.grace_until
            if now - last.at > state.DUE_GAP:
                grace = now + state.CLAIM_TTL
        value = _encode(LastDue(at=now, grace_until=grace))
        version = 0 if entry is None else entry.version
        await self._store.write([Change(key=keys.LAST_DUE, value=value, version=version)])
        return now >= grace

    async def _look(self, limit: int, now: float) -> tuple[dict[str, Job], bool]:
        """Look at records whose time has come; forget index keys that nobody needs."""
        calls: dict[str, Job] = {}
        seen, after = 0, ""
        while True:
            entries = await self._store.scan(keys.DUE, after, PAGE)
            due = [entry for entry in entries if keys.due_parts(entry.key)[0] <= now]
            taken = due[: limit - seen]
            if not taken:
                return calls, bool(due)
            ids = [keys.due_parts(entry.key)[1] for entry in taken]
            kinds: dict[str, ReadyKind | None] = {}

            def look(
                id: str, job: Job | None, kinds: dict[str, ReadyKind | None] = kinds
            ) -> Job | None:
                if job is None:
                    return None
                kinds[id], new = state.look(job, now, guard=self._records.guard)
                return new

            changed = await self._records.change(ids, look, now)
            moved = {id: item.new for id, item in changed.items() if item.new is not item.old}
            known = {id for id, item in changed.items() if item.new is not None}
            calls.update({id: job for id, job in moved.items() if kinds.get(id) and job})
            seen += len(moved)
            await self._forget(taken, known, set(moved), now)
            if len(due) < len(entries) or len(entries) < PAGE:
                return calls, len(taken) < len(due)
            after = taken[-1].key

    async def _forget(
        self, entries: Sequence[Entry], known: set[str], moved: set[str], now: float
    ) -> None:
        """Delete index keys that nobody needs, nor can come to need: whoever wrote one may still
        be on the way to its record, so that gets a new version first, unless we just gave it one.
        A record that has come only since we looked may have no other key left than the one by
        which we looked in vain, so that stays for the next time.
        """
        ids = [keys.due_parts(entry.key)[1] for entry in entries]
        records = await self._records.read(list(dict.fromkeys(ids)))
        found = {one.job.id: one for one in records if one is not None}
        stale, touched = [], {}
        for entry, id in zip(entries, ids, strict=True):
            if id not in found:
                await self._postpone(entry, now)
            elif id in known and keys.due_of(found[id].job) != entry.key:
                stale.append((entry, id))
                if id not in moved:
                    touched[id] = found[id]
        kept = await self._records.touch(list(touched.values()))
        gone = [
            Change(key=entry.key, value=None, version=entry.version)
            for entry, id in stale
            if id not in kept
        ]
        if gone:
            await self._store.write(gone)

    async def _postpone(self, entry: Entry, now: float) -> None:
        """There is no record, so a ``put`` crashed, or has come only so far: look again later.
        The value of the new key says since when."""
        at, id, mark = keys.due_parts(entry.key)
        since = float(entry.value or at)
        if now - since < GIVE_UP:
            key = keys.due(now + AGAIN, id, mark)
            await self._store.write([Change(key=key, value=repr(since).encode())])
        await self._store.write([Change(key=entry.key, value=None, version=entry.version)])

    async def _lost(
        self, lost: Mapping[str, float], limit: int, now: float, sent: Mapping[str, Job]
    ) -> dict[str, Job]:
        """L36: a full scan, which is why the core asks for it seldom."""
        ids: list[str] = []
        after: str | None = ""
        while after is not None and len(ids) < limit:
            jobs, after = await self._records.page(after, PAGE)
            ids += [job.id for job in jobs if job.id not in sent and _is_lost(job, lost)]

        def resend(id: str, job: Job | None) -> Job | None:
            if job is None or not _is_lost(job, lost):
                return job
            return state.resend(job, now)

        changed = await self._records.change(ids[:limit], resend, now)
        return {
            id: item.new
            for id, item in changed.items()
            if item.new is not None and item.new is not item.old
        }


def _is_lost(job: Job, lost: Mapping[str, float]) -> bool:
    return (
        job.state is JobState.PENDING
        and job.pending_at is not None
        and job.pending_at < lost.get(job.routing_key, job.pending_at)
        and (job.guard_at is None or job.guard_hold < state.SECOND_HOLD)
    )
