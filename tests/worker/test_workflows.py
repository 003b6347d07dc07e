"""Workflows as users write them, run by a worker, on both memory forms and SQLite."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bananas import (
    Bananas,
    InvalidWorkflow,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobNotFound,
    JobState,
    PayloadTooLarge,
    Task,
    Workflow,
    chain,
    chord,
    current_job,
    dag,
    group,
)
from bananas_core.job import Query
from tests.worker.conftest import eventually, working


@dataclass
class Point:
    x: int
    y: int


class Shop:
    """The tasks of the tests, and what they saw."""

    def __init__(self, app: Bananas) -> None:
        self.app = app
        self.ran: list[str] = []
        self.broken = True

        @app.task
        async def add(x: int, y: int) -> int:
            return x + y

        @app.task
        async def total(values: list[int | None]) -> int:
            return sum(value or 0 for value in values)

        @app.task(max_attempts=1)
        async def fragile(x: int = 0) -> int:
            self.ran.append("fragile")
            if self.broken:
                raise ValueError("boom")
            return x

        @app.task
        async def note(text: str) -> str:
            self.ran.append(text)
            return text

        @app.task
        async def point(x: int) -> Point:
            return Point(x, x)

        @app.task
        async def shifted(at: Point, by: int = 1) -> Point:
            return Point(at.x + by, at.y)

        @app.task
        async def fan_out(n: int) -> None:
            await current_job().expand(chord([add.job(i, 0) for i in range(n)], total.job()))

        @app.task
        def fan_out_blocking(n: int) -> str:
            current_job().expand_blocking(add.job(n, 0))
            current_job().expand_blocking(add.job(n, 1))
            return "not its result"

        @app.task
        async def forever() -> None:
            self.ran.append("forever")
            await asyncio.sleep(3600)

        self.add, self.total, self.fragile, self.note = add, total, fragile, note
        self.point, self.shifted, self.forever = point, shifted, forever
        self.fan_out, self.fan_out_blocking = fan_out, fan_out_blocking


@pytest.fixture(params=["fused", "split", "sqlite"])
async def shop(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shop]:
    url = f"memory://{uuid.uuid4().hex}"
    if request.param != "fused":
        url = f"{url}?form=split" if request.param == "split" else f"sqlite:///{tmp_path}/jobs.db"
    app = Bananas(url)
    shop = Shop(app)
    async with app, working(app):
        yield shop


async def failure(flow: Workflow) -> JobFailed:
    with pytest.raises(JobFailed) as caught:
        await flow.result(timeout=10)
    return caught.value


async def states(flow: Workflow) -> dict[str, str]:
    """By node, how it stands; ``skipped`` is told apart."""
    return {
        node.name: "skipped" if node.skipped else node.state.value for node in await flow.nodes()
    }


async def test_results_go_from_step_to_step(shop: Shop) -> None:
    add = shop.add
    flow = await (add.job(1, 2) | add.job(y=10) | add.job(y=100)).submit()
    assert await flow.result(timeout=10) == 113
    assert await flow.status() is JobState.COMPLETED
    assert (await flow.progress()).done == 3


async def test_a_step_keeps_its_own_arguments_or_names_the_one_that_is_bound(shop: Shop) -> None:
    add = shop.add
    kept = await chain(add.job(1, 2), add.job(10, 20).options(bind=False)).submit()
    named = await chain(add.job(1, 2), add.job(x=10).options(bind="y")).submit()
    assert await kept.result(timeout=10) == 30
    assert await named.result(timeout=10) == 13


async def test_a_group_gives_its_results_in_order_and_may_be_empty(shop: Shop) -> None:
    flow = await group(shop.add.job(n, n) for n in range(300)).submit()
    empty = await shop.app.submit_workflow(group([]))
    assert await flow.result(timeout=20) == [2 * n for n in range(300)]
    assert [value async for value in flow.results()] == [2 * n for n in range(300)]
    assert await empty.result(timeout=10) == []


async def test_a_group_is_read_from_an_async_iterator(shop: Shop) -> None:
    async def members() -> AsyncIterator[Any]:
        for n in range(5):
            await asyncio.sleep(0)
            yield shop.add.job(n, 0) | shop.add.job(y=1)

    flow = await shop.app.submit_workflow(chord(members(), shop.total.job()))
    assert await flow.result(timeout=10) == 15


async def test_chords_nest_and_compose(shop: Shop) -> None:
    inner = chord([shop.add.job(n, 0) for n in range(4)], shop.total.job())
    outer = chord([inner | shop.add.job(y=5), shop.add.job(1, 1)], shop.total.job())
    flow = await (outer | group(shop.add.job(y=1), shop.add.job(y=2))).submit()
    assert await flow.result(timeout=10) == [14, 15]


async def test_a_part_may_be_used_twice(shop: Shop) -> None:
    part = shop.add.job(1, 1) | shop.add.job(y=1)
    flow = await chord([part, part], shop.total.job()).submit()
    assert await flow.result(timeout=10) == 6
    assert len({node.id for node in await flow.nodes()}) == 9


async def test_a_failure_ends_the_chain_and_names_its_node(shop: Shop) -> None:
    flow = await (shop.add.job(1, 1) | shop.fragile.job() | shop.note.job()).submit()
    error = await failure(flow)
    assert (error.error_type, error.message) == (
        "NodeFailed",
        "node 'fragile' failed: ValueError: boom",
    )
    await eventually(lambda: ended(flow))
    assert await states(flow) == {
        "": "failed",
        "add": "completed",
        "fragile": "failed",
        "note": "cancelled",
    }


async def ended(flow: Workflow) -> bool:
    progress = await flow.progress()
    return progress.done == progress.total


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"on_failure": "ignore"}, [2, None, 4]),
        (
            {"on_failure": "collect"},
            [2, {"error": {"type": "ValueError", "message": "boom"}}, 4],
        ),
        ({"quorum": 2}, [2, None, 4]),
    ],
)
async def test_a_group_goes_on_as_its_policy_says(
    shop: Shop, options: dict[str, Any], wanted: list[Any]
) -> None:
    members = [shop.add.job(1, 1), shop.fragile.job(), shop.add.job(2, 2)]
    flow = await group(members, **options).submit()
    assert await flow.result(timeout=10) == wanted


async def test_a_quorum_that_can_not_be_had_fails(shop: Shop) -> None:
    flow = await group(
        shop.fragile.job(), shop.fragile.job(), shop.add.job(1, 1), quorum=2
    ).submit()
    assert "quorum is 2" in (await failure(flow)).message


async def test_a_failed_header_fails_the_chord_and_its_body_never_runs(shop: Shop) -> None:
    flow = await chord([shop.add.job(1, 1), shop.fragile.job()], shop.note.job()).submit()
    assert "group/fragile[1]" in (await failure(flow)).message
    await eventually(lambda: ended(flow))
    assert shop.ran == ["fragile"]


async def test_a_dag_joins_conditions_and_references(shop: Shop) -> None:
    d = dag(results=["sum", "alarm"])
    a = d.add("a", shop.add.job(1, 2))
    b = d.add("b", shop.add.job(a, 10), after=a)
    c = d.add("c", shop.add.job(a.result, y=b), after=["a", b])
    d.add("sum", shop.add.job(), after=[b, c])
    d.add("large", shop.note.job("large"), after=c, run_if=c.result > 1000, bind=False)
    d.add("after", shop.note.job("after"), after=["large"], bind=False)
    bad = d.add("bad", shop.fragile.job(), on_failure="collect")
    d.add("alarm", shop.note.job(bad.result["error"]["type"]), after=bad, run_if="done")
    flow = await d.submit()
    assert await flow.result(timeout=10) == {"sum": 13 + 16, "alarm": "ValueError"}
    found = await states(flow)
    assert (found["large"], found["after"]) == ("skipped", "skipped")


async def test_a_failure_is_handled_by_a_node_that_waits_for_it(shop: Shop) -> None:
    d = dag(results=["repair"])
    d.add("work", shop.fragile.job())
    d.add("next", shop.note.job("next"), after="work", bind=False)
    d.add("repair", shop.note.job("repaired"), after="work", run_if="failure", bind=False)
    flow = await d.submit()
    assert await flow.result(timeout=10) == "repaired"
    assert (await states(flow))["next"] == "skipped"


async def test_values_are_converted_on_the_way(shop: Shop) -> None:
    flow = await (shop.point.job(1) | shop.shifted.job(by=5)).submit()
    assert await flow.result(timeout=10) == Point(6, 1)


async def test_a_job_adds_to_its_workflow_and_what_follows_waits_for_it(shop: Shop) -> None:
    flow = await (shop.fan_out.job(4) | shop.add.job(y=100)).submit()
    assert await flow.result(timeout=10) == 106
    assert "fan_out+/total" in await states(flow)
    several = await (shop.fan_out_blocking.job(1) | shop.total.job()).submit()
    assert await several.result(timeout=10) == 3


async def test_outside_of_a_workflow_there_is_nothing_to_add_to(shop: Shop) -> None:
    job = await shop.fan_out.submit(1)
    with pytest.raises(JobFailed, match="in no workflow"):
        await job.result(timeout=10)


async def test_a_cancelled_workflow_stops_what_runs_and_never_starts_the_rest(shop: Shop) -> None:
    flow = await (shop.forever.job() | shop.note.job("late").options(bind=False)).submit()
    await eventually(lambda: started(shop, "forever"))
    assert await flow.cancel("enough")
    assert not await (await shop.app.submit_workflow(group([]))).cancel()
    with pytest.raises(JobCancelled, match="enough"):
        await flow.result(timeout=10)
    await eventually(lambda: ended(flow), within=15)
    assert await states(flow) == {"": "cancelled", "forever": "cancelled", "note": "cancelled"}


async def started(shop: Shop, text: str) -> bool:
    return text in shop.ran


async def test_a_deadline_ends_what_hangs(shop: Shop) -> None:
    flow = await group(shop.forever.job(), deadline=timedelta(seconds=0.5)).submit()
    with pytest.raises(JobExpired):
        await flow.result(timeout=15)
    await eventually(lambda: ended(flow), within=15)


async def test_a_failed_workflow_is_resumed_where_it_failed(shop: Shop) -> None:
    flow = await (
        shop.note.job("first") | shop.fragile.job().options(bind=False) | shop.add.job(y=1)
    ).submit()
    with pytest.raises(InvalidWorkflow, match="still running"):
        await (
            await (shop.forever.job() | shop.note.job("x").options(bind=False)).submit()
        ).resume()
    await failure(flow)
    await eventually(lambda: ended(flow))
    shop.broken = False
    await flow.resume()
    assert await flow.result(timeout=10) == 1
    assert shop.ran.count("first") == 1
    await flow.resume()
    assert await flow.status() is JobState.COMPLETED


async def test_a_node_is_run_again_with_what_follows(shop: Shop) -> None:
    flow = await (shop.note.job("a") | shop.note.job() | shop.note.job()).submit()
    await flow.result(timeout=10)
    await flow.rerun("note#2")
    assert await flow.result(timeout=10) == "a"
    assert len(shop.ran) == 5
    with pytest.raises(JobNotFound, match="no node 'nope'"):
        await flow.rerun("nope")


async def test_an_id_of_one_s_own_makes_submitting_again_safe(shop: Shop) -> None:
    piece = shop.note.job("once") | shop.note.job()
    flow = await piece.submit(workflow_id="mine")
    await flow.result(timeout=10)
    again = await piece.submit(workflow_id="mine")
    assert again == flow
    assert await again.result(timeout=10) == "once"
    assert shop.ran == ["once", "once"]
    assert await (await shop.app.get_workflow("mine")).result() == "once"


async def test_what_is_no_workflow_is_told(shop: Shop) -> None:
    job = await shop.note.submit("x")
    with pytest.raises(InvalidWorkflow, match="no workflow"):
        await shop.app.get_workflow(job.id)
    with pytest.raises(JobNotFound):
        await shop.app.get_workflow("nobody")
    flow = await chain(shop.note.job("x")).submit()
    await flow.result(timeout=10)
    with pytest.raises(InvalidWorkflow, match="not that of a group"):
        await anext(flow.results())


async def test_blocking_twins_do_the_same(shop: Shop) -> None:
    def use() -> Any:
        flow = (shop.add.job(1, 2) | shop.add.job(y=3)).submit_blocking()
        value = flow.result_blocking(timeout=10)
        flow.rerun_blocking("add")
        flow.result_blocking(timeout=10)
        flow.resume_blocking()
        names = [node.name for node in flow.nodes_blocking()]
        return value, flow.status_blocking(), names, flow.progress_blocking().share

    assert await asyncio.to_thread(use) == (6, JobState.COMPLETED, ["", "add", "add#2"], 1.0)
    flow = await (shop.forever.job() | shop.note.job("x").options(bind=False)).submit()
    assert await asyncio.to_thread(flow.cancel_blocking)


def bad_pieces(shop: Shop) -> dict[str, Any]:
    """What must be refused, by a part of what is said of it."""
    add, note = shop.add, shop.note
    circle = dag()
    circle.add("a", note.job("x"), after="b")
    circle.add("b", note.job("x"), after="a")
    unknown = dag()
    unknown.add("a", note.job("x"), after="z")
    unrelated = dag()
    first = unrelated.add("a", add.job(1, 1))
    unrelated.add("b", add.job(first, 1))
    elsewhere = dag()
    elsewhere.add("b", add.job(first.result, 1))
    other = Bananas(f"memory://{uuid.uuid4().hex}")
    foreign: Task[..., Any] = other.task(name="foreign")(lambda: None)
    (strange,) = shop.app.specs("nobody", [{}], {})
    return {
        "a → b → a": circle,
        "comes after 'z'": unknown,
        "doesn't come before it": unrelated,
        "not in this workflow": elsewhere,
        "needs argument 'y'": chain(add.job(1, 1), add.job()),
        "no free argument": chain(add.job(1, 1), add.job(1, 1)),
        "'add#2': add has no free argument 'x'": chain(add.job(1, 1), add.job(1).options(bind="x")),
        "a task of another app": chain(note.job("x"), foreign.job()),
        "no task 'nobody'": chain(note.job("x"), strange.options(bind=False)),
        "job_id can't be chosen": chain(note.job("x").options(job_id="mine")),
    }


async def test_what_can_not_run_is_refused_before_anything_is_stored(shop: Shop) -> None:
    for text, piece in bad_pieces(shop).items():
        with pytest.raises(InvalidWorkflow) as caught:
            await piece.submit()
        assert text in str(caught.value)
        assert "node '" in str(caught.value) or "cycle" in str(caught.value)
    assert (await shop.app.backend.query(Query())).jobs == ()


async def test_a_stream_that_breaks_leaves_nothing_running(shop: Shop) -> None:
    def members() -> Any:
        yield shop.forever.job()
        raise RuntimeError("the database went away")

    with pytest.raises(RuntimeError, match="went away"):
        await shop.app.submit_workflow(group(members()), workflow_id="broken")
    flow = await shop.app.get_workflow("broken")
    with pytest.raises(JobCancelled, match="could not be submitted"):
        await flow.result(timeout=10)
    await eventually(lambda: ended(flow), within=15)


async def test_results_that_are_too_large_together_are_read_one_by_one(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = await group(shop.note.job("x" * 1000) for _ in range(20)).submit()
    await eventually(lambda: ended(flow))
    monkeypatch.setattr(type(shop.app), "max_payload", 5000)
    with pytest.raises(PayloadTooLarge, match="one by one"):
        await flow.result(timeout=10)
    assert len([value async for value in flow.results()]) == 20


async def test_only_some_members_are_listed_if_so_wanted(shop: Shop) -> None:
    flow = await chord([shop.add.job(n, n) for n in range(10)], shop.total.job()).submit()
    await flow.result(timeout=10)
    nodes = await flow.nodes(most=2)
    assert [node.name for node in nodes] == ["", "group", "group/add[0]", "group/add[1]", "total"]
    assert nodes[1].left_out == 8
