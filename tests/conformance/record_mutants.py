"""Faults to plant in signals, reads, documents, events and prune."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from plant import around, caught_by

from bananas_brokers.memory import reads
from bananas_brokers.memory.documents import Documents
from bananas_brokers.memory.records import Records
from bananas_brokers.memory.upkeep import Upkeep
from bananas_core import state
from bananas_core.job import (
    JobState,
    VerdictKind,
    WriteAnswer,
)
from bananas_core.testing.conformance import ResultBackendConformance, TransportConformance

T, L = TransportConformance, ResultBackendConformance


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
