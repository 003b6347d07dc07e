"""Worker sessions, and the claims under them: renewed by one key, found by one key a batch.

A batch key is written after its records were read and before they are claimed. It is deleted only
once none of its records can be claimed through it any more: those that are still pending are
touched first (``records.py``). A session that lapsed or ended stays known for an hour, so that
claims which were on their way are found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from bananas_core import state
from bananas_core.errors import ResultBackendUnavailable
from bananas_core.job import (
    Cancel,
    ClaimBeat,
    Hint,
    Job,
    JobState,
    Outcome,
    OutcomeKind,
    RenewAnswer,
    RenewMode,
    Session,
    SessionRecord,
    Verdict,
    VerdictKind,
)
from bananas_core.keyvalue import keys
from bananas_core.keyvalue.records import TRIES, Changed, Found, Records, Transition
from bananas_core.keyvalue.store import Change, Entry

FORGIVEN_FOR: Final = 3600.0
"""Seconds that a lapsed session may take to come back and be forgiven."""
WATCHED_FOR: Final = 300.0
"""Seconds for which each ``due`` looks for late claims of a session that is gone; after that, only
when it is about to be forgotten."""
YOUNG: Final = 600.0
"""Seconds for which a batch stays whose records don't exist yet: somebody may be creating them."""
LAPSES: Final = 1000
"""Lapsed claims remembered for forgiveness."""
PAGE: Final = 200


