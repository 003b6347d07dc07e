"""Faults to plant in the engine of workflows: each breaks one rule of it, and names the test that
sees it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace
from plant import around, caught_by

from bananas_core import follow
from bananas_core.errors import ResultBackendError
from bananas_core.job import FINAL, Doc, Settled, Write
from bananas_core.testing.conformance import ResultBackendConformance as L
from bananas_core.workflow import completion, ending, engine, pages, release, resume, rules
from bananas_core.workflow.node import End, Policy, Trigger
from bananas_core.workflow.pages import Writing
from bananas_core.workflow.rules import Counts
from bananas_core.workflow.turn import Turn


@caught_by(L.test_two_followers_at_once_join_once)
def the_join_reads_before_it_writes(patch: pytest.MonkeyPatch) -> None:
    """It decides by the page that it read, with its own mark in it, and writes that later."""
    late: list[asyncio.Task[None]] = []

    async def write_later(original: Any, backend: Any, docs: Any, values: Any) -> None:
        ends = {key: _difference(docs.get(key), value) for key, value in values.items()}
        while values:
            docs = (await original(backend, docs, values)).lost
            values = {
                key: pages.marked(None if doc is None else doc.value, ends[key])
                for key, doc in docs.items()
            }

    async def write(original: Any, *arguments: Any) -> Writing:
        late.append(asyncio.ensure_future(write_later(original, *arguments)))
        return Writing(done=dict(arguments[-1]), lost={})

    async def arrive(original: Any, *arguments: Any) -> None:
        await original(*arguments)
        await asyncio.gather(*late)

    around(patch, engine, "write_round", write)
    around(patch, engine, "_arrive", arrive)


def _difference(old: Doc | None, new: bytes) -> dict[int, End]:
    """What a page says that it did not say before."""
    return {
        i: pages.end_at(new, i)
        for i in range(len(new))
        if pages.end_at(None if old is None else old.value, i) is not pages.end_at(new, i)
    }


@caught_by(
    L.test_two_followers_at_once_join_once, L.test_a_large_group_joins_once_with_small_documents
)
def a_lost_race_for_a_page_is_ignored(patch: pytest.MonkeyPatch) -> None:
    async def write(original: Any, backend: Any, docs: Any, values: Any) -> Writing:
        await backend.cas([Write(key=key, value=value) for key, value in values.items()])
        return Writing(done=dict(values), lost={})

    around(patch, engine, "write_round", write)


@caught_by(L.test_a_large_dag_joins_over_several_pages)
def a_join_looks_at_its_own_page_only(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(engine, "_one_page", lambda _: True)


@caught_by(L.test_a_large_group_joins_once_with_small_documents)
def sums_are_taken_before_the_page_is_full(patch: pytest.MonkeyPatch) -> None:
    async def written(original: Any, turn: Any, scope: Any, numbers: Any) -> Any:
        return await original(turn, scope, [n for n in numbers if n != 1])

    around(patch, completion, "write_sums", written)


@caught_by(L.test_a_crash_at_any_call_of_a_follow_up_is_made_good)
def it_is_settled_before_successors_are_released(patch: pytest.MonkeyPatch) -> None:
    async def records(original: Any, backend: Any, wanted: Any) -> Any:
        jobs = await original(backend, wanted)
        done = [Settled(id=j.id, gen=j.gen, followed=True) for j in jobs if j.state in FINAL]
        await backend.put([], settled=done)
        return jobs

    around(patch, follow, "_records", records)


@caught_by(L.test_a_crash_at_any_call_of_a_follow_up_is_made_good)
def an_incomplete_follow_up_is_settled(patch: pytest.MonkeyPatch) -> None:
    async def advance(original: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return await original(*arguments, **options)
        except ResultBackendError:
            return []

    around(patch, engine, "advance", advance)


@caught_by(L.test_a_crash_at_any_call_of_a_follow_up_is_made_good)
def a_started_scope_is_not_gone_through_again(patch: pytest.MonkeyPatch) -> None:
    async def opened(original: Any, turn: Any, scopes: Any) -> None:
        await original(turn, [scope for scope in scopes if scope.job.started_at is None])

    around(patch, release, "open_scopes", opened)


@caught_by(L.test_a_handled_failure_does_not_end_the_whole, L.test_all_members_skipped_complete)
def a_skipped_node_counts_as_failed(patch: pytest.MonkeyPatch) -> None:
    def end(original: Any, job: Any) -> Any:
        found = original(job)
        return rules.End.FAILED if found is rules.End.SKIPPED else found

    around(patch, rules, "end_of", end)
    patch.setattr(ending, "end_of", rules.end_of)


@caught_by(L.test_a_quorum_is_reached_with_the_last_success_it_needs)
def a_quorum_needs_one_more(patch: pytest.MonkeyPatch) -> None:
    def judge(original: Any, scope: Any, counts: Counts, size: Any) -> Any:
        return original(scope, replace(counts, completed=max(0, counts.completed - 1)), size)

    around(patch, rules, "_quorum", judge)


@caught_by(L.test_a_quorum_fails_with_the_failure_that_makes_it_impossible)
def a_quorum_fails_one_too_early(patch: pytest.MonkeyPatch) -> None:
    def judge(original: Any, scope: Any, counts: Counts, size: Any) -> Any:
        return original(scope, replace(counts, failed=counts.failed + 1), size)

    around(patch, rules, "_quorum", judge)


@caught_by(L.test_the_first_failure_cancels_what_has_not_ended)
def what_is_left_in_a_failed_scope_runs_on(patch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: Any) -> None: ...

    patch.setattr(engine, "cancel_insides", nothing)


@caught_by(L.test_a_handled_failure_does_not_end_the_whole)
def nobody_handles_failures(patch: pytest.MonkeyPatch) -> None:
    around(patch, engine, "fails_scope", lambda original, scope, end, _: original(scope, end, []))


@caught_by(L.test_a_dag_that_ignores_goes_on_with_other_branches)
def a_failed_predecessor_does_not_matter(patch: pytest.MonkeyPatch) -> None:
    def why(original: Any, node: Any, ends: Any) -> Any:
        return original(replace(node, trigger=Trigger.DONE), ends)

    around(patch, release, "why_not", why)


@caught_by(L.test_a_tolerated_failure_counts_as_success)
def tolerance_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    def counted(original: Any, scope: Any, node: Any, end: Any) -> Any:
        return original(scope, replace(node, on_failure=Policy.FAIL), end)

    around(patch, ending, "counted", counted)


@caught_by(L.test_conditions_look_into_results)
def conditions_always_hold(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(release, "holds", lambda *_: True)


@caught_by(L.test_what_a_job_adds_is_waited_for_at_two_depths)
def what_was_added_is_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    async def arrivals(original: Any, turn: Any, nodes: Any, docs: Any) -> Any:
        found = await original(turn, nodes, docs)
        seen = {item.id for item in found}
        jobs = [n for n in nodes if not n.job.scope and n.job.id not in seen]
        return found + [ending._plain(node) for node in jobs]

    around(patch, engine, "arrivals", arrivals)


@caught_by(L.test_a_stream_completes_only_once_it_is_sealed)
def a_stream_completes_without_a_seal(patch: pytest.MonkeyPatch) -> None:
    async def sizes(original: Any, turn: Any, scopes: Any) -> Any:
        return {id: size or 0 for id, size in (await original(turn, scopes)).items()}

    around(patch, Turn, "sizes", sizes)


@caught_by(L.test_empty_groups_complete_at_once)
def an_empty_group_waits_for_ever(patch: pytest.MonkeyPatch) -> None:
    around(patch, completion, "ending", lambda end, s, c, size: end(s, c, size) if size else None)


@caught_by(L.test_a_resumed_workflow_runs_what_did_not_succeed)
def a_resume_forgets_the_pages(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(resume, "marked", lambda page, _: pages.marked(page, {}))


@caught_by(L.test_a_rerun_runs_a_node_and_what_follows)
def a_rerun_runs_one_node(patch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: Any) -> None: ...

    patch.setattr(resume, "_add_downstream", nothing)


@caught_by(L.test_a_crash_at_any_call_of_a_resume_is_made_good)
def a_resume_is_not_written_down(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(resume, "resume_key", lambda workflow: f"job/{workflow}/elsewhere/{id(object())}")
