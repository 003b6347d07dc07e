"""Workflows built by hand and played through on a ledger, without workers or the public face."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from bananas_core.clock import new_ids
from bananas_core.follow import follow_up
from bananas_core.job import (
    FINAL,
    ErrorInfo,
    Hint,
    Job,
    JobPut,
    JobState,
    Outcome,
    OutcomeKind,
    Ready,
    ReadyKind,
    Signal,
    SignalKind,
    VerdictKind,
)
from bananas_core.message import Message, encode_message
from bananas_core.results import ResultBackend
from bananas_core.workflow.growth import note_growth
from bananas_core.workflow.node import (
    DAG_NAME,
    GROUP_NAME,
    Input,
    Kind,
    NodeInfo,
    Policy,
    Test,
    Trigger,
    from_info,
    grown_id,
    node_id,
)

CHUNK: Final = 500


class Leaf(msgspec.Struct, frozen=True, kw_only=True):
    """A job."""

    name: str = "task"
    inputs: tuple[Input, ...] = ()
    payload: bytes = b"{}"


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Members without order."""

    members: tuple[Piece, ...] = ()
    policy: Policy = Policy.FAIL
    quorum: int = 0
    deadline: float | None = None
    sealed: bool = True
    """Its size is in its record; else in a document, which the test writes."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A node of a dag."""

    name: str
    piece: Piece = Leaf()
    after: tuple[str, ...] = ()
    trigger: Trigger = Trigger.SUCCESS
    tests: tuple[Test, ...] = ()
    on_failure: Policy = Policy.FAIL