class Stored(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is kept of a session. ``lapsed_at``: its claims ran out then; ``lapsed``: their ids.
    ``ended``: by a call rather than by silence."""

    session: Session
    renewed_at: float
    expires_at: float
    lapsed_at: float | None = None
    lapsed: tuple[str, ...] = ()
    ended: bool = False


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Ids that one call wanted to claim for a session."""

    at: float
    ids: tuple[str, ...]


class _Revived(Exception):
    """A session whose claims were being ended has come back."""


_encode = msgspec.msgpack.Encoder().encode
_stored = msgspec.msgpack.Decoder(Stored).decode
_batch = msgspec.msgpack.Decoder(Batch).decode


class Sessions:
    """Claims by session."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._store = records.store

    async def claim(self, session: str, hints: Sequence[Hint]) -> list[Verdict]:
        """L10-L14. No claim is ever without a batch key and a session that ``due`` knows."""
        now = await self._store.now()
        wanted: dict[str, Hint] = {}
        for hint in hints:
            wanted.setdefault(hint.id, hint)
        if not wanted:
            return []
        verdicts: dict[str, VerdictKind] = {}
        records = self._records

        def take(id: str, job: Job | None) -> Job | None:
            hint = wanted[id]
            if job is None and hint.create is not None:
                job = state.create(hint.create, now, guard=records.guard, keep_for=records.horizon)
                kind, new = state.claim(job, hint, session, 1, now)
            else:
                fence = 1 if job is None else job.fence + 1
                kind, new = state.claim(job, hint, session, fence, now)
            verdicts[id] = kind
            return new

        async def note(ids: list[str]) -> None:
            claimed = tuple(id for id in ids if verdicts[id] is VerdictKind.RUN)
            if claimed:
                await self._know(session)
                batch = Batch(at=await self._store.now(), ids=claimed)
                key = keys.batch(session, records.token())
                await self._store.write([Change(key=key, value=_encode(batch))])

        changed = await records.change(list(wanted), take, now, note)
        answers: list[Verdict] = []
        told: set[str] = set()
        for hint in hints:
            kind, new = verdicts[hint.id], changed[hint.id].new
            if kind is VerdictKind.RUN and hint.id in told:
                kind = VerdictKind.STALE
            told.add(hint.id)
            claim = state.claimed(new, now) if kind is VerdictKind.RUN and new else None
            answers.append(Verdict(kind=kind, id=hint.id, claim=claim))
        return answers

    async def renew(
        self, session: Session, claims: Sequence[ClaimBeat], mode: RenewMode
    ) -> RenewAnswer:
        """L15-L20."""
        now = await self._store.now()
        if mode is RenewMode.ENDED:
            return await self._end(session.id, claims, now)
        await self._extend(session, now)
        beats: dict[str, dict[int, ClaimBeat]] = {}
        for beat in claims:
            beats.setdefault(beat.id, {})[beat.fence] = beat
        cancelled: dict[str, Cancel] = {}
        held: set[tuple[str, int]] = set()

        def hear(id: str, job: Job | None) -> Job | None:
            beat = None if job is None else beats[id].get(job.fence)
            if job is None or beat is None or not _holds(job, session.id):
                return job
            held.add((id, beat.fence))
            if job.cancel is not None:
                cancelled[id] = job.cancel
            if beat.progress is not None and beat.progress != job.progress:
                return msgspec.structs.replace(job, progress=beat.progress)
            return job

        await self._records.change(list(beats), hear, now)
        lost = tuple((b.id, b.fence) for b in claims if (b.id, b.fence) not in held)
        changed = {}
        if mode is RenewMode.FULL:
            orphans = await self._tidy(session.id, {id for id, _ in held}, now)

            def back(id: str, job: Job | None) -> Job | None:
                if job is None or not _old_claim(job, session.id, now):
                    return job
                return state.handback(job, now, guard=self._records.guard)

            changed = await self._records.change(orphans, back, now)
        return RenewAnswer(
            now=now, cancelled=cancelled, lost=lost, ready=tuple(self._records.ready(changed))
        )

    async def lapse(
        self, now: float, limit: int, allowed: bool
    ) -> tuple[dict[str, Job], int, bool]:
        """L34: end the claims of sessions whose time ran out. A session is marked first, so
        that one that comes back knows what it was charged with.

        Returns:
            Records about which something must be done, how many records were looked at, and
            whether more is left to do.
        """
        found: dict[str, Job] = {}
        count = 0
        after = ""
        while entries := await self._store.scan(keys.SESSIONS, after, PAGE):
            after = entries[-1].key
            for entry in entries:
                stored = _stored(entry.value)
                gone_for = 0.0 if stored.lapsed_at is None else now - stored.lapsed_at
                if stored.expires_at > now or (stored.lapsed_at is None and not allowed):
                    continue
                if WATCHED_FOR < gone_for <= FORGIVEN_FOR:
                    continue
                if gone_for > FORGIVEN_FOR and not await self._batches(stored.session.id):
                    change = Change(key=entry.key, value=None, version=entry.version)
                    await self._store.write([change])
                    continue
                if count >= limit:
                    return found, count, True
                lapsed, more = await self._lapse(entry, stored, now, limit - count)
                found.update(self._records.calls(lapsed))
                count += len(lapsed)
                if more:
                    return found, count, True
        return found, count, False

    async def listed(self, now: float) -> list[SessionRecord]:
        """L28."""
        found = []
        after = ""
        while entries := await self._store.scan(keys.SESSIONS, after, PAGE):
            after = entries[-1].key
            for entry in entries:
                stored = _stored(entry.value)
                if stored.expires_at > now and stored.lapsed_at is None:
                    running = await self._running(stored.session.id)
                    found.append(
                        SessionRecord(
                            session=stored.session,
                            renewed_at=stored.renewed_at,
                            expires_at=stored.expires_at,
                            claims=len(running),
                        )
                    )
        return found

    async def _know(self, session: str) -> None:
        """L14."""
        (entry,) = await self._store.get([keys.session(session)])
        known = None if entry is None else _stored(entry.value)
        if known is None or known.lapsed_at is not None:
            described = Session(id=session, name="") if known is None else known.session
            await self._extend(described, await self._store.now(), entry, forgive=False)

    async def _extend(
        self, session: Session, now: float, entry: Entry | None = None, *, forgive: bool = True
    ) -> None:
        """``forgive``: a claim shows that the session lives, a renewal is needed to forgive."""
        key = keys.session(session.id)
        for attempt in range(TRIES):
            if entry is None:
                (entry,) = await self._store.get([key])
            old = None if entry is None else _stored(entry.value)
            lapsed = () if old is None else old.lapsed
            revived = old is not None and old.lapsed_at is not None
            if lapsed and not revived and forgive:
                await self._forgive(session.id, lapsed, now)
            # A session that comes back keeps its list until the next renewal: we may die here.
            stored = Stored(
                session=session,
                renewed_at=now,
                expires_at=now + state.CLAIM_TTL,
                lapsed=lapsed if revived or not forgive else (),
            )
            version = 0 if entry is None else entry.version
            change = Change(key=key, value=_encode(stored), version=version)
            if (await self._store.write([change]))[0] is not None:
                if lapsed and revived and forgive:
                    await self._forgive(session.id, lapsed, now)
                elif lapsed and revived:
                    await self._keep(session.id, lapsed)
                return
            entry = None
            await self._records.pause(attempt)
        raise ResultBackendUnavailable(f"session {session.id} changed under {TRIES} tries; again")

    async def _forgive(self, session: str, ids: Sequence[str], now: float) -> None:
        """Take back what the session was charged with."""
        await self._keep(session, ids)
        await self._records.change(ids, _forgiving(session), now)

    async def _keep(self, session: str, ids: Sequence[str]) -> None:
        """Whoever lapses the claims of a session that has come back may still be at it: the
        records that are left get a new version, so that he must look at the session once more,
        and finds it alive."""
        found = await self._records.read(list(dict.fromkeys(ids)))
        await self._records.touch([one for one in found if one and _holds(one.job, session)])

    async def _end(self, session: str, claims: Sequence[ClaimBeat], now: float) -> RenewAnswer:
        died = {(beat.id, beat.fence) for beat in claims}
        held: dict[str, int] = {}
        guard = self._records.guard

        def end(id: str, job: Job | None) -> Job | None:
            held.pop(id, None)
            if job is None or not _holds(job, session):
                return job
            held[id] = job.fence
            if (id, job.fence) in died:
                outcome = Outcome(id=id, fence=job.fence, kind=OutcomeKind.DIED)
                return state.finish(job, outcome, now, guard=guard)[1]
            return state.handback(job, now, guard=guard)

        batches = await self._batches(session)
        ids = [id for _, batch in batches for id in batch.ids]
        changed = await self._records.change(ids, end, now)
        described = Session(id=session, name="")
        gone = Stored(session=described, renewed_at=now, expires_at=now, lapsed_at=now, ended=True)
        await self._store.write([Change(key=keys.session(session), value=_encode(gone))])
        await self._clear(session, batches, now)
        lost = tuple((beat.id, beat.fence) for beat in claims if held.get(beat.id) != beat.fence)
        return RenewAnswer(now=now, lost=lost, ready=tuple(self._records.ready(changed)))

    async def _lapse(
        self, entry: Entry, stored: Stored, now: float, limit: int
    ) -> tuple[dict[str, Changed], bool]:
        session = stored.session.id
        batches = await self._batches(session)
        ids = list(dict.fromkeys(id for _, batch in batches for id in batch.ids))
        marked = stored
        if stored.lapsed_at is None:
            marked = msgspec.structs.replace(
                stored, lapsed_at=now, lapsed=(*stored.lapsed, *ids)[-LAPSES:]
            )
        elif not batches:
            return {}, False
        change = Change(key=entry.key, value=_encode(marked), version=entry.version)
        if (await self._store.write([change]))[0] is None:
            return {}, False  # it was renewed just now, or somebody else is at it
        claimed = await self._claimed(ids, session)
        guard = self._records.guard

        def lapse(id: str, job: Job | None) -> Job | None:
            if job is None or not _holds(job, session):
                return job
            if stored.ended:  # its claim was on the way when the session was ended: never started
                return state.handback(job, now, guard=guard)
            return state.lapse(job, now, guard=guard)

        async def check(ids: list[str]) -> None:
            (now_kept,) = await self._store.get([keys.session(session)])
            if now_kept is not None and _stored(now_kept.value).lapsed_at is None:
                raise _Revived

        try:
            changed = await self._records.change(sorted(claimed)[:limit], lapse, now, check)
        except _Revived:  # what was lapsed before is forgiven, and sent by its guard
            return {}, False
        more = len(claimed) > limit
        if not more:
            await self._clear(session, batches, now)
        return changed, more

    async def _tidy(self, session: str, held: set[str], now: float) -> list[str]:
        """Forget batches that are through; ids that the session doesn't know it has."""
        old = [
            (key, batch)
            for key, batch in await self._batches(session)
            if now - batch.at > state.ORPHAN_AGE
        ]
        return [id for id in await self._clear(session, old, now) if id not in held]

    async def _clear(
        self, session: str, batches: Sequence[tuple[str, Batch]], now: float
    ) -> list[str]:
        """Delete the batch keys that nobody needs, nor can come to need; the ids of claims that
        the session still has under the others."""
        ids = list(dict.fromkeys(id for _, batch in batches for id in batch.ids))
        records = dict(zip(ids, await self._records.read(ids), strict=True))
        running = {id: None for id in ids if (one := records[id]) and _holds(one.job, session)}
        free = [(key, batch) for key, batch in batches if running.keys().isdisjoint(batch.ids)]
        pending: dict[str, Found] = {}
        for _, batch in free:
            for id in batch.ids:
                found = records[id]
                if found is not None and found.job.state is JobState.PENDING:
                    pending[id] = found
        kept = await self._records.touch(list(pending.values()))
        done = []
        for key, batch in free:
            coming = now - batch.at < YOUNG and any(records[id] is None for id in batch.ids)
            if not coming and kept.isdisjoint(batch.ids):
                done.append(Change(key=key, value=None))
        if done:
            await self._store.write(done)
        return list(running)

    async def _claimed(self, ids: Sequence[str], session: str) -> set[str]:
        jobs = await self._records.get(ids)
        return {job.id for job in jobs if job is not None and _holds(job, session)}

    async def _running(self, session: str) -> set[str]:
        found: set[str] = set()
        for _, batch in await self._batches(session):
            found |= await self._claimed(batch.ids, session)
        return found

    async def _batches(self, session: str) -> list[tuple[str, Batch]]:
        found: list[tuple[str, Batch]] = []
        after = ""
        prefix = keys.batches(session)
        while entries := await self._store.scan(prefix, after, PAGE):
            after = entries[-1].key
            found += [(entry.key, _batch(entry.value)) for entry in entries]
        return found


def _forgiving(session: str) -> Transition:
    def forgive(id: str, job: Job | None) -> Job | None:
        return None if job is None else state.forgive(job, session)

    return forgive


def _holds(job: Job, session: str) -> bool:
    return job.state is JobState.PROCESSING and job.worker == session


def _old_claim(job: Job, session: str, now: float) -> bool:
    return _holds(job, session) and now - job.changed_at > state.ORPHAN_AGE
