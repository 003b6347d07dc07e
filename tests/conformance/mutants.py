"""Faults to plant in the memory drivers: each breaks one promise, and names the test that sees it.

A fault patches a driver's class, or one of the pure transitions that the drivers apply.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

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
from bananas_core import state
from bananas_core.job import JobState, OutcomeKind, VerdictKind, WriteAnswer
from bananas_core.testing.conformance import ResultBackendConformance, TransportConformance

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
