"""Faults to plant in nodes, scopes and what follows from an end."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from plant import around, caught_by

from bananas_brokers.memory import reads
from bananas_brokers.memory.results import FusedResultBackend
from bananas_brokers.memory.upkeep import Upkeep
from bananas_core import state
from bananas_core.job import (
    FINAL,
    Job,
    JobState,
    ReadyKind,
    SignalKind,
)
from bananas_core.testing.conformance import ResultBackendConformance, TransportConformance

T, L = TransportConformance, ResultBackendConformance


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
