"""What keeps records moving: renew, due, prune. Nothing here waits, so each call is atomic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from bananas_brokers.memory.documents import Documents
from bananas_brokers.memory.records import Records
from bananas_core import state
from bananas_core.job import (
    Cancel,
    ClaimBeat,
    Job,
    Outcome,
    OutcomeKind,
    Ready,
    RenewAnswer,
    RenewMode,
    Retention,
    Session,
    SessionRecord,
)

_FORGIVEN_FOR: Final = 86_400.0
"""Seconds for which a lapse can still be forgiven."""
_YOUNGEST: Final = 600.0
_AT_ONCE: Final = Retention(completed=0.0, failed=0.0, cancelled=0.0, quarantined=0.0)
"""By count alone: whatever may go at all."""


class Upkeep:
    """Sessions, what is due, and what may go."""

    def __init__(self, records: Records, documents: Documents) -> None:
        self._records = records
        self._documents = documents
        self._sessions: dict[str, SessionRecord] = {}
        self._lapses: dict[str, tuple[float, list[str]]] = {}
        """Session id → when its claims lapsed, and the jobs that were charged with a death."""
        self._grace_until = float("-inf")
        self.last_due: float | None = None

    def know(self, session: str, now: float) -> None:
        """L14: a session that claims before its first renewal."""
        if session not in self._sessions:
            self._extend(Session(id=session, name=""), now)

    def renew(
        self,
        session: Session,
        claims: Sequence[ClaimBeat],
        mode: RenewMode,
        now: float,
        *,
        guard: bool,
    ) -> RenewAnswer:
        """L15-L20."""
        running = self._running(session.id)
        listed: set[str] = set()
        lost: list[tuple[str, int]] = []
        cancelled: dict[str, Cancel] = {}
        for beat in claims:
            job = running.get(beat.id)
            if job is None or job.fence != beat.fence:
                lost.append((beat.id, beat.fence))
                continue
            listed.add(beat.id)
            if job.cancel is not None:
                cancelled[beat.id] = job.cancel
            if beat.progress is not None:
                running[beat.id] = replace(job, progress=beat.progress)
                self._records.set(running[beat.id])
        if mode is RenewMode.ENDED:
            self._end(session.id, running, listed, now, guard=guard)
        else:
            self._extend(session, now)
            if mode is RenewMode.FULL:
                self._hand_back_orphans(running, listed, now, guard=guard)
            self._forgive(session.id)
        ready = self._records.take_ready(guard=guard)
        return RenewAnswer(now=now, cancelled=cancelled, lost=tuple(lost), ready=tuple(ready))

    def due(
        self, limit: int, lost: Mapping[str, float], now: float, *, guard: bool
    ) -> tuple[list[Ready], bool]:
        """L33-L37."""
        left = limit - self._lapse(limit, now, guard=guard) if self._may_lapse(now) else limit
        calls: list[str] = []
        looked = self._records.due.take(now, left)
        for job_id in looked:
            kind, job = state.look(self._records.jobs[job_id], now, guard=guard)
            self._records.set(job)
            if kind is not None:
                calls.append(job_id)
        left -= len(looked)
        if guard:
            for queue, instant in lost.items():
                found = self._lost(queue, instant, left)
                calls += found
                left -= len(found)
                for job_id in found:
                    self._records.set(state.resend(self._records.jobs[job_id], now))
        first = self._records.due.first()
        more = left <= 0 or (first is not None and first[0] <= now)
        return self._records.take_ready(guard=guard, also=calls), more

    def prune(self, policy: Retention, limit: int, now: float) -> int:
        """L42, L43, L51."""
        finals, gone = self._records.finals, 0
        for final, order in finals.by_state.items():
            kept = max(_YOUNGEST, getattr(policy, final.value))
            gone += self._forget(finals.may_go(order, policy, kept, limit - gone, now))
        over = min(len(finals) - policy.most, limit - gone)
        gone += self._forget(finals.may_go(finals.by_end, _AT_ONCE, _YOUNGEST, over, now))
        self._records.drop_events(now - policy.events)
        self._documents.drop_expired(now)
        self._lapses = {
            session: lapse
            for session, lapse in self._lapses.items()
            if lapse[0] > now - _FORGIVEN_FOR
        }
        return gone

    def sessions(self, now: float) -> list[SessionRecord]:
        """L28."""
        return [
            replace(record, claims=len(self._records.held.get(session, ())))
            for session, record in self._sessions.items()
            if record.expires_at > now
        ]

    def _running(self, session: str) -> dict[str, Job]:
        return {i: self._records.jobs[i] for i in self._records.held.get(session, ())}

    def _extend(self, session: Session, now: float) -> None:
        self._sessions[session.id] = SessionRecord(
            session=session, renewed_at=now, expires_at=now + state.CLAIM_TTL
        )

    def _end(
        self, session: str, running: Mapping[str, Job], listed: set[str], now: float, *, guard: bool
    ) -> None:
        for job in running.values():
            if job.id in listed:
                died = Outcome(id=job.id, fence=job.fence, kind=OutcomeKind.DIED)
                self._records.set(state.finish(job, died, now, guard=guard)[1])
            else:
                self._records.set(state.handback(job, now, guard=guard))
        self._sessions.pop(session, None)

    def _hand_back_orphans(
        self, running: Mapping[str, Job], listed: set[str], now: float, *, guard: bool
    ) -> None:
        """L19: claims whose reply never reached the session."""
        for job in running.values():
            if job.id not in listed and (job.started_at or 0.0) < now - state.ORPHAN_AGE:
                self._records.set(state.handback(job, now, guard=guard))

    def _forgive(self, session: str) -> None:
        _, charged = self._lapses.pop(session, (0.0, []))
        for job_id in charged:
            job = self._records.get(job_id)
            if job is not None:
                self._records.set(state.forgive(job, session))

    def _may_lapse(self, now: float) -> bool:
        """L35, and remember this run."""
        if self.last_due is not None and now - self.last_due > state.DUE_GAP:
            self._grace_until = now + state.CLAIM_TTL
        self.last_due = now
        return now >= self._grace_until

    def _lapse(self, limit: int, now: float, *, guard: bool) -> int:
        """End the sessions whose time ran out; how many claims that were, ``limit`` at most."""
        count = 0
        for session in [s for s, r in self._sessions.items() if r.expires_at <= now]:
            running = list(self._running(session).values())
            taken = running[: limit - count]
            _, charged = self._lapses.get(session, (now, []))
            self._lapses[session] = (now, charged + [job.id for job in taken])
            for job in taken:
                self._records.set(state.lapse(job, now, guard=guard))
            count += len(taken)
            if len(taken) < len(running):
                break  # the session goes with the last of its claims
            del self._sessions[session]
        return count

    def _lost(self, queue: str, instant: float, limit: int) -> list[str]:
        """L36: pending jobs without a message. One that was sent again just now is left alone."""
        found: list[str] = []
        for job_id in self._records.pending.get(queue, ()):
            if len(found) >= limit:
                break
            job = self._records.jobs[job_id]
            resent = job.guard_at is not None and job.guard_hold >= state.SECOND_HOLD
            if not resent and (job.pending_at or 0.0) < instant:
                found.append(job_id)
        return found

    def _forget(self, jobs: Sequence[Job]) -> int:
        for job in jobs:
            self._records.delete(job)
            self._documents.delete_prefix(f"job/{job.id}/")
        return len(jobs)