class Dag(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes with edges."""

    steps: tuple[Step, ...] = ()
    policy: Policy = Policy.FAIL
    results: tuple[str, ...] = ()
    deadline: float | None = None


Piece = Leaf | Group | Dag


def chain(*pieces: Piece) -> Dag:
    """One after the other; its result is the last one's."""
    names = [str(n) for n in range(len(pieces))]
    steps = tuple(
        Step(name=name, piece=piece, after=(names[n - 1],) if n else ())
        for n, (name, piece) in enumerate(zip(names, pieces, strict=True))
    )
    return Dag(steps=steps, results=tuple(names[-1:]))


def chord(header: Group, body: Piece | None = None) -> Dag:
    """A group and what comes after it."""
    steps = (
        Step(name="header", piece=header),
        Step(name="body", piece=body or Leaf(), after=("header",)),
    )
    return Dag(steps=steps, results=("body",))


def diamond() -> Dag:
    """a, then b and c, then d."""
    return Dag(
        steps=(
            Step(name="a"),
            Step(name="b", after=("a",)),
            Step(name="c", after=("a",)),
            Step(name="d", after=("b", "c")),
        ),
        results=("d",),
    )


class Graph:
    """The records of a workflow, and the ids of its nodes by their names."""

    def __init__(self, piece: Piece, id: str | None = None) -> None:
        self.id = id or new_ids(1)[0]
        self.ids: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._places: dict[str, NodeInfo] = {}
        self._puts: list[tuple[int, JobPut]] = []
        self._add(piece, NodeInfo(id=self.id), self.id, starts=True)

    def puts(self) -> list[JobPut]:
        """In the order in which they are submitted: the whole, what waits, what starts at once."""
        return [put for _, put in sorted(self._puts, key=lambda item: item[0])]

    def grow(self, name: str, fence: int, piece: Piece) -> tuple[str, list[JobPut]]:
        """The id and the records of a scope that a run of a job adds to itself."""
        node = self.ids[name]
        place = self._places[name]
        id = grown_id(node, fence, 0)
        info = replace(place, node=f"{name}+", after=(), outs=(), stands_for=node)
        before = len(self._puts)
        self._add(piece, info, id, starts=False)
        return id, [put for _, put in self._puts[before:]]

    def info(self, name: str, **changes: Any) -> NodeInfo:
        """The place of a node, with some fields changed."""
        return replace(self._places[name], **changes)

    def name_of(self, id: str) -> str:
        if len(self._names) < len(self.ids):
            self._names = {id: name for name, id in self.ids.items()}
        return self._names[id]

    def _add(self, piece: Piece, info: NodeInfo, id: str, *, starts: bool) -> None:
        self.ids[info.node] = id
        self._places[info.node] = info
        if isinstance(piece, Leaf):
            info = replace(info, inputs=piece.inputs)
            self._put(id, piece.name, info, starts, scope=False, payload=piece.payload)
        elif isinstance(piece, Group):
            info = replace(
                info,
                kind=Kind.GROUP,
                size=len(piece.members) if piece.sealed else None,
                policy=piece.policy,
                quorum=piece.quorum,
            )
            self._put(id, GROUP_NAME, info, starts, scope=True, deadline=piece.deadline)
            for i, member in enumerate(piece.members):
                place = NodeInfo(id=self.id, node=_below(info, f"[{i}]"), scope=id, i=i)
                self._add(member, place, node_id(id, i), starts=starts)
        else:
            self._add_dag(piece, info, id, starts=starts)

    def _add_dag(self, dag: Dag, info: NodeInfo, id: str, *, starts: bool) -> None:
        at = {step.name: i for i, step in enumerate(dag.steps)}
        info = replace(
            info,
            kind=Kind.DAG,
            size=len(dag.steps),
            policy=dag.policy,
            results=tuple(at[name] for name in dag.results),
        )
        self._put(id, DAG_NAME, info, starts, scope=True, deadline=dag.deadline)
        outs: dict[str, list[int]] = {}
        for step in dag.steps:
            for name in step.after:
                outs.setdefault(name, []).append(at[step.name])
        for i, step in enumerate(dag.steps):
            place = NodeInfo(
                id=self.id,
                node=_below(info, step.name),
                scope=id,
                i=i,
                after=tuple(at[name] for name in step.after),
                outs=tuple(outs.get(step.name, ())),
                trigger=step.trigger,
                tests=step.tests,
                on_failure=step.on_failure,
            )
            first = starts and not step.after and not step.tests
            self._add(step.piece, place, node_id(id, i), starts=first)

    def _put(
        self,
        id: str,
        name: str,
        info: NodeInfo,
        starts: bool,
        *,
        scope: bool,
        deadline: float | None = None,
        payload: bytes = b"{}",
    ) -> None:
        message = Message(
            v=1,
            id=id,
            name=name,
            payload=msgspec.Raw(payload),
            created_at=datetime.now(UTC),
            put=True,
            workflow=from_info(info),
        )
        put = JobPut(
            id=id,
            name=name,
            message=encode_message(message),
            max_attempts=1,
            queue_timeout=deadline,
            waiting=not starts,
            workflow=self.id,
            scope=scope,
        )
        self._puts.append((0 if info.scope is None else 2 if starts else 1, put))


def _below(info: NodeInfo, name: str) -> str:
    return f"{info.node}/{name}" if info.node else name


Body = Callable[[str], bytes | Exception]
"""What the body of the node of this name does: a result as JSON, or an error."""


def fails(*names: str) -> Body:
    """Those nodes fail, all others return their name."""

    def body(name: str) -> bytes | Exception:
        return ValueError(f"{name} is broken") if name in names else msgspec.json.encode(name)

    return body


SUCCEED: Final = fails()


class Play:
    """Runs the jobs of one workflow through a ledger, as workers would."""

    def __init__(self, backend: ResultBackend, graph: Graph, session: str) -> None:
        self.backend = backend
        self.follower = backend
        """The connection that ends are followed up with."""
        self.graph = graph
        self.session = session
        self.grows: dict[str, Piece] = {}
        """What the bodies of these nodes add to themselves."""
        self.runs: Counter[str] = Counter()
        """How often each node's body ran to its end."""

    async def submit(self) -> None:
        """Put everything; empty scopes that start at once are looked after."""
        from bananas_core.workflow.engine import check_scope

        puts = self.graph.puts()
        for start in range(0, len(puts), CHUNK):
            await self.backend.put(puts[start : start + CHUNK])
        for put in puts:
            if put.scope and not put.waiting:
                await self.follow(await check_scope(self.backend, put.id))

    async def follow(self, ready: Sequence[Ready]) -> None:
        """Do what follows, and settle it."""
        _, settled = await follow_up(self.follower, ready)
        await self.backend.put([], settled=settled)

    async def records(self) -> list[Job]:
        """All that exist, in the order of their names."""
        ids = [id for _, id in sorted(self.graph.ids.items())]
        found: list[Job] = []
        for start in range(0, len(ids), CHUNK):
            jobs = await self.backend.get(ids[start : start + CHUNK])
            found += [job for job in jobs if job is not None]
        return found

    async def pending(self) -> list[Job]:
        """What may run now."""
        return [job for job in await self.records() if job.state is JobState.PENDING]

    async def step(self, body: Body = SUCCEED, most: int = CHUNK) -> int:
        """Run some of the pending jobs, in one batch; how many."""
        jobs = (await self.pending())[:most]
        await self.run(jobs, body)
        return len(jobs)

    async def run(self, jobs: Sequence[Job], body: Body = SUCCEED) -> list[Ready]:
        """Run these, and do what follows."""
        hints = [Hint(id=job.id, gen=job.gen) for job in jobs]
        verdicts = await self.backend.claim(self.session, hints) if hints else []
        outcomes = []
        for verdict in verdicts:
            if verdict.kind is VerdictKind.RUN and verdict.claim is not None:
                name = self.graph.name_of(verdict.id)
                if name in self.grows:
                    await self._grow(name, verdict.claim.fence)
                outcomes.append(self._outcome(verdict.id, verdict.claim.fence, body(name)))
                self.runs[name] += 1
        if not outcomes:
            return []
        _, ready = await self.backend.finish(outcomes)
        await self.follow([r for r in ready if r.kind is ReadyKind.FOLLOW])
        return ready

    async def through(self, body: Body = SUCCEED, most: int = CHUNK) -> Job:
        """Run until nothing is pending any more; the record of the whole."""
        while await self.step(body, most):
            pass
        return await self.whole()

    async def whole(self) -> Job:
        """The record of the workflow."""
        return await self.node("")

    async def node(self, name: str) -> Job:
        """The record of a node that must exist."""
        (job,) = await self.backend.get([self.graph.ids[name]])
        assert job is not None, f"no record of node {name!r}"
        return job

    async def states(self) -> dict[str, JobState]:
        """How all nodes are, by name, the whole left out."""
        found = {self.graph.name_of(job.id): job.state for job in await self.records()}
        del found[""]
        return found

    async def open(self) -> list[str]:
        """Names of the nodes that have not ended."""
        live = [job for job in await self.records() if job.state not in FINAL]
        return [self.graph.name_of(job.id) for job in live]

    async def unsettled(self) -> list[str]:
        """Names of the nodes whose end has not been followed up."""
        return [
            self.graph.name_of(job.id)
            for job in await self.records()
            if job.state in FINAL and job.guard_at is not None
        ]

    async def cancel(self, name: str = "", reason: str | None = None) -> None:
        """Cancel a node, or the whole."""
        wish = Signal(id=self.graph.ids[name], kind=SignalKind.CANCEL, reason=reason)
        _, ready = await self.backend.signal([wish])
        await self.follow([r for r in ready if r.kind is ReadyKind.FOLLOW])

    async def _grow(self, name: str, fence: int) -> None:
        id, puts = self.graph.grow(name, fence, self.grows[name])
        await note_growth(self.backend, self.graph.id, self.graph.ids[name], fence, [id])
        await self.backend.put(puts)

    def _outcome(self, id: str, fence: int, value: bytes | Exception) -> Outcome:
        if isinstance(value, Exception):
            error = ErrorInfo(type=type(value).__name__, message=str(value))
            return Outcome(id=id, fence=fence, kind=OutcomeKind.FAILED, error=error, ran=0.0)
        result = b'{"value":' + value + b"}"
        return Outcome(id=id, fence=fence, kind=OutcomeKind.COMPLETED, result=result, ran=0.0)
