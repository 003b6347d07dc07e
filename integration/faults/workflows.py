"""Scenarios for workflows: joins while workers die."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Final

from bananas import chord
from bananas_core.job import JobState, Query
from integration.faults.app import body, make_app, member
from integration.faults.inject import kill_children
from integration.faults.stage import Scenario, Stage

RESULT_WITHIN: Final = 120.0


async def chords(stage: Stage) -> None:
    """kill -9 of random children every 2 s over chords: every body has one outcome, with all
    results in order, and none hangs."""
    groups = [stage.group("a", processes=2), stage.group("b", processes=2)]
    count, members = stage.level.chords, stage.level.members
    app = make_app(stage.url)
    header, last = app.tasks[member.__name__], app.tasks[body.__name__]
    async with app:
        kills: list[int] = []
        killer = asyncio.create_task(kill_children(groups, 2.0, stage.rng, kills))
        begun = time.monotonic()
        flows = [
            await chord([header.job(n) for n in range(members)], last.job(chord=number)).submit()
            for number in range(count)
        ]
        results = [await flow.result(timeout=RESULT_WITHIN) for flow in flows]
        killer.cancel()
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
        stage.figures.update(
            chords=count,
            members=members,
            kills=len(kills),
            seconds=round(took, 1),
            bodies=bodies,
            outcomes_per_body=dict(repeated),
        )
        expected = members * (members - 1)
        wrong = [
            result
            for number, result in enumerate(results)
            if result != {"chord": number, "count": members, "sum": expected, "ordered": 1}
        ]
        stage.check(not wrong, f"{len(wrong)} bodies saw wrong results: {wrong[:2]}")
        stage.check(bodies == count, "a body is missing or there are two")
        stage.check(repeated == {1: count}, "a body has not exactly one outcome")
        stage.check(len(kills) >= 2, "too few kills to show anything")


SCENARIOS: Final[tuple[Scenario, ...]] = (chords,)
