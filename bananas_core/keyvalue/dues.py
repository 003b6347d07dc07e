"""What is due: an index by time, the reconciler, and what gets pruned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from bananas_core import state
from bananas_core.job import FINAL, Job, JobState, Ready, Retention, Settled
from bananas_core.keyvalue import keys
from bananas_core.keyvalue.events import Feed
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
    """``due`` and ``prune``."""

    def __init__(self, records: Records, sessions: Sessions, feed: Feed) -> None:
        self._records = records
        self._sessions = sessions
        self._feed = feed
        self._store = records.store

    async def run(
        self, limit: int, settled: Sequence[Settled], lost: Mapping[str, float]
    ) -> tuple[list[Ready], bool]:
        """L33-L37."""
        now = await self._store.now()
        await self.settle(settled, now)
        allowed = await self._remember(now)
        pending, more = await self._sessions.lapse(now, limit, allowed)
        sends: dict[str, Job] = dict(pending)
        looked, more_due = await self._look(max(0, limit - len(sends)), now)
        sends.update(looked)
        if lost and self._records.guard:
            sends.update(await self._lost(lost, max(0, limit - len(sends)), now, sends))
        if not self._records.guard:
            return [], more or more_due
        return [state.ready(job) for job in sends.values()], more or more_due

    async def settle(self, settled: Sequence[Settled], now: float) -> None:
        """L9."""
        gens = {item.id: item.gen for item in settled}
        if gens:
            await self._records.change(
                list(gens),
                lambda id, job: None if job is None else state.settle(job, gens[id]),
                now,
            )

    async def last(self) -> float | None:
        """L44."""
        (entry,) = await self._store.get([keys.LAST_DUE])
        return None if entry is None else _last_due(entry.value).at

    async def prune(self, policy: Retention, limit: int) -> int:
        """L42, L43."""
        now = await self._store.now()
        await self._feed.prune(now - policy.events)
        gone = 0
        for final in sorted(FINAL):
            gone += await self._prune_state(final, policy, limit - gone, now)
        if gone < limit:
            gone += await self._prune_excess(policy.most, limit - gone, now)
        return gone

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
        sends: dict[str, Job] = {}
        seen, after = 0, ""
        while True:
            entries = await self._store.scan(keys.DUE, after, PAGE)
            due = [entry for entry in entries if keys.due_parts(entry.key)[0] <= now]
            taken = due[: limit - seen]
            if not taken:
                return sends, bool(due)
            ids = [keys.due_parts(entry.key)[1] for entry in taken]
            send: dict[str, bool] = {}

            def look(id: str, job: Job | None, send: dict[str, bool] = send) -> Job | None:
                if job is None:
                    return None
                send[id], new = state.look(job, now, guard=self._records.guard)
                return new

            changed = await self._records.change(ids, look, now)
            moved = {id: item.new for id, item in changed.items() if item.new is not item.old}
            sends.update({id: job for id, job in moved.items() if send.get(id) and job})
            seen += len(moved)
            await self._forget(taken, set(moved), now)
            if len(due) < len(entries) or len(entries) < PAGE:
                return sends, len(taken) < len(due)
            after = taken[-1].key

    async def _forget(self, entries: Sequence[Entry], moved: set[str], now: float) -> None:
        """Delete index keys that nobody needs, nor can come to need: whoever wrote one may still
        be on the way to its record, so that gets a new version first, unless we just gave it one.
        """
        ids = [keys.due_parts(entry.key)[1] for entry in entries]
        records = await self._records.read(list(dict.fromkeys(ids)))
        found = {one.job.id: one for one in records if one is not None}
        stale, touched = [], {}
        for entry, id in zip(entries, ids, strict=True):
            if id not in found:
                await self._postpone(entry, now)
            elif keys.due_of(found[id].job) != entry.key:
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
        at, id, gen = keys.due_parts(entry.key)
        since = float(entry.value or at)
        if now - since < GIVE_UP:
            key = keys.due(now + AGAIN, id, gen)
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

    async def _prune_state(self, final: JobState, policy: Retention, limit: int, now: float) -> int:
        gone = 0
        after = ""
        oldest = now - max(600.0, getattr(policy, final.value))
        while gone < limit:
            entries = await self._store.scan(keys.finals(final), after, min(PAGE, limit - gone))
            due = [entry for entry in entries if keys.final_parts(entry.key)[0] <= oldest]
            if not due:
                break
            after = due[-1].key
            gone += await self._drop(due, lambda job: state.prunable(job, now, policy))
            if len(due) < len(entries):
                break
        return gone

    async def _prune_excess(self, most: int, limit: int, now: float) -> int:
        """The oldest finals over ``most``, but none younger than 600 s."""
        found: list[tuple[float, Entry]] = []
        for final in FINAL:
            after = ""
            while entries := await self._store.scan(keys.finals(final), after, PAGE):
                after = entries[-1].key
                found += [(keys.final_parts(entry.key)[0], entry) for entry in entries]
        over = min(limit, len(found) - most)
        if over <= 0:
            return 0
        found.sort(key=lambda item: (item[0], item[1].key))
        old = [entry for at, entry in found[:over] if at <= now - 600.0]
        return await self._drop(
            old,
            lambda job: job.keep_until <= now and (job.finished_at or now) <= now - 600.0,
        )

    async def _drop(self, entries: Sequence[Entry], may_go: Callable[[Job], bool]) -> int:
        """The record first, then its documents, then its index key, by which a later call finds
        what a crash left. So the documents of a record that is live again are never touched."""
        gone = 0
        ids = [keys.final_parts(entry.key)[1] for entry in entries]
        for entry, id, found in zip(entries, ids, await self._records.read(ids), strict=True):
            if found is not None and keys.final_of(found.job) == entry.key:
                if not may_go(found.job):
                    continue
                change = Change(key=keys.job(id), value=None, version=found.entry.version)
                if (await self._store.write([change]))[0] is None:
                    continue
                gone += 1
            if found is None or keys.final_of(found.job) == entry.key:
                await self._drop_docs(id)
            await self._store.write([Change(key=entry.key, value=None, version=entry.version)])
        return gone

    async def _drop_docs(self, id: str) -> None:
        prefix = keys.doc(f"job/{id}/")
        while entries := await self._store.scan(prefix, "", PAGE):
            await self._store.write([Change(key=entry.key, value=None) for entry in entries])


def _is_lost(job: Job, lost: Mapping[str, float]) -> bool:
    return (
        job.state is JobState.PENDING
        and job.pending_at is not None
        and job.pending_at < lost.get(job.routing_key, job.pending_at)
        and (job.guard_at is None or job.guard_hold < state.SECOND_HOLD)
    )
