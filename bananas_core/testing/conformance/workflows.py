"""Topic: workflows: which nodes run, in which order, and how the whole ends."""

from __future__ import annotations

from bananas_core.job import Hint, JobState, OutcomeKind, ReadyKind, Write
from bananas_core.testing.conformance.graphs import (
    Body,
    Dag,
    Graph,
    Group,
    Leaf,
    Piece,
    Play,
    Step,
    chain,
    chord,
    diamond,
    fails,
)
from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.marks import promise, takes
from bananas_core.testing.conformance.support import Suite, outcome, pass_time
from bananas_core.workflow.engine import check_scope
from bananas_core.workflow.node import Input, Policy, Test, Trigger, node_id, seal_key
from bananas_core.workflow.turn import Turn
from bananas_core.workflow.values import fill_inputs, members, value_of

COMPLETED, FAILED, CANCELLED = JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED
LEAVES = (Leaf(), Leaf(), Leaf())


async def begin(harness: Harness, piece: Piece) -> Play:
    """A workflow that was submitted and has not run yet."""
    play = Play(await harness.backend(), Graph(piece), harness.session())
    await play.submit()
    return play


async def quiet(play: Play) -> None:
    """Nothing of a workflow that has ended is left over."""
    assert await play.open() == []
    assert await play.unsettled() == []


class Joining(Suite):
    @promise("W1", "W2")
    async def test_a_diamond_runs_each_node_once_in_order(self, harness: Harness) -> None:
        play = await begin(harness, diamond())
        order = []
        while jobs := await play.pending():
            order.append(sorted(play.graph.name_of(job.id) for job in jobs))
            await play.run(jobs)
        assert order == [["a"], ["b", "c"], ["d"]]
        assert (await play.whole()).state is COMPLETED
        assert await value_of(Turn(play.backend), await play.whole()) == "d"
        await quiet(play)

    @promise("W1", "W3")
    async def test_chords_nested_five_deep_end(self, harness: Harness) -> None:
        piece = chord(Group(members=(Leaf(), Leaf())))
        for _ in range(4):
            piece = chord(Group(members=(piece, Leaf())))
        play = await begin(harness, piece)
        assert (await play.through()).state is COMPLETED
        bodies = [name for name in play.runs if name.endswith("body")]
        assert len(bodies) == 5
        assert set(play.runs.values()) == {1}
        await quiet(play)

    @promise("W1")
    async def test_the_last_body_starts_after_all_members_in_any_batches(
        self, harness: Harness
    ) -> None:
        for most in (1, 2, 3):
            play = await begin(harness, chord(Group(members=LEAVES)))
            while await play.step(most=most):
                if play.runs["body"]:
                    assert all(play.runs[f"header/[{i}]"] for i in range(3))
            assert play.runs["body"] == 1

    @promise("W3")
    async def test_empty_groups_complete_at_once(self, harness: Harness) -> None:
        alone = await begin(harness, Group())
        assert (await alone.whole()).state is COMPLETED
        inside = await begin(harness, chain(Leaf(), Group(), Leaf(), Group()))
        assert (await inside.through()).state is COMPLETED
        assert inside.runs == {"0": 1, "2": 1}
        first = await begin(harness, chord(Group()))
        assert (await first.through()).state is COMPLETED
        for play in (alone, inside, first):
            await quiet(play)

    @promise("W3")
    async def test_a_stream_completes_only_once_it_is_sealed(self, harness: Harness) -> None:
        for size in (0, 3):
            play = await begin(harness, Group(members=(Leaf(),) * size, sealed=False))
            assert (await play.through()).state is JobState.WAITING
            key, value = seal_key(play.graph.id, play.graph.id), str(size).encode()
            await play.backend.cas([Write(key=key, value=value, version=0)])
            await play.follow(await check_scope(play.backend, play.graph.id))
            assert (await play.whole()).state is COMPLETED
            await play.follow(await check_scope(play.backend, play.graph.id))
            await quiet(play)

    @promise("W2")
    async def test_a_job_gets_the_results_of_its_ancestors(self, harness: Harness) -> None:
        play = await begin(harness, chord(Group(members=LEAVES, policy=Policy.COLLECT)))
        await play.through(fails("header/[1]"))
        backend = Turn(play.backend)
        header = await play.node("header")
        error = {"type": "ValueError", "message": "header/[1] is broken"}
        wanted = ["header/[0]", {"error": error}, "header/[2]"]
        assert await value_of(backend, header) == wanted
        assert [value async for value in members(backend, header)] == wanted
        place = Input(into=("items", 0), of=header.id, path=(2,))
        info = play.graph.info("body", inputs=(place,))
        filled = await fill_inputs(backend, info, b'{"items":[null,1]}')
        assert filled == b'{"items":["header/[2]",1]}'


