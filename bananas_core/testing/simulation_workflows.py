"""The simulation with workflows: real workers follow up while they crash and the network fails."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from bananas_core.app import Bananas
from bananas_core.context import current_job
from bananas_core.job import FINAL, Job, JobState
from bananas_core.pair import Pair
from bananas_core.testing.conformance.graphs import (
    Dag,
    Graph,
    Group,
    Leaf,
    Piece,
    Step,
    chain,
    chord,
    diamond,
)
from bananas_core.testing.simulation import (
    SETTLE_WITHIN,
    Run,
    Scenario,
    Violation,
    World,
    insist,
)
from bananas_core.testing.virtual import Process
from bananas_core.workflow.engine import check_scope
from bananas_core.workflow.node import NodeInfo, Policy, Trigger, info_of, node_id

LEAF: Final = Leaf(name="node")


class Workflows(Scenario):
    """Some workflows of any shape; some of their nodes fail."""

    def __init__(self, rng: random.Random) -> None:
        self.graphs = [
            Graph(piece(rng, 2), f"flow-{number}") for number in range(rng.randint(1, 3))
        ]
        leaves = [put.id for graph in self.graphs for put in graph.puts() if not put.scope]
        self.failing = {id for id in leaves if rng.random() < 0.05}

    def add_tasks(self, app: Bananas, world: World) -> None:
        @app.task(name="node")
        async def node() -> str:
            id = current_job().id
            run = Run(id=id, attempt=current_job().attempt, at=world.clock.now())
            world.runs.append(run)
            await asyncio.sleep(world.rng.choice([0.0, 0.0, 0.2, 3.0]))
            if id in self.failing:
                raise ValueError("planned")
            return id

    async def produce(self, world: World, process: Process) -> None:
        app = await insist(lambda: world.app(process))
        for graph in self.graphs:
            puts = graph.puts()
            await insist(lambda puts=puts: app.backend.put(puts))  # type: ignore[misc]
            for put in puts:
                if put.scope and not put.waiting:
                    ready = await insist(lambda id=put.id: check_scope(app.backend, id))  # type: ignore[misc]
                    await insist(lambda ready=ready: app.send_ready(ready))  # type: ignore[misc]
            await asyncio.sleep(world.rng.uniform(0.0, 2.0))

    async def check(self, world: World, pair: Pair) -> None:
        deadline = asyncio.get_running_loop().time() + SETTLE_WITHIN
        ids = [put.id for graph in self.graphs for put in graph.puts()]
        while True:
            found: list[Job | None] = await insist(lambda: pair.backend.get(ids))
            jobs = {job.id: job for job in found if job is not None}
            left = [
                id
                for id in ids
                if id not in jobs or jobs[id].state not in FINAL or jobs[id].guard_at is not None
            ]
            if not left:
                break
            if asyncio.get_running_loop().time() > deadline:
                shown = [f"{id}: {jobs.get(id)}" for id in left]
                raise Violation(f"not final and settled {SETTLE_WITHIN} s after: {shown}")
            await asyncio.sleep(1.0)
        for job in jobs.values():
            self._check_node(world, job, jobs)
        for graph in self.graphs:
            self._check_whole(graph, jobs)

    def _check_node(self, world: World, job: Job, jobs: dict[str, Job]) -> None:
        info = info_of(job)
        runs = [run for run in world.runs if run.id == job.id]
        text = f"{info} ended as {job} after {runs}"
        outcomes = [entry.outcome for entry in job.attempts]
        if outcomes.count("completed") != (job.state is JobState.COMPLETED and not job.scope):
            raise Violation(f"not one recorded outcome: {text}")
        if not runs:
            return
        for before in _ancestors(info, jobs):
            if before.finished_at is None or before.finished_at > runs[0].at:
                raise Violation(f"ran before {info_of(before)} had ended: {text}")

    def _check_whole(self, graph: Graph, jobs: dict[str, Job]) -> None:
        mine = [job for job in jobs.values() if job.workflow == graph.id]
        root = jobs[graph.id]
        broken = [j for j in mine if j.state in (JobState.FAILED, JobState.QUARANTINED)]
        if root.state not in (JobState.COMPLETED, JobState.FAILED):
            raise Violation(f"nobody cancelled it, but {root}")
        if root.state is not JobState.COMPLETED and len(broken) == 1:
            raise Violation(f"no node of it failed, but {root}")
        if root.state is JobState.COMPLETED and not broken:
            odd = [j for j in mine if j.state is not JobState.COMPLETED and not _skipped(j)]
            if odd and not any(info_of(j).quorum for j in mine):
                raise Violation(f"completed without {odd}")


def piece(rng: random.Random, depth: int) -> Piece:
    """A workflow of any shape, ``depth`` scopes deep at most."""
    if depth == 0 or rng.random() < 0.2:
        return LEAF if depth < 2 else chain(LEAF, LEAF)
    parts = [piece(rng, depth - 1) for _ in range(rng.randint(1, 4))]
    shape = rng.choice(["chain", "group", "chord", "diamond", "quorum", "mended"])
    if shape == "chain":
        return chain(*parts)
    if shape == "group":
        return Group(members=tuple(parts), policy=rng.choice([Policy.FAIL, Policy.IGNORE]))
    if shape == "chord":
        return chord(Group(members=tuple(parts)), LEAF)
    if shape == "quorum":
        return Group(members=tuple(parts), policy=Policy.QUORUM, quorum=rng.randint(1, len(parts)))
    if shape == "diamond":
        return _named(diamond())
    return Dag(
        steps=(
            Step(name="a", piece=parts[0]),
            Step(name="b", piece=LEAF, after=("a",)),
            Step(name="c", piece=LEAF, after=("a",), trigger=Trigger.FAILURE),
            Step(name="d", piece=parts[-1], after=("b", "c"), trigger=Trigger.DONE),
        )
    )


def _named(dag: Dag) -> Dag:
    """With the task of the simulation in place of the default one."""
    return Dag(
        steps=tuple(Step(name=step.name, piece=LEAF, after=step.after) for step in dag.steps),
        results=dag.results,
    )


def _ancestors(info: NodeInfo, jobs: dict[str, Job]) -> list[Job]:
    """The nodes that must have ended before one of them starts, in all scopes around it."""
    found: list[Job] = []
    while info.scope is not None:
        found += [jobs[node_id(info.scope, n)] for n in info.after]
        info = info_of(jobs[info.scope])
    return found


def _skipped(job: Job) -> bool:
    return job.error is not None and job.error.type == "Skipped"
