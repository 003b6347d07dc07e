"""Faults to plant in the memory drivers: each breaks one promise, and names the test that sees it.

A fault patches a driver's class, or one of the pure transitions that the drivers apply.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from bananas_brokers.memory import reads
from bananas_brokers.memory.documents import Documents
from bananas_brokers.memory.ledger import Ledger
from bananas_brokers.memory.queues import Queues
from bananas_brokers.memory.records import Records
from bananas_brokers.memory.results import FusedResultBackend
from bananas_brokers.memory.transport import FusedTransport
from bananas_brokers.memory.upkeep import Upkeep
from bananas_core import state, unique, unique_put
from bananas_core.job import (
    FINAL,
    Job,
    JobState,
    OutcomeKind,
    PutAnswer,
    PutKind,
    ReadyKind,
    SignalKind,
    VerdictKind,
    Write,
    WriteAnswer,
)
from bananas_core.limits import calendar, limiter, rate, slots
from bananas_core.testing.conformance import ResultBackendConformance, TransportConformance
from bananas_core.unique_rule import Until

Plant = Callable[[pytest.MonkeyPatch], None]
T, L = TransportConformance, ResultBackendConformance

MUTANTS: list[tuple[Plant, Callable[..., Any]]] = []


def caught_by(*tests: Any) -> Callable[[Plant], Plant]:
    """Each of these tests must fail on a driver with this fault."""

    def mark(plant: Plant) -> Plant:
        MUTANTS.extend((plant, test) for test in tests)
        return plant

    return mark


def around(patch: pytest.MonkeyPatch, owner: Any, name: str, fault: Callable[..., Any]) -> None:
    """Replace ``owner.name`` by ``fault(original, *arguments)``."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **options: fault(original, *args, **options))


# --- the transport ---------------------------------------------------------------------------


@caught_by(T.test_an_acked_message_never_comes_again)
def ack_keeps_the_message(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Queues, "ack", lambda *_: True)


@caught_by(
    T.test_an_unacked_delivery_comes_again_after_its_lease, T.test_close_gives_deliveries_back
)
def receive_is_an_ack(patch: pytest.MonkeyPatch) -> None:
    def lease(original: Any, queues: Queues, queue: str, now: float) -> Any:
        found = original(queues, queue, now)
        if found is not None:
            queues.ack(found[1], now)
        return found

    around(patch, Queues, "lease", lease)