class Failing(Suite):
    @promise("W4")
    async def test_a_failed_header_under_each_policy(self, harness: Harness) -> None:
        for policy in (Policy.FAIL, Policy.IGNORE, Policy.COLLECT):
            await failed_header(harness, policy)

    @promise("W4")
    async def test_the_first_failure_cancels_what_has_not_ended(self, harness: Harness) -> None:
        inner = chord(Group(members=LEAVES))
        play = await begin(harness, Group(members=(Leaf(), inner, Leaf())))
        jobs = [job for job in await play.pending() if play.graph.name_of(job.id) == "[0]"]
        await play.run(jobs, fails("[0]"))
        assert (await play.whole()).state is FAILED
        states = await play.states()
        assert states.pop("[0]") is FAILED
        assert set(states.values()) == {CANCELLED}
        assert (await play.node("[2]")).cancel is not None
        await quiet(play)

    @promise("W2", "W4")
    async def test_a_handled_failure_does_not_end_the_whole(self, harness: Harness) -> None:
        dag = Dag(
            steps=(
                Step(name="a"),
                Step(name="next", after=("a",)),
                Step(name="later", after=("next",)),
                Step(name="mend", after=("a",), trigger=Trigger.FAILURE),
                Step(name="end", after=("later", "mend"), trigger=Trigger.DONE),
            )
        )
        play = await begin(harness, dag)
        assert (await play.through(fails("a"))).state is COMPLETED
        assert play.runs == {"a": 1, "mend": 1, "end": 1}
        for name in ("next", "later"):
            job = await play.node(name)
            assert (job.state, job.error and job.error.type) == (CANCELLED, "Skipped")
        good = await begin(harness, dag)
        assert (await good.through()).state is COMPLETED
        assert good.runs == {"a": 1, "next": 1, "later": 1, "end": 1}
        await quiet(play)
        await quiet(good)

    @promise("W2")
    async def test_all_members_skipped_complete(self, harness: Harness) -> None:
        graph = Graph(chain(Leaf()))
        never = (Test(of=node_id(graph.id, 0), op="==", value="something else"),)
        dag = Dag(
            steps=(
                Step(name="a"),
                Step(name="b", after=("a",), tests=never),
                Step(name="c", piece=Group(members=LEAVES), after=("b",)),
                Step(name="d", after=("b", "c")),
            ),
            results=("d",),
        )
        play = Play(await harness.backend(), Graph(dag, graph.id), harness.session())
        await play.submit()
        assert (await play.through()).state is COMPLETED
        assert play.runs == {"a": 1}
        assert await value_of(Turn(play.backend), await play.whole()) is None
        await quiet(play)

    @promise("W2")
    async def test_a_tolerated_failure_counts_as_success(self, harness: Harness) -> None:
        for ignored in (Policy.IGNORE, Policy.COLLECT):
            steps = (Step(name="a", on_failure=ignored), Step(name="b", after=("a",)))
            play = await begin(harness, Dag(steps=steps))
            assert (await play.through(fails("a"))).state is COMPLETED
            assert play.runs["b"] == 1

    @promise("W4")
    async def test_a_dag_that_ignores_goes_on_with_other_branches(self, harness: Harness) -> None:
        play = await begin(harness, replace_policy(diamond(), Policy.IGNORE))
        assert (await play.through(fails("b"))).state is COMPLETED
        assert play.runs == {"a": 1, "b": 1, "c": 1}
        await quiet(play)

    @promise("W2")
    async def test_conditions_look_into_results(self, harness: Harness) -> None:
        def body(name: str) -> bytes | Exception:
            return b'{"amount":150,"tags":["x"]}' if name == "a" else b"1"

        root = Graph(Leaf()).id
        a = node_id(root, 0)
        tests = {
            "yes": Test(of=a, op=">", value=100, path=("amount",)),
            "no": Test(of=a, op="<", value=100, path=("amount",)),
            "in": Test(of=a, op="in", value=["x", "y"], path=("tags", 0)),
            "missing": Test(of=a, op="!=", value=1, path=("nothing",)),
            "odd": Test(of=a, op="<", value="text", path=("amount",)),
            "falsy": Test(of=a, op="falsy", path=("amount",)),
        }
        steps = [Step(name=name, after=("a",), tests=(test,)) for name, test in tests.items()]
        dag = Dag(steps=(Step(name="a"), *steps))
        play = Play(await harness.backend(), Graph(dag, root), harness.session())
        await play.submit()
        assert (await play.through(body)).state is COMPLETED
        assert set(play.runs) == {"a", "yes", "in"}

    @promise("W5")
    async def test_a_quorum_is_reached_with_the_last_success_it_needs(
        self, harness: Harness
    ) -> None:
        group = Group(members=(Leaf(),) * 6, policy=Policy.QUORUM, quorum=3)
        play = await begin(harness, chord(group))
        for done in range(1, 4):
            jobs = (await play.pending())[:1]
            await play.run(jobs)
            assert (await play.node("header")).state is (
                COMPLETED if done == 3 else JobState.WAITING
            )
        states = await play.states()
        assert (
            sorted(states[f"header/[{i}]"] for i in range(6)) == [CANCELLED] * 3 + [COMPLETED] * 3
        )
        assert (await play.through()).state is COMPLETED
        await quiet(play)

    @promise("W5")
    async def test_a_quorum_fails_with_the_failure_that_makes_it_impossible(
        self, harness: Harness
    ) -> None:
        group = Group(members=(Leaf(),) * 6, policy=Policy.QUORUM, quorum=4)
        play = await begin(harness, group)
        bad: Body = fails(*(f"[{i}]" for i in range(6)))
        for done in range(1, 4):
            await play.run((await play.pending())[:1], bad)
            assert (await play.whole()).state is (FAILED if done == 3 else JobState.WAITING)
        error = (await play.whole()).error
        assert error is not None
        assert error.message == "only 3 of 6 can still succeed, quorum is 4"
        await quiet(play)

    @promise("W6")
    @takes(20)
    async def test_a_deadline_ends_a_scope_and_all_in_it(self, harness: Harness) -> None:
        header = Group(members=LEAVES, policy=Policy.IGNORE, deadline=5.0)
        handled = Dag(
            steps=(
                Step(name="slow", piece=header),
                Step(name="late", after=("slow",), trigger=Trigger.FAILURE),
            )
        )
        play = await begin(harness, handled)
        root = await begin(harness, replace_deadline(chord(Group(members=LEAVES)), 5.0))
        await play.run((await play.pending())[:1])
        ready = await pass_time(harness, play.backend, 8.0)
        await play.follow([item for item in ready if item.kind is ReadyKind.FOLLOW])
        assert (await play.node("slow")).state is FAILED
        assert (await play.through()).state is COMPLETED
        assert play.runs["late"] == 1
        whole = await root.whole()
        assert whole.state is FAILED
        assert set((await root.states()).values()) == {CANCELLED}
        await quiet(play)
        await quiet(root)

    @promise("W6")
    async def test_a_cancel_of_the_whole_cancels_everything(self, harness: Harness) -> None:
        play = await begin(harness, chord(Group(members=(Leaf(), chord(Group(members=LEAVES))))))
        (running, *_) = await play.pending()
        hints = [Hint(id=running.id, gen=running.gen)]
        (verdict,) = await play.backend.claim(play.session, hints)
        await play.cancel(reason="not needed")
        assert (await play.whole()).state is CANCELLED
        name = play.graph.name_of(running.id)
        states = await play.states()
        assert states.pop(name) is JobState.PROCESSING
        assert set(states.values()) == {CANCELLED}
        (job,) = await play.backend.get([running.id])
        assert job is not None
        assert job.cancel is not None
        assert job.cancel.reason == "not needed"
        assert verdict.claim is not None
        _, ready = await play.backend.finish([outcome(verdict.claim, OutcomeKind.CANCELLED)])
        await play.follow(ready)
        await quiet(play)

    @promise("W2", "W4")
    async def test_a_cancelled_node_counts_as_failed(self, harness: Harness) -> None:
        play = await begin(harness, chain(Leaf(), Leaf(), Leaf()))
        await play.cancel("1", reason="enough")
        whole = await play.whole()
        assert whole.state is FAILED
        assert whole.error is not None
        assert whole.error.message == "node '1' was cancelled: enough"
        assert await play.through() == whole
        await quiet(play)

    @promise("W3")
    async def test_what_ended_before_its_scope_started_counts(self, harness: Harness) -> None:
        header = Group(members=LEAVES, policy=Policy.IGNORE)
        play = await begin(harness, chain(Leaf(), header, Leaf()))
        for i in range(3):
            await play.cancel(f"1/[{i}]")
        assert (await play.node("1")).state is JobState.WAITING
        assert (await play.through()).state is COMPLETED
        assert play.runs == {"0": 1, "2": 1}
        await quiet(play)


def replace_policy(dag: Dag, policy: Policy) -> Dag:
    """The same with another policy."""
    return Dag(steps=dag.steps, results=dag.results, policy=policy)


def replace_deadline(dag: Dag, deadline: float) -> Dag:
    """The same with a deadline, in seconds."""
    return Dag(steps=dag.steps, results=dag.results, deadline=deadline)


async def failed_header(harness: Harness, policy: Policy) -> None:
    """One of three members of a chord's header fails."""
    play = await begin(harness, chord(Group(members=LEAVES, policy=policy)))
    whole = await play.through(fails("header/[1]"), most=1)
    if policy is Policy.FAIL:
        assert whole.state is FAILED
        assert whole.error is not None
        assert (whole.error.type, whole.error.message) == (
            "NodeFailed",
            "node 'header/[1]' failed: ValueError: header/[1] is broken",
        )
        assert play.runs["body"] == 0
    else:
        assert whole.state is COMPLETED
        assert play.runs["body"] == 1
        value = await value_of(Turn(play.backend), await play.node("header"))
        assert (value[1] is None) == (policy is Policy.IGNORE)
    await quiet(play)
