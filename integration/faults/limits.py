"""Scenarios for limits: a shared rate while workers die, and others' jobs while it holds some
back."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from bananas import Bananas
from bananas_core.job import JobState, Query
from integration.faults.app import LIMIT
from integration.faults.inject import Deadline
from integration.faults.stage import Scenario, Stage
from integration.faults.workers import WorkerGroup

RUN_FOR: Final = 40.0
AFTER: Final = 10.0
WARM: Final = 2.0
"""Seconds after the first start that are not judged: the workers come up one by one."""
DISTURBED: Final = 4.0
"""Seconds after a kill that are not judged: the dead process's turns lapse, and its jobs come
again."""
HELD_BACK_WITHIN: Final = 300.0
QUICK: Final = 2_000
ROUNDS: Final = 15
"""In turn with and without a backlog: what the machine is busy with meets both."""


async def limits(stage: Stage) -> None:
    """50/s shared by 8 processes, one 300 s ahead, two killed: no second has more than limit and
    burst, 95 % of it is used, nothing is lost, and a pause is not made up for."""
    groups = _workers(stage, "first")
    async with stage.app() as app:
        count = int(LIMIT * (RUN_FOR + AFTER))
        await stage.submit(app, "limited", [{"number": n} for n in range(count)])
        begun = time.time()
        kills: list[float] = []
        for at in (RUN_FOR * 0.35, RUN_FOR * 0.7):
            await asyncio.sleep(begun + at - time.time())
            os.kill(stage.rng.choice(groups[1].children()), signal.SIGKILL)
            kills.append(time.time())
        await asyncio.sleep(begun + RUN_FOR - time.time())
        stopped = time.time()
        for group in groups:
            group.terminate()
        for group in groups:
            group.wait(40)
        away = time.time()
        await asyncio.sleep(stage.level.pause_seconds)
        _workers(stage, "second")
        await stage.drained(app.backend, 120)
        starts = sorted(run.at for run in stage.oracle.runs() if run.what == "start")
        judged = [s for s in _seconds(starts[0] + WARM, stopped) if not _near(s, kills)]
        used = [_between(starts, s, s + 1) / LIMIT for s in judged]
        again = [s for s in starts if s > away + stage.level.pause_seconds / 2]
        claims = await _claims(app, "limited")
        stage.figures.update(
            jobs=count,
            most_in_a_second=most_in_a_second(starts),
            share_used=round(statistics.fmean(used), 4),
            share_used_with_kills=round(
                _between(starts, starts[0] + WARM, stopped) / (stopped - starts[0] - WARM) / LIMIT,
                4,
            ),
            seconds_judged=len(judged),
            pause_s=round(again[0] - max(s for s in starts if s <= away + 1), 1),
            most_in_a_second_after_pause=most_in_a_second(again),
            claims_per_job=round(claims, 2),
        )
        verdict = await stage.judged(app.backend)
        stage.check(verdict.states == {"completed": count}, "some did not complete")
        stage.check(most_in_a_second(starts) <= LIMIT + 1, "a second had more than limit + burst")
        stage.check(statistics.fmean(used) >= 0.95, "less than 95 % of the limit was used")
        stage.check(bool(again), "nothing was left for after the pause")


async def limits_overtaken(stage: Stage) -> None:
    """Jobs without a limit, while a limit holds back many others: at most 10 % slower than in a
    ledger with none."""
    control = f"sqlite:///{stage.folder / 'control.db'}"
    stage.group("held", processes=2)
    stage.group("control", processes=2, url=control)
    count = stage.level.held_back
    async with stage.app() as app, Bananas(control) as other:
        begun = time.monotonic()
        await stage.submit(app, "held", [{"number": n} for n in range(count)])
        submitted = time.monotonic() - begun
        deadline = Deadline(HELD_BACK_WITHIN)
        while await _pending(app):
            stage.check(not deadline.over, f"not all are held back after {HELD_BACK_WITHIN} s")
            await asyncio.sleep(0.2)
        held_back = time.monotonic() - begun
        for each in (app, other):
            await _quick(stage, each)
        pairs = [(await _quick(stage, other), await _quick(stage, app)) for _ in range(ROUNDS)]
        slower = statistics.median(held / free for free, held in pairs) - 1
        stage.figures.update(
            held_back=count,
            submitted_s=round(submitted, 1),
            all_held_back_s=round(held_back, 1),
            quick_alone_s=[round(free, 2) for free, _ in pairs],
            quick_s=[round(held, 2) for _, held in pairs],
            slower=round(slower, 3),
        )
        most = stage.level.overtaken_slower
        stage.check(slower <= most, f"others are slowed down by more than {most:.0%}")


def _workers(stage: Stage, name: str) -> list[WorkerGroup]:
    """Eight processes, one of them far ahead."""
    return [
        stage.group(f"{name}-ahead", processes=1, skew=300.0),
        stage.group(f"{name}-a", processes=4),
        stage.group(f"{name}-b", processes=3),
    ]


def most_in_a_second(times: Sequence[float]) -> int:
    """The fullest window of one second, wherever it begins."""
    return max(_between(times, begin, begin + 1.0) for begin in times)


def _between(times: Sequence[float], begin: float, end: float) -> int:
    return bisect_left(times, end) - bisect_left(times, begin)


def _seconds(begin: float, end: float) -> list[float]:
    return [begin + n for n in range(int(end - begin))]


def _near(second: float, kills: Sequence[float]) -> bool:
    return any(kill - 1.0 < second < kill + DISTURBED for kill in kills)


async def _quick(stage: Stage, app: Bananas) -> float:
    """Seconds to run some jobs without a limit."""
    begun = time.monotonic()
    jobs = await app.submit_specs(app.specs("quick", [{"number": n} for n in range(QUICK)], {}))
    for job in jobs:
        await job.result(timeout=60)
    return time.monotonic() - begun


async def _pending(app: Bananas) -> int:
    counts = await app.backend.count(["state"], Query(name="held"))
    live = (JobState.PENDING.value, JobState.PROCESSING.value)
    return sum(found.count for found in counts if found.group[0] in live)


async def _claims(app: Bananas, name: str) -> float:
    """How often a job was claimed, on average."""
    claims = jobs = 0
    cursor = None
    while True:
        page = await app.backend.query(Query(name=name, limit=500, cursor=cursor))
        jobs += len(page.jobs)
        claims += sum(len(job.attempts) for job in page.jobs)
        cursor = page.cursor
        if cursor is None:
            return claims / jobs


SCENARIOS: Final[tuple[Scenario, ...]] = (limits, limits_overtaken)
