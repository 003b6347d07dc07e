"""Faults to plant in unique keys."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from plant import around, caught_by

from bananas_core import unique, unique_put
from bananas_core.job import (
    Job,
    JobState,
    PutAnswer,
    PutKind,
    Write,
)
from bananas_core.testing.conformance import ResultBackendConformance, TransportConformance
from bananas_core.unique_rule import Until

T, L = TransportConformance, ResultBackendConformance


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
