"""Topic: workers that live, die, or are taken for dead."""

from __future__ import annotations

from bananas_core.job import (
    ClaimBeat,
    JobState,
    OutcomeKind,
    Progress,
    RenewMode,
    Session,
    Signal,
    SignalKind,
)
from bananas_core.state import CLAIM_TTL, ORPHAN_AGE
from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.marks import promise, takes
from bananas_core.testing.conformance.support import (
    Suite,
    all_due,
    claim_one,
    finish_one,
    pass_time,
    put_one,
    record,
    started,
    state_of,
)
from bananas_core.testing.conformance.support import a_job as job_of


def who(session: str, **options: object) -> Session:
    """A session's description of itself."""
    return Session(id=session, name="conformance", **options)  # type: ignore[arg-type]


def beats(*claims: object, progress: Progress | None = None) -> list[ClaimBeat]:
    """The list of a renewal."""
    return [
        ClaimBeat(id=claim.id, fence=claim.fence, progress=progress)  # type: ignore[attr-defined]
        for claim in claims
    ]


class Renewing(Suite):
    @promise("L15")
    @takes(40)
    async def test_renewal_keeps_all_claims_of_a_session(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        claims = [await started(backend, session) for _ in range(3)]
        for mode in (RenewMode.FULL, RenewMode.UPDATE) * 3:
            listed = claims if mode is RenewMode.FULL else claims[:1]
            await pass_time(harness, backend, 6.0)
            answer = await backend.renew(who(session), beats(*listed), mode=mode)
            assert (answer.lost, answer.ready) == ((), ())
        for claim in claims:
            job = await record(backend, claim.id)
            assert (job.state, job.fence, job.deaths) == (JobState.PROCESSING, claim.fence, 0)
            assert (await finish_one(backend, claim)).accepted

    @promise("L16")
    async def test_renewal_names_what_is_lost(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        mine, done, other = [await started(backend, session) for _ in range(3)]
        await finish_one(backend, done)
        await finish_one(backend, other, OutcomeKind.HANDBACK)
        theirs = await claim_one(backend, harness.session(), job_of(id=other.id), gen=2)
        nobody = ClaimBeat(id="nobody", fence=1)
        answer = await backend.renew(
            who(session), [*beats(mine, done, other, theirs), nobody], mode=RenewMode.FULL
        )
        assert set(answer.lost) == {
            (done.id, done.fence),
            (other.id, other.fence),
            (theirs.id, theirs.fence),
            ("nobody", 1),
        }
        assert (await record(backend, theirs.id)).fence == theirs.fence

    @promise("L17")
    async def test_renewal_tells_of_cancels(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        one, two = await started(backend, session), await started(backend, session)
        wish = Signal(id=one.id, kind=SignalKind.CANCEL, by="tester", reason="enough")
        await (await harness.backend()).signal([wish])
        for mode in (RenewMode.FULL, RenewMode.UPDATE):
            answer = await backend.renew(who(session), beats(one, two), mode=mode)
            assert set(answer.cancelled) == {one.id}
            assert (answer.cancelled[one.id].by, answer.cancelled[one.id].reason) == (
                "tester",
                "enough",
            )

    @promise("L18")
    async def test_renewal_stores_progress(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        mine, lost = await started(backend, session), await started(backend, session)
        await finish_one(backend, lost)
        progress = Progress(value=0.5, text="half")
        claims = beats(mine, lost, progress=progress)
        await backend.renew(who(session), claims, mode=RenewMode.UPDATE)
        assert (await record(backend, mine.id)).progress == progress
        assert (await record(backend, lost.id)).progress is None

    @promise("L28")
    async def test_sessions_describe_themselves(self, harness: Harness) -> None:
        one, two = await harness.backend(), await harness.backend()
        ids = sorted([harness.session(), harness.session()])
        for session in ids:
            await one.renew(who(session, host="h", slots=4, free=3, tasks=("a",)), [])
        claim = await started(one, ids[0])
        await one.renew(who(ids[0], host="h", slots=4, free=1), beats(claim))
        found = sorted(await two.sessions(), key=lambda record: record.session.id)
        assert [record.session.id for record in found] == ids
        assert [record.session.free for record in found] == [1, 3]
        assert [record.claims for record in found] == [1, 0]
        assert all(record.expires_at > record.renewed_at for record in found)
        await one.renew(who(ids[0]), [], mode=RenewMode.ENDED)
        assert [record.session.id for record in await two.sessions()] == ids[1:]


class Orphans(Suite):
    @promise("L19")
    @takes(10)
    async def test_claims_that_a_session_does_not_list_are_handed_back(
        self, harness: Harness
    ) -> None:
        backend, session = await harness.backend(), harness.session()
        known, orphan = await started(backend, session), await started(backend, session)
        await pass_time(harness, backend, ORPHAN_AGE + 1)
        young = await started(backend, session)
        partial = await backend.renew(who(session), beats(known), mode=RenewMode.UPDATE)
        assert (partial.ready, await state_of(backend, orphan.id)) == ((), JobState.PROCESSING)
        answer = await backend.renew(who(session), beats(known), mode=RenewMode.FULL)
        assert [(r.id, r.gen) for r in answer.ready] == [(orphan.id, 2)]
        job = await record(backend, orphan.id)
        assert (job.state, job.deaths, job.failures) == (JobState.PENDING, 0, 0)
        assert await state_of(backend, young.id) is JobState.PROCESSING
        assert await state_of(backend, known.id) is JobState.PROCESSING
        assert (await claim_one(backend, session, job_of(id=orphan.id), gen=2)).attempt == 1

    @promise("L19")
    async def test_an_ended_session_gives_everything_back_at_once(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        running, waiting = await started(backend, session), await started(backend, session)
        answer = await backend.renew(who(session), beats(running), mode=RenewMode.ENDED)
        assert {r.id for r in answer.ready} == {running.id, waiting.id}
        assert all(r.head for r in answer.ready)
        died, unspent = await record(backend, running.id), await record(backend, waiting.id)
        assert (died.state, died.deaths) == (JobState.PENDING, 1)
        assert (unspent.state, unspent.deaths) == (JobState.PENDING, 0)
        assert await backend.sessions() == []
        assert not (await finish_one(backend, running)).accepted

    @promise("L16", "L19")
    async def test_an_ended_session_is_told_what_it_had_lost(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        old = await started(backend, harness.session())
        await finish_one(backend, old, OutcomeKind.HANDBACK)
        mine = await claim_one(backend, session, job_of(id=old.id), gen=2)
        answer = await backend.renew(who(session), beats(old, mine), mode=RenewMode.ENDED)
        assert answer.lost == ((old.id, old.fence),)
        assert (await record(backend, mine.id)).deaths == 1


class Lapsing(Suite):
    @promise("L34")
    @takes(20)
    async def test_claims_of_a_silent_session_lapse_as_deaths(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        claims = [await started(backend, session, priority=70) for _ in range(3)]
        early = await pass_time(harness, backend, CLAIM_TTL - 3)
        assert early == []
        ready = await pass_time(harness, backend, 5.0)
        assert {(r.id, r.gen, r.head) for r in ready} == {(c.id, 2, True) for c in claims}
        for claim in claims:
            job = await record(backend, claim.id)
            assert (job.state, job.deaths, job.attempt) == (JobState.PENDING, 1, 2)
            assert job.attempts[0].outcome == "lapsed"
            assert not (await finish_one(backend, claim)).accepted
        assert await backend.sessions() == []

    @promise("L34")
    @takes(20)
    async def test_a_lapse_takes_only_the_silent_session(self, harness: Harness) -> None:
        backend, silent, alive = await harness.backend(), harness.session(), harness.session()
        lost, kept = await started(backend, silent), await started(backend, alive)
        ready = await pass_time(harness, backend, CLAIM_TTL + 3, alive=[alive])
        assert {r.id for r in ready} == {lost.id}
        assert await state_of(backend, kept.id) is JobState.PROCESSING

    @promise("L34", "L33")
    @takes(20)
    async def test_a_mass_lapse_comes_in_portions(self, harness: Harness) -> None:
        backend, silent, alive = await harness.backend(), harness.session(), harness.session()
        claims = [await started(backend, silent) for _ in range(25)]
        seen: set[str] = set()
        for _ in range(7):
            await harness.advance(2.0)
            ready, _ = await backend.due(10)  # on a busy machine time may be over here
            assert len(ready) <= 10
            seen |= {r.id for r in ready}
        await harness.advance(2.0)
        for _ in range(20):
            ready, more = await backend.due(10)
            assert len(ready) <= 10
            seen |= {r.id for r in ready}
            if not more:
                break
        assert seen == {claim.id for claim in claims}
        assert (await backend.renew(who(alive), [])).lost == ()

    @promise("L34")
    @takes(70)
    async def test_the_third_lapse_quarantines(self, harness: Harness) -> None:
        backend = await harness.backend()
        put = await put_one(backend, job_of(max_attempts=10))
        for gen in (1, 2, 3):
            await claim_one(backend, harness.session(), put, gen)
            await pass_time(harness, backend, CLAIM_TTL + 3)
        job = await record(backend, put.id)
        assert (job.state, job.deaths, job.attempt) == (JobState.QUARANTINED, 3, 3)

    @promise("L34", "L17")
    @takes(20)
    async def test_a_cancelled_job_that_lapses_ends_cancelled(self, harness: Harness) -> None:
        backend = await harness.backend()
        claim = await started(backend, harness.session())
        await backend.signal([Signal(id=claim.id, kind=SignalKind.CANCEL)])
        assert await pass_time(harness, backend, CLAIM_TTL + 3) == []
        assert await state_of(backend, claim.id) is JobState.CANCELLED

    @promise("L20")
    @takes(20)
    async def test_a_session_that_renews_again_is_forgiven(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        claim = await started(backend, session)
        await pass_time(harness, backend, CLAIM_TTL + 3)
        assert (await record(backend, claim.id)).deaths == 1
        answer = await backend.renew(who(session), beats(claim))
        assert answer.lost == ((claim.id, claim.fence),)
        job = await record(backend, claim.id)
        assert (job.state, job.deaths, job.attempt) == (JobState.PENDING, 0, 1)
        assert job.attempts[0].outcome == "lost"
        assert [record.session.id for record in await backend.sessions()] == [session]

    @promise("L14", "L20")
    @takes(20)
    async def test_a_claim_alone_forgives_nothing(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        lost = await started(backend, session)
        await pass_time(harness, backend, CLAIM_TTL + 3)
        again = await claim_one(backend, session, job_of(id=lost.id), gen=2)
        assert (again.attempt, again.deaths) == (2, 1)
        answer = await backend.renew(who(session), beats(again))
        assert answer.lost == ()
        assert (await record(backend, lost.id)).deaths == 0

    @promise("L35")
    @takes(40)
    async def test_nothing_lapses_right_after_an_outage(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        claim = await started(backend, session)
        await all_due(backend)
        await harness.advance(CLAIM_TTL + 3)
        assert await all_due(backend) == []
        assert await pass_time(harness, backend, CLAIM_TTL - 3) == []
        job = await record(backend, claim.id)
        assert (job.state, job.deaths) == (JobState.PROCESSING, 0)
        lapsed = await pass_time(harness, backend, 5.0)
        assert [r.id for r in lapsed] == [claim.id]

    @promise("L35")
    @takes(40)
    async def test_a_session_that_renews_after_an_outage_loses_nothing(
        self, harness: Harness
    ) -> None:
        backend, session = await harness.backend(), harness.session()
        claim = await started(backend, session)
        await all_due(backend)
        await harness.advance(CLAIM_TTL + 3)
        await all_due(backend)
        assert (await backend.renew(who(session), beats(claim))).lost == ()
        assert (await finish_one(backend, claim)).accepted
