"""The pure rules of workflows, their pages, and what the engine costs."""

from __future__ import annotations

import inspect
import uuid
from collections import Counter
from typing import Any

import msgspec
import pytest

from bananas_brokers.memory.results import MemoryResultBackend
from bananas_core.errors import InvalidPayload, InvalidWorkflow, JobNotFound, PayloadTooLarge
from bananas_core.job import ErrorInfo, Job, JobState
from bananas_core.testing.conformance.graphs import Graph, Group, Leaf, Play, chain, chord, fails
from bananas_core.workflow import pages, rules
from bananas_core.workflow.engine import advance
from bananas_core.workflow.node import PAGE, End, Input, Kind, NodeInfo, Policy, Test, Trigger
from bananas_core.workflow.resume import rerun, resume
from bananas_core.workflow.rules import Counts
from bananas_core.workflow.turn import BATCH, Node, Turn, parts
from bananas_core.workflow.values import fill_inputs, value_of

C, F, X, S = End.COMPLETED, End.FAILED, End.CANCELLED, End.SKIPPED


@pytest.mark.parametrize(
    ("trigger", "ends", "runs"),
    [
        (Trigger.SUCCESS, [], True),
        (Trigger.SUCCESS, [C, C], True),
        (Trigger.SUCCESS, [C, S], True),
        (Trigger.SUCCESS, [S, S], False),
        (Trigger.SUCCESS, [C, F], False),
        (Trigger.SUCCESS, [C, X], False),
        (Trigger.FAILURE, [C, F], True),
        (Trigger.FAILURE, [X], True),
        (Trigger.FAILURE, [C, S], False),
        (Trigger.FAILURE, [], False),
        (Trigger.DONE, [F, S, X], True),
        (Trigger.DONE, [], True),
    ],
)
def test_which_ends_let_a_node_run(trigger: Trigger, ends: list[End], runs: bool) -> None:
    node = NodeInfo(id="w", trigger=trigger)
    assert (rules.why_not(node, ends) is None) is runs


@pytest.mark.parametrize(
    ("counts", "size", "state"),
    [
        (Counts(completed=2), None, None),
        (Counts(completed=3), None, JobState.COMPLETED),
        (Counts(completed=2, failed=2), 5, None),
        (Counts(completed=2, failed=3), 5, JobState.FAILED),
        (Counts(completed=2, failed=1, cancelled=1, skipped=1), 5, JobState.FAILED),
        (Counts(), 2, JobState.FAILED),
    ],
)
def test_when_a_quorum_ends(counts: Counts, size: int | None, state: JobState | None) -> None:
    scope = NodeInfo(id="w", kind=Kind.GROUP, policy=Policy.QUORUM, quorum=3)
    found = rules.ending(scope, counts, size)
    assert (found and found.state) == state


def test_an_unknown_condition_is_refused_and_an_odd_value_is_false() -> None:
    assert not rules.holds(Test(of="a", op="<", value=1), "text")
    assert not rules.holds(Test(of="a", op="falsy", path=("x",)), {})
    assert not rules.holds(Test(of="a", op="==", path=(0,)), {"0": None})
    with pytest.raises(ValueError, match="upgrade"):
        rules.holds(Test(of="a", op="~="), 1)


def test_a_page_says_the_same_however_often_it_is_written() -> None:
    page = pages.marked(None, {PAGE + 3: F, PAGE + 4: S})
    assert pages.marked(page, {PAGE + 3: F}) == page
    assert len(page) == PAGE
    assert [pages.end_at(page, PAGE + i) for i in range(2, 6)] == [End.OPEN, F, S, End.OPEN]
    assert pages.tally(page) == Counts(failed=1, skipped=1)


def test_sums_add_up_and_stay_small() -> None:
    full = Counts(completed=100, failed=20, cancelled=5, skipped=3)
    sums = pages.summed(None, dict.fromkeys(range(128), full))
    assert len(sums) == 512
    assert pages.total([sums, None]).total == 128 * 128
    assert pages.summed(sums, {5: full}) == sums
    assert pages.total([pages.summed(None, {130: full})]) == full


def test_members_come_in_parts_of_whole_pages() -> None:
    job = Job(
        id="",
        name="n",
        routing_key="r",
        state=JobState.WAITING,
        message=b"",
        created_at=0.0,
        changed_at=0.0,
    )
    sizes = {"a": 3, "b": 2 * BATCH + 1, "c": 0, "d": BATCH - 2, "e": 2}
    scopes = [Node(job=msgspec.structs.replace(job, id=id), info=NodeInfo(id="w")) for id in sizes]
    found = list(parts(scopes, dict(sizes)))
    assert all(sum(len(part.numbers) for part in some) <= BATCH for some in found)
    members = Counter(part.scope.job.id for some in found for part in some for _ in part.numbers)
    assert members == {id: size for id, size in sizes.items() if size}
    assert all(part.numbers.start % PAGE == 0 for some in found for part in some)


