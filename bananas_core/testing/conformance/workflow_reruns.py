"""Topic: workflows that grow while they run, and those that are run again."""

from __future__ import annotations

import pytest

from bananas_core.errors import InvalidWorkflow
from bananas_core.job import JobState, ReadyKind, Signal, SignalKind
from bananas_core.testing.conformance.graphs import (
    Dag,
    Group,
    Leaf,
    Step,
    chain,
    chord,
    diamond,
    fails,
)
from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.marks import promise
from bananas_core.testing.conformance.support import Suite, all_due
from bananas_core.testing.conformance.workflows import (
    CANCELLED,
    COMPLETED,
    FAILED,
    LEAVES,
    begin,
    quiet,
)
from bananas_core.workflow.engine import start_scope
from bananas_core.workflow.node import Policy
from bananas_core.workflow.resume import rerun, resume
from bananas_core.workflow.turn import Turn
from bananas_core.workflow.values import value_of


class Expanding(Suite):
    @promise("W7")
    async def test_what_a_job_adds_is_waited_for_at_two_depths(self, harness: Harness) -> None:
        play = await begin(harness, chain(Leaf(), Leaf()))
        play.grows = {"0": chord(Group(members=LEAVES)), "0+/header/[1]": Group(members=LEAVES)}
        order: list[str] = []

        def body(name: str) -> bytes | Exception:
            order.append(name)
            return fails()(name)

        assert (await play.through(body)).state is COMPLETED
        assert set(play.runs.values()) == {1}
        assert len(play.runs) == 2 + 4 + 3
        assert order[-1] == "1"
        deeper = [f"0+/header/[1]+/[{i}]" for i in range(3)]
        assert all(order.index(name) < order.index("0+/body") for name in deeper)
        assert await value_of(Turn(play.backend), await play.node("0")) == "0+/body"
        header = await value_of(Turn(play.backend), await play.node("0+/header"))
        assert header[1] == deeper
        await quiet(play)

    @promise("W7")
    async def test_what_a_failed_job_added_is_cancelled(self, harness: Harness) -> None:
        play = await begin(harness, chain(Leaf(), Leaf()))
        play.grows = {"0": Group(members=LEAVES)}
        assert (await play.through(fails("0"))).state is FAILED
        assert play.runs == {"0": 1}
        await quiet(play)

    @promise("W7", "W4")
    async def test_a_failure_in_what_was_added_is_the_jobs_own(self, harness: Harness) -> None:
        play = await begin(harness, chain(Leaf(), Leaf()))
        play.grows = {"0": Group(members=LEAVES)}
        whole = await play.through(fails("0+/[2]"))
        assert whole.state is FAILED
        assert whole.error is not None
        assert "node '0+/[2]' failed" in whole.error.message
        assert play.runs["1"] == 0
        await quiet(play)

    @promise("W7", "W6")
    async def test_a_cancel_reaches_what_was_added(self, harness: Harness) -> None:
        play = await begin(harness, chain(Leaf(), Leaf()))
        play.grows = {"0": Group(members=LEAVES)}
        await play.step()
        await play.step(most=1)
        await play.cancel()
        assert (await play.whole()).state is CANCELLED
        await quiet(play)
        assert sum(play.runs.values()) == 2


class Resuming(Suite):
    @promise("W9")
    async def test_a_resumed_workflow_runs_what_did_not_succeed(self, harness: Harness) -> None:
        inner = chord(Group(members=LEAVES))
        play = await begin(harness, chain(Leaf(), inner, Leaf()))
        assert (await play.through(fails("1/header/[1]"), most=1)).state is FAILED
        before = dict(play.runs)
        await play.follow(await resume(play.backend, play.graph.id))
        assert (await play.whole()).state is JobState.WAITING
        with pytest.raises(InvalidWorkflow):
            await resume(play.backend, play.graph.id)
        assert (await play.through()).state is COMPLETED
        for name in ("0", "1/header/[0]"):
            assert (before.get(name, 0), play.runs[name]) in {(1, 1), (0, 1)}
        assert play.runs["1/header/[1]"] == 2
        assert (play.runs["1/body"], play.runs["2"]) == (1, 1)
        await quiet(play)

    @promise("W9")
    async def test_a_cancelled_workflow_is_resumed(self, harness: Harness) -> None:
        play = await begin(harness, chord(Group(members=LEAVES)))
        await play.step(most=1)
        await play.cancel()
        await play.follow(await resume(play.backend, play.graph.id))
        assert (await play.through()).state is COMPLETED
        assert set(play.runs.values()) == {1}
        await quiet(play)

    @promise("W9")
    async def test_a_rerun_runs_a_node_and_what_follows(self, harness: Harness) -> None:
        piece = Dag(
            steps=(
                Step(name="in", piece=diamond()),
                Step(name="beside"),
                Step(name="after", after=("in",)),
                Step(name="end", piece=Group(members=LEAVES), after=("after", "beside")),
            )
        )
        play = await begin(harness, piece)
        assert (await play.through()).state is COMPLETED
        await play.follow(await rerun(play.backend, play.graph.id, "in/b"))
        assert (await play.through()).state is COMPLETED
        once = {"in/a", "in/c", "beside"}
        assert {name for name, count in play.runs.items() if count == 1} == once
        assert {count for name, count in play.runs.items() if name not in once} == {2}
        await quiet(play)

    @promise("W9", "W7")
    async def test_a_resume_reaches_what_was_added(self, harness: Harness) -> None:
        play = await begin(harness, chain(Leaf(), Leaf()))
        play.grows = {"0": Group(members=LEAVES)}
        assert (await play.through(fails("0+/[2]"))).state is FAILED
        await play.follow(await resume(play.backend, play.graph.id))
        assert (await play.through()).state is COMPLETED
        assert (play.runs["0"], play.runs["0+/[2]"], play.runs["1"]) == (1, 2, 1)
        await quiet(play)

    @promise("W9")
    async def test_a_quorum_that_failed_is_resumed(self, harness: Harness) -> None:
        group = Group(members=(Leaf(),) * 5, policy=Policy.QUORUM, quorum=4)
        play = await begin(harness, group)
        assert (await play.through(fails("[0]", "[1]"), most=1)).state is FAILED
        await play.follow(await resume(play.backend, play.graph.id))
        assert (await play.through()).state is COMPLETED
        await quiet(play)

    @promise("W1", "W3")
    async def test_starting_twice_starts_once(self, harness: Harness) -> None:
        play = await begin(harness, chain(Leaf(), Group(members=LEAVES), Leaf()))
        await play.step()
        for _ in range(3):
            await play.follow(await start_scope(play.backend, play.graph.ids["1"]))
            await play.follow(await start_scope(play.backend, play.graph.id))
        assert len(await play.pending()) == 3
        assert (await play.through()).state is COMPLETED
        assert set(play.runs.values()) == {1}
        assert all(item.kind is not ReadyKind.FOLLOW for item in await all_due(play.backend))

    @promise("W1")
    async def test_a_node_changed_while_it_waits_is_released(self, harness: Harness) -> None:
        play = await begin(harness, chain(Leaf(), Leaf()))
        wish = Signal(id=play.graph.ids["1"], kind=SignalKind.CHANGE, priority=90)
        await play.backend.signal([wish])
        assert (await play.through()).state is COMPLETED
