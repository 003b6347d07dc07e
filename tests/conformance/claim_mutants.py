"""Faults to plant in claims, time and sessions."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from plant import around, caught_by

from bananas_brokers.memory.ledger import Ledger
from bananas_brokers.memory.records import Records
from bananas_brokers.memory.results import FusedResultBackend
from bananas_brokers.memory.upkeep import Upkeep
from bananas_core import state
from bananas_core.job import (
    JobState,
    OutcomeKind,
)
from bananas_core.testing.conformance import ResultBackendConformance, TransportConformance

T, L = TransportConformance, ResultBackendConformance


# --- claims and fences -----------------------------------------------------------------------


@caught_by(L.test_put_creates_and_keeps_what_is_there, L.test_of_racing_puts_one_creates)
def put_overwrites(patch: pytest.MonkeyPatch) -> None:
    def put(original: Any, self: Any, puts: Any, now: float, *, guard: bool) -> Any:
        for wish in puts:
            old = self._records.jobs.pop(wish.id, None)
            if old is not None:
                self._records.pending[old.routing_key].discard(old.id)
        return original(self, puts, now, guard=guard)

    around(patch, Ledger, "put", put)


@caught_by(L.test_another_generation_is_stale, L.test_a_change_of_priority_is_a_new_generation)
def an_old_generation_runs(patch: pytest.MonkeyPatch) -> None:
    def claim(original: Any, job: Any, hint: Any, *rest: Any) -> Any:
        return original(job, hint if job is None else replace(hint, gen=job.gen), *rest)

    around(patch, state, "claim", claim)


@caught_by(L.test_of_racing_claimers_one_runs, L.test_a_repeated_claim_is_stale)
def a_running_job_can_be_claimed(patch: pytest.MonkeyPatch) -> None:
    def claim(original: Any, job: Any, *rest: Any) -> Any:
        if job is not None and job.state is JobState.PROCESSING:
            job = replace(job, state=JobState.PENDING)
        return original(job, *rest)

    around(patch, state, "claim", claim)


@caught_by(L.test_a_job_past_its_time_does_not_start)
def an_expired_job_starts(patch: pytest.MonkeyPatch) -> None:
    def claim(original: Any, job: Any, *rest: Any) -> Any:
        return original(None if job is None else replace(job, start_by=None), *rest)

    around(patch, state, "claim", claim)


@caught_by(L.test_a_foreign_message_does_not_replace_a_record)
def a_foreign_message_wins(patch: pytest.MonkeyPatch) -> None:
    def claim(original: Any, self: Any, session: str, hints: Any, now: float, **opts: Any) -> Any:
        for hint in hints:
            old = self._records.jobs.get(hint.id)
            if hint.create is not None and old is not None and old.finished_at is not None:
                self._records.delete(old)
        return original(self, session, hints, now, **opts)

    around(patch, Ledger, "claim", claim)


@caught_by(L.test_fences_of_a_job_rise)
def fences_repeat(patch: pytest.MonkeyPatch) -> None:
    around(patch, state, "claim", lambda claim, j, h, s, fence, now: claim(j, h, s, 1, now))


@caught_by(L.test_a_stale_fence_changes_nothing, L.test_claims_of_a_silent_session_lapse_as_deaths)
def a_stale_finish_is_accepted(patch: pytest.MonkeyPatch) -> None:
    def finish(original: Any, job: Any, outcome: Any, now: float, *, guard: bool) -> Any:
        if job is not None and job.finished_at is None:
            job = replace(job, state=JobState.PROCESSING)
            outcome = replace(outcome, fence=job.fence)
        return original(job, outcome, now, guard=guard)

    around(patch, state, "finish", finish)


@caught_by(
    L.test_repeating_gives_the_first_answer,
    L.test_repeating_gives_the_first_answer_after_another_claim,
)
def a_repeated_finish_is_refused(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(state, "_finished_before", lambda *_: False)


@caught_by(L.test_what_spends_an_attempt)
def a_handback_spends_an_attempt(patch: pytest.MonkeyPatch) -> None:
    def finish(original: Any, job: Any, outcome: Any, now: float, *, guard: bool) -> Any:
        if outcome.kind is OutcomeKind.HANDBACK:
            outcome = replace(outcome, kind=OutcomeKind.RETRY)
        return original(job, outcome, now, guard=guard)

    around(patch, state, "finish", finish)


@caught_by(L.test_a_completed_job_keeps_its_result)
def the_result_gets_lost(patch: pytest.MonkeyPatch) -> None:
    def finish(original: Any, job: Any, outcome: Any, now: float, *, guard: bool) -> Any:
        return original(job, replace(outcome, result=None), now, guard=guard)

    around(patch, state, "finish", finish)


@caught_by(L.test_what_became_pending_must_be_sent)
def a_retry_is_not_sent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Records, "take_ready", lambda *_, **__: [])


# --- time ------------------------------------------------------------------------------------


@caught_by(L.test_later_jobs_are_scheduled_and_others_pending)
def delay_is_ignored(patch: pytest.MonkeyPatch) -> None:
    def create(original: Any, put: Any, now: float, **options: Any) -> Any:
        return original(replace(put, delay=None), now, **options)

    around(patch, state, "create", create)


@caught_by(L.test_a_delayed_job_comes_due_and_never_early, L.test_a_far_date_is_kept_exactly)
def due_is_early(patch: pytest.MonkeyPatch) -> None:
    def due(original: Any, self: Any, limit: int, lost: Any, now: float, *, guard: bool) -> Any:
        return original(self, limit, lost, now + 1.5, guard=guard)

    around(patch, Upkeep, "due", due)


@caught_by(
    L.test_an_unsettled_send_is_repeated_with_growing_holds,
    L.test_what_due_gave_comes_again_until_settled,
)
def the_guard_never_fires(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(state, "FIRST_HOLD", 1e9)


@caught_by(L.test_a_settled_send_is_not_repeated)
def settling_is_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ledger, "settle", lambda *_: None)


@caught_by(L.test_a_call_moves_no_more_than_its_limit, L.test_a_mass_lapse_comes_in_portions)
def due_has_no_limit(patch: pytest.MonkeyPatch) -> None:
    around(patch, Upkeep, "due", lambda due, self, limit, *rest, **o: due(self, 10**6, *rest, **o))


@caught_by(L.test_a_lost_message_is_sent_again)
def lost_messages_stay_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Upkeep, "_lost", lambda *_: [])


# --- sessions --------------------------------------------------------------------------------


@caught_by(L.test_claims_of_a_silent_session_lapse_as_deaths, L.test_the_third_lapse_quarantines)
def a_lapse_is_not_a_death(patch: pytest.MonkeyPatch) -> None:
    def lapse(job: Any, now: float, *, guard: bool, kind: str = "lapsed") -> Any:
        return state.handback(job, now, guard=guard)

    patch.setattr(state, "lapse", lapse)


@caught_by(L.test_nothing_lapses_right_after_an_outage)
def an_outage_lapses_claims(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Upkeep, "_may_lapse", lambda *_: True)


@caught_by(L.test_renewal_keeps_all_claims_of_a_session)
def renewal_does_not_extend(patch: pytest.MonkeyPatch) -> None:
    def extend(original: Any, self: Any, session: Any, now: float) -> None:
        if session.id not in self._sessions:
            original(self, session, now)

    around(patch, Upkeep, "_extend", extend)


@caught_by(L.test_renewal_names_what_is_lost)
def lost_claims_are_not_reported(patch: pytest.MonkeyPatch) -> None:
    async def renew(original: Any, self: Any, *arguments: Any, **options: Any) -> Any:
        return replace(await original(self, *arguments, **options), lost=())

    around(patch, FusedResultBackend, "renew", renew)


@caught_by(L.test_claims_that_a_session_does_not_list_are_handed_back)
def orphans_stay_claimed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Upkeep, "_hand_back_orphans", lambda *_, **__: None)


@caught_by(L.test_claims_that_a_session_does_not_list_are_handed_back)
def young_claims_are_taken_for_orphans(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(state, "ORPHAN_AGE", -1.0)


@caught_by(L.test_a_session_that_renews_again_is_forgiven)
def nothing_is_forgiven(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Upkeep, "_forgive", lambda *_: None)


@caught_by(L.test_renewal_tells_of_cancels)
def renewal_is_silent_on_cancels(patch: pytest.MonkeyPatch) -> None:
    async def renew(original: Any, self: Any, *arguments: Any, **options: Any) -> Any:
        return replace(await original(self, *arguments, **options), cancelled={})

    around(patch, FusedResultBackend, "renew", renew)