def test_the_error_of_a_scope_names_the_node_in_which_it_began() -> None:
    job = Job(
        id="x",
        name="n",
        routing_key="r",
        state=JobState.FAILED,
        message=b"",
        created_at=0.0,
        changed_at=0.0,
        error=ErrorInfo(type="ValueError", message="no" * 2000),
    )
    inner = rules.failed_by(NodeInfo(id="w", node="a/b"), F, job)
    assert inner.message.startswith("node 'a/b' failed: ValueError: no")
    assert len(inner.message) <= rules.LONGEST
    outer = rules.failed_by(
        NodeInfo(id="w", node="a"), F, msgspec.structs.replace(job, error=inner, scope=True)
    )
    assert outer == inner


class Counting:
    """Counts the calls to a ledger."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._backend, name)
        if inspect.iscoroutinefunction(value):
            self.calls += 1
        return value


async def a_play(piece: Any) -> Play:
    backend = MemoryResultBackend("memory://engine", uuid.uuid4().hex)
    await backend.open()
    play = Play(backend, Graph(piece), "session")
    await play.submit()
    return play


async def test_calls_per_member_do_not_grow_with_the_group() -> None:
    per_batch = []
    for size in (384, 3840):
        play = await a_play(chord(Group(members=(Leaf(),) * size)))
        play.follower = counting = Counting(play.backend)
        jobs = await play.pending()
        for start in range(0, size, 64):
            await play.run(jobs[start : start + 64])
        assert (await play.node("header")).state is JobState.COMPLETED
        per_batch.append(counting.calls / (size / 64))
        await play.backend.close()
    assert max(per_batch) <= 8
    assert per_batch[1] <= per_batch[0] + 0.5


async def test_calls_per_node_do_not_grow_with_a_chain() -> None:
    per_node = []
    for size in (20, 400):
        play = await a_play(chain(*(Leaf(),) * size))
        play.follower = counting = Counting(play.backend)
        for i in range(size):
            found = await play.backend.get([play.graph.ids[str(i)]])
            await play.run([job for job in found if job is not None])
        assert (await play.whole()).state is JobState.COMPLETED
        per_node.append(counting.calls / size)
        await play.backend.close()
    assert max(per_node) <= 7


async def test_a_record_without_a_place_stops_nobody() -> None:
    play = await a_play(chain(Leaf(), Leaf()))
    (job,) = await play.pending()
    await play.run([job])
    good = await play.node("0")
    bad = msgspec.structs.replace(good, id="bad", message=b'{"v":1}')
    await advance(play.backend, [bad, good])
    assert (await play.through()).state is JobState.COMPLETED


async def test_inputs_that_do_not_fit_name_node_and_path() -> None:
    play = await a_play(chain(Leaf(), Leaf()))
    await play.through()
    desk, of = Turn(play.backend), play.graph.ids["0"]
    missing = play.graph.info("1", inputs=(Input(into=("x",), of=of, path=("key", 0)),))
    with pytest.raises(InvalidPayload, match=r"node '1' needs result\['key'\]\[0\] of node '0'"):
        await fill_inputs(desk, missing, b"{}")
    nowhere = play.graph.info("1", inputs=(Input(into=("x", 3), of=of),))
    with pytest.raises(InvalidPayload, match="no place"):
        await fill_inputs(desk, nowhere, b'{"x":[]}')
    gone = play.graph.info("1", inputs=(Input(into=("x",), of="nobody"),))
    with pytest.raises(InvalidPayload, match="gone"):
        await fill_inputs(desk, gone, b"{}")
    whole = play.graph.info("1", inputs=(Input(into=("x",), of=of),))
    assert await fill_inputs(desk, whole, b'{"x":null,"y":1}') == b'{"x":"0","y":1}'
    desk.max_payload = 8
    with pytest.raises(PayloadTooLarge):
        await fill_inputs(desk, whole, b'{"x":null,"y":1}')


async def test_results_of_a_group_together_are_limited() -> None:
    play = await a_play(Group(members=(Leaf(),) * 50))
    await play.through()
    desk = Turn(play.backend)
    desk.max_payload = 100
    with pytest.raises(PayloadTooLarge):
        await value_of(desk, await play.whole())


async def test_only_what_has_ended_is_resumed() -> None:
    play = await a_play(chain(Leaf(), Leaf()))
    with pytest.raises(InvalidWorkflow, match="still running"):
        await resume(play.backend, play.graph.id)
    with pytest.raises(InvalidWorkflow, match="no workflow"):
        await resume(play.backend, play.graph.ids["0"])
    with pytest.raises(JobNotFound):
        await resume(play.backend, "nobody")
    await play.through(fails("0"))
    with pytest.raises(JobNotFound, match="no node 'other'"):
        await rerun(play.backend, play.graph.id, "other")
