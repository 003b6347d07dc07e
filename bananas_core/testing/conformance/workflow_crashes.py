"""Topic: workflows through crashes, races and large groups."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Callable
from typing import Any, Final

from bananas_core.errors import ResultBackendUnavailable
from bananas_core.job import Job, JobState, ReadyKind
from bananas_core.testing.conformance.graphs import (
    CHUNK,
    SUCCEED,
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
from bananas_core.testing.conformance.support import Suite, pass_time, some_turns
from bananas_core.workflow.node import PAGE, Policy, Trigger, info_of, node_id, resume_key
from bananas_core.workflow.resume import resume
from bananas_core.workflow.turn import BATCH, Turn
from bananas_core.workflow.values import members

LARGEST_DOCUMENT: Final = 1024
"""Bytes that a document beside a workflow may have, whatever its size."""
MOST_CALLS: Final = 1000
REPAIRED: Final = 30
"""Seconds within which a crash is made good (W1)."""
STEP: Final = 6


class Dying:
    """A ledger seen by a process that dies at its ``at``-th call: ``before`` or after that has
    had its effect. Whatever it still asks for fails as well."""

    def __init__(self, backend: Any, at: int, *, before: bool) -> None:
        self._backend = backend
        self._at = at
        self._before = before
        self.calls = 0
        self.died = False

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._backend, name)
        if not inspect.iscoroutinefunction(value):
            return value

        async def call(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls < self._at:
                return await value(*args, **options)
            if not self.died and not self._before:
                await value(*args, **options)
            self.died = True
            raise ResultBackendUnavailable(f"the process died at call {self._at}")

        return call


class Case:
    """A workflow, what its bodies do, and what they add to it."""

    def __init__(
        self,
        piece: Piece,
        body: Body = SUCCEED,
        *,
        grows: dict[str, Piece] | None = None,
        cancels: bool = False,
    ) -> None:
        self.piece = piece
        self.body = body
        self.grows = grows or {}
        self.cancels = cancels

    def play(self, backend: Any, harness: Harness) -> Play:
        """Ready to be submitted."""
        play = Play(backend, Graph(self.piece), harness.session())
        play.grows = self.grows
        return play


TWO: Final = (Leaf(), Leaf())

CASES: Final[dict[str, Callable[[], Case]]] = {
    "chord": lambda: Case(chain(Group(), chord(Group(members=(*TWO, chord(Group(members=TWO))))))),
    "diamond": lambda: Case(
        Dag(
            steps=(
                Step(name="a", piece=diamond()),
                Step(name="bad", after=("a",)),
                Step(name="skipped", piece=Group(members=TWO), after=("bad",)),
                Step(name="mend", after=("bad",), trigger=Trigger.FAILURE),
                Step(name="end", after=("skipped", "mend"), trigger=Trigger.DONE),
            )
        ),
        fails("bad"),
    ),
    "failure": lambda: Case(
        chain(Leaf(), Group(members=(Leaf(), chord(Group(members=TWO)))), Leaf()),
        fails("1/[0]"),
    ),
    "quorum": lambda: Case(
        chord(Group(members=(Leaf(),) * 4, policy=Policy.QUORUM, quorum=2)),
        fails("header/[1]"),
    ),
    "growth": lambda: Case(
        chain(Leaf(), Leaf()), grows={"0": chord(Group(members=TWO)), "0+/body": Group(members=TWO)}
    ),
    "cancel": lambda: Case(chain(Leaf(), chord(Group(members=TWO))), cancels=True),
}


async def ending(harness: Harness, play: Play, case: Case) -> None:
    """Run and repair until nothing happens any more, which takes ``REPAIRED`` at most."""
    for waited in itertools.count(0, STEP):
        await play.through(case.body, most=2)
        if not await play.open() and not await play.unsettled():
            return
        if waited >= REPAIRED:
            break
        ready = await pass_time(harness, play.backend, STEP)
        await play.follow([item for item in ready if item.kind is ReadyKind.FOLLOW])
    raise AssertionError(f"left open: {await play.open()}; unsettled: {await play.unsettled()}")


async def played(
    harness: Harness, backend: Any, case: Case, at: int, *, before: bool
) -> tuple[Play, Dying]:
    """One run of a case in which the process that follows up dies at one call."""
    play = case.play(backend, harness)
    play.follower = dying = Dying(backend, at, before=before)
    await play.submit()
    if case.cancels:
        await play.step(case.body, most=1)
        await play.cancel()
    while not dying.died and await play.step(case.body, most=2):
        pass
    play.follower = backend
    await ending(harness, play, case)
    return play, dying


class Crashing(Suite):
    @promise("W1", "W3", "W5", "W6", "W7")
    @takes(600)
    async def test_a_crash_at_any_call_of_a_follow_up_is_made_good(self, harness: Harness) -> None:
        backend = await harness.backend()
        can = harness.capabilities
        stride = 1 if can.manual_clock else 7
        thorough = can.level != "core" or can.ledger.durability == "memory"
        for name, make in CASES.items():
            case = make()
            wanted, undisturbed = await played(harness, backend, case, MOST_CALLS, before=True)
            states, whole = await wanted.states(), await wanted.whole()
            for at in range(1, undisturbed.calls + 1, stride):
                for before in (True, False) if thorough else (at % 2 == 0,):
                    where = f"{name}, call {at}, {'before' if before else 'after'}"
                    play, dying = await played(harness, backend, case, at, before=before)
                    if not dying.died:
                        continue  # it took fewer calls this time
                    assert set(play.runs.values()) <= {1}, where
                    assert (await play.whole()).state is whole.state, where
                    if whole.state is JobState.COMPLETED and name != "quorum":
                        assert await play.states() == states, where
                        assert play.runs == wanted.runs, where

    @promise("W9")
    @takes(120)
    async def test_a_crash_at_any_call_of_a_resume_is_made_good(self, harness: Harness) -> None:
        backend = await harness.backend()
        case = Case(chain(Leaf(), chord(Group(members=TWO)), Leaf()))
        stride = 1 if harness.capabilities.manual_clock else 5
        for before in (True, False):
            for at in itertools.count(1, stride):
                play = case.play(backend, harness)
                await play.submit()
                await play.through(fails("1/header/[1]"), most=1)
                dying = Dying(backend, at, before=before)
                try:
                    await play.follow(await resume(dying, play.graph.id))
                except ResultBackendUnavailable:
                    await play.step(case.body)
                    if (await play.whole()).state is JobState.FAILED or await _resuming(play):
                        await play.follow(await resume(backend, play.graph.id))
                await ending(harness, play, case)
                assert (await play.whole()).state is JobState.COMPLETED, f"call {at}"
                assert play.runs["1/header/[1]"] == 2, f"call {at}"
                assert play.runs["2"] == 1, f"call {at}"
                if not dying.died:
                    break

    @promise("W1")
    async def test_two_followers_at_once_join_once(self, harness: Harness) -> None:
        backends = [await harness.backend() for _ in range(2)]
        for number in range(12):
            piece = diamond() if number % 2 else chord(Group(members=(Leaf(),) * 4))
            play = Play(backends[0], Graph(piece), harness.session())
            await play.submit()
            while jobs := await play.pending():
                halves = [jobs[: len(jobs) // 2], jobs[len(jobs) // 2 :]]
                plays = [play, Play(backends[1], play.graph, harness.session())]
                for each in plays:
                    each.runs = play.runs
                    each.follower = _Slow(each.backend, number)
                await asyncio.gather(
                    *(each.run(half) for each, half in zip(plays, halves, strict=True))
                )
                play.follower = backends[0]
            assert (await play.whole()).state is JobState.COMPLETED
            assert set(play.runs.values()) == {1}
            assert await play.unsettled() == []

    @promise("W1")
    async def test_a_follow_up_may_be_repeated(self, harness: Harness) -> None:
        play = Play(await harness.backend(), Graph(chord(Group(members=TWO))), harness.session())
        await play.submit()
        seen = []
        while jobs := await play.pending():
            seen += [item for item in await play.run(jobs) if item.kind is ReadyKind.FOLLOW]
            before = await play.states()
            for _ in range(2):
                await play.follow(seen)
            assert await play.states() == before
        assert (await play.whole()).state is JobState.COMPLETED
        assert set(play.runs.values()) == {1}


class Growing(Suite):
    @promise("W8", "W1")
    async def test_a_large_group_joins_once_with_small_documents(self, harness: Harness) -> None:
        await large_group(harness, size=3 * PAGE + 7, finishers=8, batch=16)

    @promise("W8", "W2")
    async def test_a_large_dag_joins_over_several_pages(self, harness: Harness) -> None:
        names = [f"n{i}" for i in range(PAGE + 40)]
        dag = Dag(
            steps=(
                *(Step(name=name) for name in names),
                Step(name="end", after=tuple(names)),
            ),
            results=("end",),
        )
        play = Play(await harness.backend(), Graph(dag), harness.session())
        await play.submit()
        halves = await _by_page(play)
        other = Play(await harness.backend(), play.graph, harness.session())
        for each in (play, other):
            each.follower = _Slow(each.backend, 3)
        await asyncio.gather(play.run(halves[0]), other.run(halves[1]))
        play.follower = play.backend
        assert (await play.through()).state is JobState.COMPLETED
        assert play.runs["end"] == 1
        assert await play.unsettled() == []


async def large_group(harness: Harness, *, size: int, finishers: int, batch: int) -> Play:
    """A chord of many members, ended by many finishers at once; nothing it keeps is large."""
    graph = Graph(chord(Group(members=(Leaf(),) * size)))
    play = Play(await harness.backend(), graph, harness.session())
    await play.submit()
    header = graph.ids["header"]
    ids = [node_id(header, i) for i in range(size)]
    order = ids[::2] + ids[1::2]
    lots = iter([order[start : start + batch] for start in range(0, size, batch)])
    backends = [await harness.backend() for _ in range(min(finishers, 8))]

    async def finisher(number: int) -> None:
        mine = Play(backends[number % len(backends)], graph, harness.session())
        mine.runs = play.runs
        for lot in lots:
            jobs = [job for job in await mine.backend.get(lot) if job is not None]
            await mine.run(jobs)

    await asyncio.gather(*(finisher(n) for n in range(finishers)))
    assert (await play.node("header")).state is JobState.COMPLETED
    assert (await play.through()).state is JobState.COMPLETED
    assert len(play.runs) == size + 1
    assert set(play.runs.values()) == {1}
    after = prefix = f"job/{graph.id}/"
    while docs := await play.backend.docs(prefix, after=after, limit=CHUNK):
        assert max(len(doc.value) for doc in docs) <= LARGEST_DOCUMENT
        after = docs[-1].key
    values = [value async for value in members(Turn(play.backend), await play.node("header"))]
    assert values == [f"header/[{i}]" for i in range(size)]
    assert size <= BATCH or await play.open() == []
    return play


async def _by_page(play: Play) -> list[list[Job]]:
    """The pending nodes of a dag, by the page that they are in."""
    found: dict[int, list[Job]] = {}
    for job in await play.pending():
        found.setdefault(info_of(job).i // PAGE, []).append(job)
    return list(found.values())


async def _resuming(play: Play) -> bool:
    (doc,) = await play.backend.get_docs([resume_key(play.graph.id)])
    return doc is not None


class _Slow:
    """A ledger whose callers take turns, in another way for each number."""

    def __init__(self, backend: Any, number: int) -> None:
        self._backend = backend
        self._numbers = itertools.count(number)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._backend, name)
        if not inspect.iscoroutinefunction(value):
            return value

        async def call(*args: Any, **options: Any) -> Any:
            await some_turns(next(self._numbers))
            return await value(*args, **options)

        return call
