"""Workers run the nodes of workflows on the results of those before them."""

from __future__ import annotations

from typing import Any

import msgspec

from bananas import Bananas
from bananas_core.blobs import INLINE
from bananas_core.job import FINAL, Job, JobState
from bananas_core.testing.conformance.graphs import Dag, Graph, Leaf, Step
from bananas_core.workflow.node import Input, Test, node_id
from bananas_core.workflow.values import value_of
from tests.worker.conftest import eventually, working


async def ended(app: Bananas, graph: Graph) -> Job:
    """The record of a workflow once it is final."""
    found: list[Job] = []

    async def is_final() -> bool:
        (job,) = await app.backend.get([graph.id])
        assert job is not None
        found[:] = [job]
        return job.state in FINAL

    await eventually(is_final)
    return found[0]


def add_tasks(app: Bananas, seen: list[Any]) -> None:
    @app.task(name="make")
    async def make(size: int) -> dict[str, Any]:
        return {"text": "x" * size, "size": size}

    @app.task(name="take")
    async def take(got: Any) -> int:
        seen.append(got)
        return len(got)


def two_steps(size: int, *path: str | int) -> Graph:
    """``take`` gets a part of what ``make`` returned, if that is as large as it should be."""
    of = node_id("flow", 0)
    take = Leaf(
        name="take", payload=b'{"got":null}', inputs=(Input(into=("got",), of=of, path=path),)
    )
    steps = (
        Step(name="make", piece=Leaf(name="make", payload=msgspec.json.encode({"size": size}))),
        Step(
            name="take",
            piece=take,
            after=("make",),
            tests=(Test(of=of, op="==", value=size, path=("size",)),),
        ),
    )
    return Graph(Dag(steps=steps, results=("take",)), "flow")


async def test_a_large_result_reaches_the_next_job(app: Bananas) -> None:
    seen: list[Any] = []
    add_tasks(app, seen)
    await app.open()
    size = INLINE + 1000
    graph = two_steps(size, "text")
    await app.backend.put(graph.puts())
    async with working(app):
        assert (await ended(app, graph)).state is JobState.COMPLETED
    assert seen == ["x" * size]
    (root,) = await app.backend.get([graph.id])
    assert root is not None
    assert await value_of(app, root) == size


async def test_a_path_that_is_not_there_fails_the_job(app: Bananas) -> None:
    seen: list[Any] = []
    add_tasks(app, seen)
    await app.open()
    graph = two_steps(1, "nothing")
    await app.backend.put(graph.puts())
    async with working(app):
        root = await ended(app, graph)
    assert root.state is JobState.FAILED
    assert root.error is not None
    assert (
        "InvalidPayload: node 'take' needs result['nothing'] of node 'make'" in root.error.message
    )
    assert seen == []
