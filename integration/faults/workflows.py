"""Scenarios for workflows: joins while workers die."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Final

from bananas import Bananas, chord
from bananas_core.clock import SystemClock
from bananas_core.job import JobState, Query
from bananas_core.renew import LoopKeeper
from bananas_core.state import CLAIM_TTL
from bananas_core.worker import Worker, WorkerOptions
from integration.faults import app as tasks
from integration.faults.app import body, make_app, member
from integration.faults.inject import Kill, kill_children
from integration.faults.stage import Scenario, Stage

RESULT_WITHIN: Final = 120.0
KILL_FOR: Final = CLAIM_TTL - 2.0
"""Seconds within which no claim lapses, so that a job dies at most once: after two deaths it would
need a process of its own, and after three it is poison."""


async def chords(stage: Stage) -> None:
    """kill -9 of random children every 1 or 2 s over chords: every body has one outcome, with all
    results in order, and none hangs."""
    groups = [stage.group("a", processes=2), stage.group("b", processes=2)]
    app, every = make_app(stage.url, stage.ledger_url), stage.level.chords_kill_every
    async with app:
        kills: list[Kill] = []
        killer = asyncio.create_task(kill_children(groups, every, stage.rng, kills))
        await _chords(stage, app, "")
        killer.cancel()
        stage.figures["kills"] = len(kills)
        stage.check(len(kills) >= 2, "too few kills to show anything")


async def chords_in_memory(stage: Stage) -> None:
    """The same on both memory forms, where a worker that is cancelled leaves its claims behind as
    a dead process does."""
    tasks.RUNS = str(stage.folder / "runs.jsonl")  # they run in this process
    for form in ("fused", "split"):
        url = f"memory://chords-{form}" + ("?form=split" if form == "split" else "")
        crew = Crew(url, stage.rng)
        async with crew.app:
            crew.start(4)
            killer = asyncio.create_task(crew.kill_every(stage.level.chords_kill_every))
            await _chords(stage, crew.app, f"{form}_")
            killer.cancel()
            await crew.stop()
        stage.figures[f"{form}_kills"] = crew.kills
        stage.check(crew.kills >= 2, "too few kills to show anything")


class Crew:
    """Workers on one event loop, each with an app of its own."""

    def __init__(self, url: str, rng: random.Random) -> None:
        self._url = url
        self._rng = rng
        self.app = make_app(url)
        self.kills = 0
        self._runs: list[asyncio.Task[None]] = []

    def start(self, count: int) -> None:
        self._runs += [asyncio.create_task(self._work()) for _ in range(count)]

    async def kill_every(self, seconds: float) -> None:
        end = time.monotonic() + KILL_FOR
        while time.monotonic() + seconds < end:
            await asyncio.sleep(seconds)
            victim = self._runs.pop(self._rng.randrange(len(self._runs)))
            victim.cancel()
            await asyncio.gather(victim, return_exceptions=True)
            self.kills += 1
            self.start(1)

    async def stop(self) -> None:
        for run in self._runs:
            run.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)

    async def _work(self) -> None:
        app, clock = make_app(self._url), SystemClock()
        async with app:
            keeper = LoopKeeper(app.backend, clock)
            await Worker(app, WorkerOptions(), keeper=keeper, clock=clock).run()


async def _chords(stage: Stage, app: Bananas, prefix: str) -> None:
    """Submit chords, wait for their results, and count what was recorded."""
    count, members = stage.level.chords, stage.level.members
    header, last = app.tasks[member.__name__], app.tasks[body.__name__]
    begun = time.monotonic()
    flows = [
        await chord([header.job(n) for n in range(members)], last.job(chord=number)).submit()
        for number in range(count)
    ]
    results = [await flow.result(timeout=RESULT_WITHIN) for flow in flows]
    took = time.monotonic() - begun
    bodies = 0
    repeated: Counter[int] = Counter()
    cursor = None
    while True:
        page = await app.backend.query(Query(name="body", limit=500, cursor=cursor))
        for job in page.jobs:
            bodies += 1
            done = [entry for entry in job.attempts if entry.outcome == "completed"]
            repeated[len(done)] += 1
            stage.check(job.state is JobState.COMPLETED, f"body {job.id} is {job.state}")
        cursor = page.cursor
        if cursor is None:
            break
    figures = {
        "chords": count,
        "members": members,
        "seconds": round(took, 1),
        "bodies": bodies,
        "outcomes_per_body": dict(repeated),
    }
    stage.figures.update({f"{prefix}{name}": value for name, value in figures.items()})
    expected = members * (members - 1)
    wrong = [
        result
        for number, result in enumerate(results)
        if result != {"chord": number, "count": members, "sum": expected, "ordered": 1}
    ]
    stage.check(not wrong, f"{len(wrong)} bodies saw wrong results: {wrong[:2]}")
    stage.check(bodies == count, "a body is missing or there are two")
    stage.check(repeated == {1: count}, "a body has not exactly one outcome")


SCENARIOS: Final[tuple[Scenario, ...]] = (chords, chords_in_memory)