@caught_by(T.test_every_message_of_a_batch_arrives)
def a_batch_drops_half(patch: pytest.MonkeyPatch) -> None:
    async def send(original: Any, self: Any, messages: Any) -> Any:
        kept = messages[: (len(messages) + 1) // 2]
        return await original(self, kept) + [None] * (len(messages) - len(kept))

    around(patch, FusedTransport, "send", send)


@caught_by(T.test_the_most_important_comes_first, T.test_levels_come_in_order)
def priority_is_ignored(patch: pytest.MonkeyPatch) -> None:
    def send(original: Any, self: Any, message: Any, number: int, now: float) -> None:
        original(self, replace(message, priority=50), number, now)

    around(patch, Queues, "send", send)


@caught_by(T.test_equals_come_in_the_order_sent)
def the_last_comes_first(patch: pytest.MonkeyPatch) -> None:
    around(patch, Queues, "send", lambda send, self, m, number, now: send(self, m, -number, now))


@caught_by(T.test_a_delivery_belongs_to_one_receiver)
def two_receivers_get_it(patch: pytest.MonkeyPatch) -> None:
    def lease(original: Any, self: Any, queue: str, now: float) -> Any:
        found = original(self, queue, now)
        if found is not None and found[0].deliveries == 1:
            self.release(found[1], now)
        return found

    around(patch, Queues, "lease", lease)


@caught_by(T.test_a_buried_message_stays_but_is_not_delivered)
def bury_throws_away(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Queues, "bury", lambda self, token, reason, now: self.ack(token, now))


@caught_by(T.test_a_waiting_receiver_is_woken_by_a_send)
def nobody_rings(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("bananas_brokers.memory.transport._LOOK", 30.0)
    patch.setattr("bananas_brokers.memory.bell.Bell.ring", lambda *_: None)


@caught_by(T.test_a_cancelled_receive_loses_nothing)
def a_cancelled_receive_takes_with_it(patch: pytest.MonkeyPatch) -> None:
    async def receive(original: Any, self: Any, *arguments: Any) -> Any:
        found = await original(self, *arguments)
        await self.ack(found)
        await asyncio.sleep(0)
        return found

    around(patch, FusedTransport, "receive", receive)


@caught_by(T.test_a_pending_record_is_received_without_a_message)
def a_fused_receive_does_not_claim(patch: pytest.MonkeyPatch) -> None:
    def claim(original: Any, self: Any, session: str, job: Any, now: float) -> Any:
        verdict = original(self, session, job, now)
        self._records.set(job)
        return verdict

    around(patch, Ledger, "claim_pending", claim)


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


# --- signals, reads, documents, events, prune -------------------------------------------------


@caught_by(L.test_a_cancelled_job_that_fails_ends_cancelled)
def the_cancel_flag_is_ignored(patch: pytest.MonkeyPatch) -> None:
    def finish(original: Any, job: Any, *rest: Any, guard: bool) -> Any:
        return original(None if job is None else replace(job, cancel=None), *rest, guard=guard)

    around(patch, state, "finish", finish)


@caught_by(L.test_a_job_that_is_not_running_ends_cancelled)
def a_cancelled_job_can_be_claimed(patch: pytest.MonkeyPatch) -> None:
    def claim(original: Any, job: Any, hint: Any, *rest: Any) -> Any:
        if job is not None and job.state is JobState.CANCELLED:
            return VerdictKind.EARLY, job
        return original(job, hint, *rest)

    around(patch, state, "claim", claim)


@caught_by(L.test_a_listing_sees_each_job_once_while_others_come, L.test_each_condition_selects)
def the_cursor_skips(patch: pytest.MonkeyPatch) -> None:
    def query(original: Any, jobs: Any, wish: Any) -> Any:
        page = original(jobs, wish)
        return page if wish.cursor is None else replace(page, jobs=page.jobs[1:])

    around(patch, reads, "query", query)


@caught_by(L.test_a_waiter_is_told_of_the_end)
def a_waiter_sleeps_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("bananas_brokers.memory.bell.Bell.ring", lambda *_: None)


@caught_by(L.test_a_write_applies_only_to_its_version, L.test_of_racing_writes_one_applies)
def cas_ignores_the_version(patch: pytest.MonkeyPatch) -> None:
    def write(original: Any, self: Any, write: Any, now: float) -> WriteAnswer:
        answer: WriteAnswer = original(self, replace(write, version=None), now)
        return answer

    around(patch, Documents, "_write", write)


@caught_by(L.test_versions_never_repeat, L.test_a_delete_obeys_its_version_too)
def versions_begin_anew(patch: pytest.MonkeyPatch) -> None:
    def remove(original: Any, self: Any, key: str) -> None:
        original(self, key)
        self._version = 0

    around(patch, Documents, "_remove", remove)


@caught_by(L.test_an_expired_document_is_absent)
def documents_do_not_expire(patch: pytest.MonkeyPatch) -> None:
    around(patch, Documents, "_get", lambda get, self, key, now: get(self, key, 0.0))


@caught_by(L.test_every_change_of_state_is_told_in_order)
def some_events_are_missing(patch: pytest.MonkeyPatch) -> None:
    def event(original: Any, old: Any, new: Any) -> Any:
        return None if new.state is JobState.PROCESSING else original(old, new)

    around(patch, state, "event", event)


@caught_by(L.test_a_cursor_older_than_what_is_kept_says_so)
def an_expired_cursor_goes_unnoticed(patch: pytest.MonkeyPatch) -> None:
    def events(original: Any, self: Any, after: str, limit: int) -> Any:
        if after.isdigit() and int(after) + 1 < self._first_event:
            after = ""
        return original(self, after, limit)

    around(patch, Records, "events", events)


@caught_by(L.test_nothing_young_is_ever_deleted)
def prune_deletes_what_is_young(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("bananas_brokers.memory.upkeep._YOUNGEST", 0.0)
    patch.setattr(state, "prunable", lambda *_: True)


@caught_by(L.test_nothing_live_is_ever_deleted)
def prune_deletes_what_is_live(patch: pytest.MonkeyPatch) -> None:
    def prune(original: Any, self: Any, policy: Any, limit: int, now: float) -> Any:
        gone = [j for j in self._records.jobs.values() if j.created_at + 600.0 < now][:limit]
        for job in gone:
            del self._records.jobs[job.id]
        return len(gone)

    around(patch, Upkeep, "prune", prune)


@caught_by(L.test_documents_go_with_their_job)
def documents_stay_behind(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Documents, "delete_prefix", lambda *_: None)


# --- nodes, scopes and what follows from an end ------------------------------------------------


@caught_by(L.test_what_waits_is_kept_as_it_was_put, L.test_a_released_record_is_received)
def nothing_waits(patch: pytest.MonkeyPatch) -> None:
    def create(original: Any, put: Any, now: float, **options: Any) -> Any:
        return original(replace(put, waiting=False), now, **options)

    around(patch, state, "create", create)


@caught_by(L.test_what_waits_is_not_claimed, L.test_a_retried_job_waits_for_its_key)
def what_waits_is_claimed(patch: pytest.MonkeyPatch) -> None:
    def claim(original: Any, job: Any, *rest: Any) -> Any:
        if job is not None and job.state is JobState.WAITING:
            job = replace(job, state=JobState.PENDING)
        return original(job, *rest)

    around(patch, state, "claim", claim)


@caught_by(L.test_a_delay_counts_from_the_release)
def a_delay_counts_from_the_put(patch: pytest.MonkeyPatch) -> None:
    def create(original: Any, put: Any, now: float, **options: Any) -> Any:
        if put.waiting and put.delay is not None:
            put = replace(put, run_at=now + put.delay, delay=None)
        return original(put, now, **options)

    around(patch, state, "create", create)


@caught_by(L.test_a_released_job_is_pending)
def a_released_job_is_not_sent(patch: pytest.MonkeyPatch) -> None:
    around(
        patch,
        state,
        "calls_for",
        lambda calls, old, new, **o: (
            None if old and old.state is JobState.WAITING else calls(old, new, **o)
        ),
    )


@caught_by(L.test_a_release_may_be_repeated_or_too_late)
def a_release_runs_a_job_anew(patch: pytest.MonkeyPatch) -> None:
    def release(original: Any, job: Any, *rest: Any, **options: Any) -> Any:
        if job.state is JobState.COMPLETED:
            job = replace(job, state=JobState.WAITING, finished_at=None)
        return original(job, *rest, **options)

    around(patch, state, "_release", release)


@caught_by(L.test_a_scope_is_started_once)
def a_scope_is_started_again(patch: pytest.MonkeyPatch) -> None:
    def release(original: Any, job: Any, *rest: Any, **options: Any) -> Any:
        return original(replace(job, started_at=None) if job.scope else job, *rest, **options)

    around(patch, state, "_release", release)


@caught_by(L.test_a_scope_has_its_time_from_its_start)
def a_scope_has_all_the_time(patch: pytest.MonkeyPatch) -> None:
    def release(original: Any, job: Any, *rest: Any, **options: Any) -> Any:
        return original(replace(job, queue_timeout=None), *rest, **options)

    around(patch, state, "_release", release)


@caught_by(L.test_what_waits_past_its_time_ends_as_expired)
def what_waits_does_not_expire(patch: pytest.MonkeyPatch) -> None:
    def create(original: Any, put: Any, now: float, **options: Any) -> Any:
        return original(replace(put, expires_at=None), now, **options)

    around(patch, state, "create", create)


@caught_by(L.test_only_what_waits_is_ended)
def anything_is_ended(patch: pytest.MonkeyPatch) -> None:
    def end(original: Any, job: Any, *rest: Any) -> Any:
        return original(replace(job, state=JobState.WAITING), *rest)

    around(patch, state, "_end_waiting", end)


@caught_by(L.test_an_end_may_be_repeated_and_is_not_undone)
def a_repeated_end_is_refused(patch: pytest.MonkeyPatch) -> None:
    def end(original: Any, job: Any, *rest: Any) -> Any:
        return original(job, *rest) if job.state is JobState.WAITING else (False, job)

    around(patch, state, "_end_waiting", end)


@caught_by(L.test_what_waits_ends_as_it_is_told)
def an_end_keeps_no_result(patch: pytest.MonkeyPatch) -> None:
    def end(original: Any, job: Any, wish: Any, now: float) -> Any:
        return original(job, replace(wish, result=None), now)

    around(patch, state, "_end_waiting", end)


@caught_by(L.test_nothing_else_can_be_reset)
def plain_jobs_can_be_reset(patch: pytest.MonkeyPatch) -> None:
    around(patch, state, "_reset", lambda reset, job, now: reset(replace(job, workflow="w"), now))


@caught_by(L.test_a_final_node_waits_again_with_fresh_attempts)
def a_reset_keeps_the_failures(patch: pytest.MonkeyPatch) -> None:
    def reset(original: Any, job: Any, now: float) -> Any:
        done, new = original(job, now)
        return done, replace(new, failures=job.failures) if done else new

    around(patch, state, "_reset", reset)


@caught_by(L.test_a_started_scope_is_unstarted_again)
def a_reset_scope_goes_on(patch: pytest.MonkeyPatch) -> None:
    def reset(original: Any, job: Any, now: float) -> Any:
        done, new = original(job, now)
        return done, replace(new, started_at=job.started_at, start_by=job.start_by)

    around(patch, state, "_reset", reset)


@caught_by(
    L.test_a_reset_of_one_generation_happens_once, L.test_a_change_of_one_generation_happens_once
)
def the_generation_of_a_signal_is_ignored(patch: pytest.MonkeyPatch) -> None:
    def signal(original: Any, job: Any, wish: Any, *rest: Any, **options: Any) -> Any:
        return original(job, replace(wish, gen=None), *rest, **options)

    around(patch, state, "signal", signal)


@caught_by(L.test_a_change_of_the_message_is_what_runs)
def a_changed_message_gets_lost(patch: pytest.MonkeyPatch) -> None:
    def signal(original: Any, job: Any, wish: Any, *rest: Any, **options: Any) -> Any:
        return original(job, replace(wish, message=None), *rest, **options)

    around(patch, state, "signal", signal)


@caught_by(L.test_a_change_has_a_latest_time)
def a_change_may_be_put_off_for_ever(patch: pytest.MonkeyPatch) -> None:
    def signal(original: Any, job: Any, wish: Any, *rest: Any, **options: Any) -> Any:
        return original(job, replace(wish, latest=None), *rest, **options)

    around(patch, state, "signal", signal)


@caught_by(L.test_a_retried_job_waits_for_its_key)
def a_retried_job_does_not_wait_for_its_key(patch: pytest.MonkeyPatch) -> None:
    def signal(original: Any, job: Any, wish: Any, *rest: Any, **options: Any) -> Any:
        done, new = original(job, wish, *rest, **options)
        if done and wish.kind is SignalKind.RETRY and new.state is JobState.WAITING:
            new = replace(new, state=JobState.PENDING)
        return done, new

    around(patch, state, "signal", signal)


@caught_by(
    L.test_an_end_is_to_be_followed_up,
    L.test_a_cancel_is_to_be_followed_up,
    L.test_a_last_death_told_by_renew_is_to_be_followed_up,
)
def nobody_is_told_of_an_end(patch: pytest.MonkeyPatch) -> None:
    def calls_for(original: Any, *arguments: Any, **options: Any) -> Any:
        kind = original(*arguments, **options)
        return None if kind is ReadyKind.FOLLOW else kind

    around(patch, state, "calls_for", calls_for)


@caught_by(L.test_an_expired_job_is_to_be_followed_up, L.test_a_scope_has_its_time_from_its_start)
def nobody_is_told_of_an_expiry(patch: pytest.MonkeyPatch) -> None:
    def expire(original: Any, *arguments: Any) -> Any:
        return replace(original(*arguments), guard_at=None)

    around(patch, state, "_expire", expire)


@caught_by(L.test_a_last_lapse_is_to_be_followed_up)
def nobody_is_told_of_a_last_lapse(patch: pytest.MonkeyPatch) -> None:
    def lapse(original: Any, *arguments: Any, **options: Any) -> Any:
        new = original(*arguments, **options)
        return replace(new, guard_at=None) if new.state in FINAL else new

    around(patch, state, "lapse", lapse)


@caught_by(L.test_an_end_is_to_be_followed_up, L.test_what_waits_ends_as_it_is_told)
def plain_ends_are_followed_up_too(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Job, "followed", property(lambda _: True))


@caught_by(
    L.test_a_follow_up_is_repeated_with_growing_holds,
    L.test_a_job_that_expires_at_its_claim_is_followed_up,
    L.test_a_job_that_waits_for_its_key_is_asked_after,
)
def a_follow_up_is_asked_for_once(patch: pytest.MonkeyPatch) -> None:
    def look(original: Any, job: Any, now: float, **options: Any) -> Any:
        kind, new = original(job, now, **options)
        if kind is ReadyKind.FOLLOW and new.state is job.state:
            return None, replace(new, guard_at=None)
        return kind, new

    around(patch, state, "look", look)


@caught_by(L.test_follow_ups_respect_the_limit)
def follow_ups_come_without_limit(patch: pytest.MonkeyPatch) -> None:
    around(patch, Upkeep, "due", lambda due, self, limit, *rest, **o: due(self, 10**6, *rest, **o))


@caught_by(L.test_a_settled_follow_up_is_not_repeated, L.test_what_is_not_followed_up_stays)
def follow_ups_are_not_settled(patch: pytest.MonkeyPatch) -> None:
    around(
        patch,
        state,
        "settle",
        lambda settle, job, item: job if item.followed else settle(job, item),
    )


@caught_by(L.test_a_confirmed_send_settles_no_follow_up)
def a_send_settles_the_follow_up(patch: pytest.MonkeyPatch) -> None:
    def settle(original: Any, job: Any, item: Any) -> Any:
        return original(job, replace(item, followed=item.followed or job.state in FINAL))

    around(patch, state, "settle", settle)


@caught_by(L.test_a_follow_up_settles_no_send)
def a_follow_up_settles_the_send(patch: pytest.MonkeyPatch) -> None:
    def settle(original: Any, job: Any, item: Any) -> Any:
        return original(job, replace(item, followed=item.followed and job.state in FINAL))

    around(patch, state, "settle", settle)


@caught_by(L.test_an_older_end_settles_nothing)
def any_generation_settles(patch: pytest.MonkeyPatch) -> None:
    around(patch, state, "settle", lambda settle, job, i: settle(job, replace(i, gen=job.gen)))


@caught_by(L.test_what_is_not_followed_up_stays)
def prune_does_not_wait_for_follow_ups(patch: pytest.MonkeyPatch) -> None:
    def prune_at(original: Any, job: Any, policy: Any) -> Any:
        return original(replace(job, guard_at=None), policy)

    around(patch, state, "prune_at", prune_at)


@caught_by(L.test_a_node_stays_until_its_workflow_may_go, L.test_nodes_that_stay_hold_up_nobody)
def prune_ignores_the_workflow(patch: pytest.MonkeyPatch) -> None:
    around(patch, state, "prunable", lambda may_go, job, now, policy, *_: may_go(job, now, policy))


@caught_by(L.test_documents_are_read_in_the_order_of_keys)
def documents_are_read_in_order_of_their_keys(patch: pytest.MonkeyPatch) -> None:
    async def get_docs(original: Any, self: Any, keys: Any) -> Any:
        return await original(self, sorted(keys))

    around(patch, FusedResultBackend, "get_docs", get_docs)


@caught_by(L.test_documents_are_read_in_the_order_of_keys)
def absent_documents_are_left_out(patch: pytest.MonkeyPatch) -> None:
    async def get_docs(original: Any, self: Any, keys: Any) -> Any:
        return [doc for doc in await original(self, keys) if doc is not None]

    around(patch, FusedResultBackend, "get_docs", get_docs)


@caught_by(L.test_a_read_sees_every_confirmed_write)
def documents_are_read_from_a_cache(patch: pytest.MonkeyPatch) -> None:
    async def get_docs(original: Any, self: Any, keys: Any) -> Any:
        cache = self.__dict__.setdefault("cache", {})
        for key in keys:
            if key not in cache:
                cache[key] = (await original(self, [key]))[0]
        return [cache[key] for key in keys]

    around(patch, FusedResultBackend, "get_docs", get_docs)


@caught_by(L.test_nodes_and_holders_of_a_key_are_listed, L.test_nodes_are_counted_by_workflow)
def a_listing_ignores_the_workflow(patch: pytest.MonkeyPatch) -> None:
    around(
        patch,
        reads,
        "_matches",
        lambda matches, job, wish: matches(job, replace(wish, workflow=None)),
    )


@caught_by(L.test_nodes_and_holders_of_a_key_are_listed)
def a_listing_ignores_the_key(patch: pytest.MonkeyPatch) -> None:
    around(
        patch,
        reads,
        "_matches",
        lambda matches, job, wish: matches(job, replace(wish, unique=None)),
    )


@caught_by(L.test_events_of_nodes_name_their_workflow)
def events_name_no_workflow(patch: pytest.MonkeyPatch) -> None:
    def event(original: Any, old: Any, new: Any) -> Any:
        found = original(old, new)
        return None if found is None else replace(found, workflow=None)

    around(patch, state, "event", event)


# --- unique keys -----------------------------------------------------------------------------


@caught_by(L.test_of_racing_submits_one_gets_the_key, L.test_a_key_is_free_when_its_job_has_ended)
def a_live_key_is_taken_over(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(unique, "held", lambda value, owner, now: False)


@caught_by(L.test_a_key_is_free_when_its_job_has_ended)
def a_key_is_held_until_its_end_is_followed_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(unique, "held", lambda value, owner, now: True)


@caught_by(L.test_a_job_keeps_its_key_over_all_its_attempts)
def a_key_is_free_once_its_job_was_claimed(patch: pytest.MonkeyPatch) -> None:
    around(
        patch,
        unique,
        "held",
        lambda held, value, owner, now: held(replace(value, until=Until.STARTED), owner, now),
    )


@caught_by(L.test_until_started_frees_the_key_at_the_first_claim)
def started_means_finished(patch: pytest.MonkeyPatch) -> None:
    around(
        patch,
        unique,
        "held",
        lambda held, value, owner, now: held(replace(value, until=Until.FINISHED), owner, now),
    )


@caught_by(L.test_a_period_holds_the_key_whatever_becomes_of_the_job)
def a_period_ends_with_its_job(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(unique.Seen, "keep", lambda key: key._write(None))


@caught_by(L.test_a_submitter_may_die_at_any_call)
def a_key_without_a_record_is_held_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(unique, "HOLD", 1e9)


@caught_by(L.test_a_key_without_a_record_yet_is_waited_for)
def a_key_without_a_record_is_free_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(unique, "HOLD", 0.0)


@caught_by(L.test_a_submitter_may_stall_at_any_call)
def a_slow_submitter_is_certain(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(unique_put, "MARGIN", -1e9)


@caught_by(L.test_a_takeover_that_was_decided_before_comes_too_late)
def a_key_is_verified_by_reading_it(patch: pytest.MonkeyPatch) -> None:
    async def take(original: Any, backend: Any, takes: Any) -> Any:
        mine = {n: t for n, t in takes.items() if t[0].id == _owner(t[1]) and t[1].version}
        rest = {n: t for n, t in takes.items() if n not in mine}
        return [(job, True) for job, _ in mine.values()] + await original(backend, rest)

    around(patch, unique, "_take", take)


@caught_by(L.test_a_late_follow_up_does_not_free_the_next_ones_key)
def a_follow_up_deletes_whoever_holds_the_key(patch: pytest.MonkeyPatch) -> None:
    async def pass_on(_: Any, backend: Any, jobs: Any) -> list[Any]:
        await backend.cas([Write(key=unique.doc_key(j.unique), value=None) for j in jobs])
        return []

    around(patch, unique, "pass_on", pass_on)


@caught_by(
    L.test_a_job_keeps_its_key_over_all_its_attempts,
    L.test_a_follow_up_may_die_at_any_call,
    L.test_keep_last_runs_once_more_with_the_newest,
)
def nothing_follows_the_end_of_a_holder(patch: pytest.MonkeyPatch) -> None:
    async def pass_on(_: Any, backend: Any, jobs: Any) -> list[Any]:
        return []

    around(patch, unique, "pass_on", pass_on)


@caught_by(L.test_a_retried_job_ends_if_another_has_its_key)
def a_waiting_job_is_released_without_its_key(patch: pytest.MonkeyPatch) -> None:
    around(patch, unique, "_duplicate", lambda _, job, holder: unique._go(job))


@caught_by(L.test_a_submitter_that_died_leaves_nothing_that_waits)
def nobody_decides_what_waits(patch: pytest.MonkeyPatch) -> None:
    async def decide(_: Any, backend: Any, jobs: Any) -> Any:
        return unique.Decision()

    around(patch, unique, "decide", decide)


@caught_by(L.test_keep_last_runs_once_more_with_the_newest)
def a_follow_up_does_not_wait_for_the_job_before_it(patch: pytest.MonkeyPatch) -> None:
    around(
        patch,
        unique,
        "held",
        lambda held, value, owner, now: (
            held(value, owner, now) and (owner is None or owner.state is not JobState.PROCESSING)
        ),
    )


@caught_by(
    L.test_racing_submits_make_one_follow_up, L.test_keep_last_runs_once_more_with_the_newest
)
def every_submit_makes_a_follow_up_of_its_own(patch: pytest.MonkeyPatch) -> None:
    numbers = itertools.count()
    around(patch, unique, "next_id", lambda of, value, number=0: of(value, next(numbers)))


@caught_by(L.test_a_follow_up_that_comes_after_the_end_runs_at_once)
def a_late_follow_up_is_left_to_its_guard(patch: pytest.MonkeyPatch) -> None:
    async def decide(_: Any, backend: Any, jobs: Any) -> Any:
        return unique.Decision()

    around(patch, unique_put, "decide", decide)


@caught_by(L.test_submitting_again_with_the_same_id_is_safe)
def a_repeated_submit_takes_the_key_again(patch: pytest.MonkeyPatch) -> None:
    async def look(original: Any, backend: Any, keys: Any, ids: Any = ()) -> Any:
        seen, _ = await original(backend, keys, ids)
        return seen, {}

    async def repeated(batch: Any, i: int, own: Job) -> None:
        batch.answers[i] = PutAnswer(kind=PutKind.EXISTS, id=own.id)

    patch.setattr(unique_put._Batch, "_repeated", repeated)
    around(patch, unique_put, "look", look)


@caught_by(L.test_a_submitter_that_died_leaves_nothing_that_waits)
def nobody_tidies_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(unique, "TIDY", 0)


@caught_by(L.test_tidying_spares_keys_that_are_on_their_way)
def every_old_key_is_tidied_away(patch: pytest.MonkeyPatch) -> None:
    async def records(original: Any, backend: Any, ids: Any) -> Any:
        return {} if isinstance(ids, list) else await original(backend, ids)

    around(patch, unique, "records", records)


def _owner(write: Write) -> str | None:
    return None if write.value is None else str(msgspec.json.decode(write.value)["owner"])


# --- limits ----------------------------------------------------------------------------------


@caught_by(L.test_no_turn_is_given_twice)
def a_turn_is_granted_twice(patch: pytest.MonkeyPatch) -> None:
    def take(original: Any, rule: Any, state: Any, cost: int, offer: Any, now: float) -> Any:
        taken = original(rule, state, cost, offer, now)
        even = round(offer.place / rate.interval(rule)) % 2 == 0
        return replace(taken, tat=state.tat) if even else taken

    around(patch, rate, "take", take)


@caught_by(L.test_never_more_holders_than_slots)
def the_slot_of_a_live_holder_is_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(limiter, "over", lambda *_: True)


@caught_by(L.test_the_slot_of_a_dead_holder_is_free)
def a_dead_holder_keeps_its_slot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(limiter, "over", lambda *_: False)


@caught_by(L.test_a_calendar_window_is_exact_when_the_clock_changes)
def a_window_is_off_by_an_hour(patch: pytest.MonkeyPatch) -> None:
    def start(original: Any, unit: Any, zone: Any, at: float) -> float:
        begin = float(original(unit, zone, at))  # with the offset of now, not of then
        offset = datetime.fromtimestamp(at, zone).utcoffset()
        then = datetime.fromtimestamp(begin, zone).utcoffset()
        assert offset is not None
        assert then is not None
        return begin + (then - offset).total_seconds()

    around(patch, calendar, "_start", start)


@caught_by(L.test_no_turn_is_given_twice, L.test_a_burst_is_granted_once)
def a_conflict_is_ignored(patch: pytest.MonkeyPatch) -> None:
    async def write(original: Any, self: Any, now: float) -> set[str]:
        await original(self, now)
        return set()

    around(patch, limiter._Round, "write", write)


@caught_by(L.test_a_change_counts_from_the_next_asking)
def a_change_leaves_turns_valid(patch: pytest.MonkeyPatch) -> None:
    around(patch, rate, "adopt", lambda adopt, rule, state, text, *_: replace(state, rule=text))


@caught_by(L.test_a_free_slot_goes_to_the_oldest_that_waits)
def nobody_is_called(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(slots, "call", lambda rule, state, now: (state, []))
