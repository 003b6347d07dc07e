"""Scenarios for unique jobs: processes and threads that race for keys while workers die."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from typing import Final

import msgspec

from bananas_core.job import Job, Query
from bananas_core.results import ResultBackend
from bananas_core.unique import BY, PREFIX
from integration.faults.inject import Deadline, Kill, kill_children
from integration.faults.racer import TASK, THREADS, Report, Told
from integration.faults.stage import Scenario, Stage

HELD_FOR: Final = 3.0
"""Seconds that the job of ``unique_kept`` takes."""
FREE_WITHIN: Final = 5.0
GONE_WITHIN: Final = 30.0
"""Seconds until the document of a key is gone whose last holder has ended. The key is free before:
the record of its holder says so. A follow-up that died with its worker comes again after 5 s."""
KILL_EVERY: Final = 3.0
RACE_WITHIN: Final = 900.0
KEPT_WITHIN: Final = 60.0
"""Seconds until the second job of the key at the latest: all processors are busy submitting."""
CLOCKS: Final = 0.002
"""Seconds by which two readings of the machine's clock may be off, rounding included."""


class Racers:
    """Submitter processes of 64 threads each, which begin together."""

    def __init__(
        self,
        stage: Stage,
        *,
        keys: int,
        submits: int,
        seconds: float,
        jobs: int = 0,
        holds: float = 0.01,
    ) -> None:
        """``jobs``: each ends when it was told of so many. ``holds``: seconds that a job takes."""
        count = stage.level.racers
        self._stage = stage
        self._seconds = seconds
        self._processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "integration.faults.racer", stage.url),
                    *map(str, (keys, -(-submits // count), seconds, jobs, holds, n)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for n in range(count)
        ]
        for process in self._processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n", "a submitter did not start"

    async def race(self) -> dict[str, Told]:
        """Let them go, until they have ended; what they were told of each job."""
        outputs = await asyncio.gather(
            *(asyncio.to_thread(p.communicate, b"\n", self._seconds + 60) for p in self._processes)
        )
        reports = [msgspec.json.decode(output, type=Report) for output, _ in outputs]
        errors = [error for report in reports for error in report.errors]
        self._stage.figures.update(
            threads=THREADS * len(reports),
            submits=sum(report.submits for report in reports),
            race_s=round(max(report.seconds for report in reports), 1),
            slowest_submit_s=round(max(report.slowest for report in reports), 2),
            errors=len(errors),
        )
        self._stage.check(not errors, f"{len(errors)} submits failed, such as {errors[:3]}")
        told: dict[str, Told] = {}
        for report in reports:
            for id, new in report.told.items():
                old = told.setdefault(id, Told(key=new.key))
                self._stage.check(old.key == new.key, f"{id} was the answer for two keys")
                old.count += new.count
                old.last_begin = max(old.last_begin, new.last_begin)
                old.first_end = min(old.first_end, new.first_end)
        self._stage.oracle.accept(told)
        return told

    def close(self) -> None:
        """End them for sure."""
        for process in self._processes:
            process.kill()
            process.wait(10)


async def unique_race(stage: Stage) -> None:
    """Submits racing for keys while jobs end and workers are killed: never two live jobs of a key,
    no answer that names a job which was over, no key left behind."""
    groups = [stage.group("a", processes=1), stage.group("b", processes=1)]
    level = stage.level
    racers = Racers(stage, keys=level.keys, submits=level.race_submits, seconds=RACE_WITHIN)
    async with stage.app() as app:
        kills: list[Kill] = []
        killer = asyncio.create_task(kill_children(groups, KILL_EVERY, stage.rng, kills))
        try:
            told = await racers.race()
        finally:
            killer.cancel()
            racers.close()
        drained = await stage.drained(app.backend, 60)
        stage.figures.update(
            keys=level.keys, jobs=len(told), kills=len(kills), drained_s=round(drained, 1)
        )
        verdict = await stage.judged(app.backend)
        stage.check(bool(kills), "no kill, so nothing is shown of them")
        stage.check(verdict.states == {"completed": len(told)}, "some did not complete")
        await _one_at_a_time(stage, app.backend, told)
        await _no_key_left(stage, app.backend)


async def unique_kept(stage: Stage) -> None:
    """One key that all threads submit all the time, and its worker is killed: one live job; the
    same one runs again and keeps the key, which is free within 5 s of its end."""
    group = stage.group("a", processes=1)
    racers = Racers(stage, keys=1, submits=10**9, seconds=KEPT_WITHIN, jobs=2, holds=HELD_FOR)
    async with stage.app() as app:
        racing = asyncio.create_task(racers.race())
        try:
            first = await _first_start(stage)
            await asyncio.sleep(HELD_FOR / 2)
            (child,) = group.children()
            os.kill(child, signal.SIGKILL)
            told = await racing
        finally:
            racing.cancel()
            racers.close()
        await stage.drained(app.backend, 60)
        verdict = await stage.judged(app.backend)
        jobs = (await _one_at_a_time(stage, app.backend, told))[0]
        outcomes = [entry.outcome for entry in jobs[0].attempts]
        gaps = [round(b.created_at - (a.finished_at or 0.0), 3) for a, b in pairwise(jobs)]
        stage.figures.update(
            jobs=len(told),
            first_job=outcomes,
            answers_first_job=told[first].count,
            free_after_s=gaps,
        )
        stage.check(jobs[0].id == first, "another job ran before the first")
        stage.check(outcomes == ["died", "completed"], f"of the first job: {outcomes}")
        stage.check(len(stage.starts(first)) == 2, "the killed job did not run twice")
        stage.check(verdict.states == {"completed": len(told)}, "some did not complete")
        stage.check(bool(gaps), "no job came after the first: nothing says when the key was free")
        stage.check(max(gaps) <= FREE_WITHIN, f"free later than {FREE_WITHIN} s")
        await _no_key_left(stage, app.backend)


async def _first_start(stage: Stage) -> str:
    """The job that starts first, once it has."""
    deadline = Deadline(30)
    while not deadline.over:
        for run in stage.oracle.runs():
            return run.id
        await asyncio.sleep(0.05)
    stage.check(False, "no job has started")
    raise AssertionError


async def _one_at_a_time(
    stage: Stage, backend: ResultBackend, told: Mapping[str, Told]
) -> dict[int, list[Job]]:
    """Whether the jobs of each key came one after another, by the ledger's records, by what the
    bodies wrote, and by what submitters were told. The jobs of each key, the oldest first."""
    keys: dict[int, list[Job]] = defaultdict(list)
    lost = 0
    for job in await _records(backend):
        if job.id in told:
            keys[told[job.id].key].append(job)
        elif job.cancel is not None and job.cancel.by == BY and not job.attempts:
            lost += 1  # it never had the key
        else:
            stage.check(False, f"nobody was told of {job}")
    began: dict[str, float] = {}
    ended: dict[str, float] = {}
    for run in stage.oracle.runs():
        if run.what == "start":
            began.setdefault(run.id, run.at)
        else:
            ended[run.id] = run.at
    live = bodies = 0
    stale = 0.0
    for jobs in keys.values():
        jobs.sort(key=lambda job: job.created_at)
        for job, after in pairwise(jobs):
            assert job.finished_at is not None
            live += after.created_at < job.finished_at - CLOCKS
            bodies += began[after.id] < ended[job.id]
        for job in jobs:
            answers = told[job.id]
            assert job.finished_at is not None
            stale = max(stale, answers.last_begin - job.finished_at)
            stage.check(
                job.created_at <= answers.first_end + CLOCKS, f"told before it was there: {job}"
            )
    stage.figures.update(
        live_at_once=live, bodies_at_once=bodies, never_had_the_key=lost, stale_s=round(stale, 3)
    )
    stage.check(not live, f"{live} times two live jobs had one key")
    stage.check(not bodies, f"{bodies} times two jobs of one key ran at once")
    stage.check(stale <= FREE_WITHIN, f"a job that was over {stale:.1f} s was the answer")
    return keys


async def _no_key_left(stage: Stage, backend: ResultBackend) -> None:
    """Documents of keys are gone soon after the last job has ended."""
    begun = time.monotonic()
    deadline = Deadline(GONE_WITHIN)
    while left := await backend.docs(PREFIX):
        stage.check(not deadline.over, f"keys are left behind, such as {left[0]}")
        await asyncio.sleep(0.1)
    stage.figures["last_key_gone_s"] = round(time.monotonic() - begun, 1)


async def _records(backend: ResultBackend) -> list[Job]:
    """Of all unique jobs."""
    jobs: list[Job] = []
    cursor = None
    while True:
        page = await backend.query(Query(name=TASK, limit=500, cursor=cursor))
        jobs += page.jobs
        cursor = page.cursor
        if cursor is None:
            return jobs


SCENARIOS: Final[tuple[Scenario, ...]] = (unique_race, unique_kept)
