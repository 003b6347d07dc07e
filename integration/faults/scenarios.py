"""Scenarios for plain jobs: each starts its own workers and says what must hold."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from typing import Final

from bananas_core.job import JobState, Query
from bananas_core.transport import Outgoing
from integration.faults.inject import (
    Kill,
    SkewedClock,
    full_disk,
    kill_children,
    locked_file,
    stopped,
)
from integration.faults.stage import IN_FLIGHT, Scenario, Stage, live, one


async def kill_random(stage: Stage) -> None:
    """kill -9 of random children every 2 s over short jobs with 4 worker processes."""
    groups = [stage.group("a", processes=2), stage.group("b", processes=2)]
    async with stage.app() as app:
        count = stage.level.kill_jobs
        kills: list[Kill] = []
        killer = asyncio.create_task(kill_children(groups, 2.0, stage.rng, kills))
        await stage.submit(app, "short", [{"number": n} for n in range(count)])
        while await live(app.backend) > count // 10:
            await asyncio.sleep(0.1)
        killer.cancel()
        took = await stage.drained(app.backend, 60)
        stage.figures.update(jobs=count, kills=len(kills), drained_after_last_kill_s=round(took, 1))
        verdict = await stage.judged(app.backend)
        stage.check(len(kills) >= 2, "too few kills to show anything")
        stage.check(took <= 30, "drained later than 30 s after the last kill")
        stage.check(verdict.states == {"completed": count}, "some did not complete")
        stage.check(verdict.extra_runs <= verdict.in_flight, "more extra runs than jobs in flight")
        stage.check(
            verdict.in_flight <= len(kills) * IN_FLIGHT, "more jobs in flight than there can be"
        )


async def kill_child(stage: Stage) -> None:
    """A killed child under a supervisor: its jobs run again within 2 s."""
    group = stage.group("a", processes=1)
    async with stage.app() as app:
        ids = await stage.submit(app, "sleepy", [{"seconds": 3.0}] * 4)
        for id in ids:
            await stage.started(id)
        (child,) = group.children()
        killed = time.time()
        os.kill(child, signal.SIGKILL)
        await stage.drained(app.backend, 30)
        again = [max(stage.starts(id)) - killed for id in ids]
        stage.figures["started_again_after_s"] = [round(s, 2) for s in again]
        await stage.judged(app.backend)
        stage.check(all(0 < s <= 2.0 for s in again), "started again later than 2 s")


async def stop_group(stage: Stage) -> None:
    """A group stopped in mid-job, then continued: the second run's outcome stands."""
    first = stage.group("first", processes=1)
    async with stage.app() as app:
        (id,) = await stage.submit(app, "sleepy", [{"seconds": 4.0}])
        await stage.started(id)
        second = stage.group("second", processes=1)
        async with stopped(first):
            await asyncio.sleep(stage.level.stop_seconds)
        await stage.drained(app.backend, 40)
        ended = await stage.ended(id, first.children())
        job = await one(app.backend, id)
        value = await (await app.get_job(id)).result(timeout=5)
        stage.figures["outcomes"] = [a.outcome for a in job.attempts]
        stage.figures["first_run"] = ended
        if ended == "end":
            await stage.said(first, "was refused")
        await stage.judged(app.backend)
        stage.check(value in second.children(), "the outcome is not the second run's")
        stage.check([a.outcome for a in job.attempts].count("completed") == 1, "not one outcome")


async def ledger_away(stage: Stage) -> None:
    """The ledger away for 10 s under load: no claim lapses, no job runs twice."""
    stage.group("a", processes=2)
    async with stage.app() as app:
        ids = await stage.submit(app, "sleepy", [{"seconds": 3.0}] * 60)
        await stage.started(ids[0])
        async with locked_file(stage.path):
            await asyncio.sleep(stage.level.away_seconds)
        await stage.drained(app.backend, 60)
        verdict = await stage.judged(app.backend)
        stage.check(verdict.extra_runs == 0, "a job ran twice")
        stage.check(verdict.states == {"completed": 60}, "some did not complete")


async def blocked(stage: Stage) -> None:
    """An async task that blocks the loop and a regex that holds the GIL: run once each."""
    stage.group("a", processes=2, concurrency=1)
    seconds = stage.level.block_seconds
    async with stage.app() as app:
        ids = await stage.submit(app, "block_loop", [{"seconds": seconds}])
        ids += await stage.submit(app, "hold_gil", [{"seconds": seconds}])
        await stage.drained(app.backend, seconds * 3 + 30)
        verdict = await stage.judged(app.backend)
        stage.figures["starts"] = [len(stage.starts(id)) for id in ids]
        stage.check(verdict.extra_runs == 0, "a blocked job ran twice")
        stage.check(verdict.states == {"completed": 2}, "some did not complete")


async def graceful_stop(stage: Stage) -> None:
    """SIGTERM with 16 running jobs, half longer than the grace."""
    grace = 3.0
    group = stage.group("a", processes=1, grace=grace)
    async with stage.app() as app:
        short = await stage.submit(app, "sleepy", [{"seconds": 2.0}] * 8)
        long = await stage.submit(app, "sleepy", [{"seconds": 8.0}] * 8)
        for id in (*short, *long):
            await stage.started(id)
        begun = time.monotonic()
        group.terminate()
        code = group.wait(grace + 10)
        took = time.monotonic() - begun
        stage.figures.update(exit_code=code, stopped_after_s=round(took, 2))
        handed = [await one(app.backend, id) for id in long]
        stage.check(code == 0, "the exit code is not 0")
        stage.check(took <= grace + 2.0, "stopped later than grace + 2 s")
        states = [job.state.value for job in handed]
        stage.check(states == ["pending"] * 8, f"not claimable at once: {states}")
        stage.check(all(job.attempt == 1 for job in handed), "an attempt was spent")
        done = [(await one(app.backend, id)).state.value for id in short]
        stage.check(done == ["completed"] * 8, f"short jobs were not finished: {done}")
        stage.group("b", processes=1)
        await stage.drained(app.backend, 40)
        await stage.judged(app.backend)


async def poison(stage: Stage) -> None:
    """A job that kills its process among 99 good ones: it alone is quarantined."""
    stage.group("a", processes=1, concurrency=100)
    async with stage.app() as app:
        good = [{"seconds": 0.5}] * 99
        ids = await stage.submit(app, "sleepy", good[:50])
        (bad,) = await stage.submit(app, "die", [{}])
        ids += await stage.submit(app, "sleepy", good[50:])
        await stage.drained(app.backend, 90)
        verdict = await stage.judged(app.backend)
        job = await one(app.backend, bad)
        stage.figures["deaths"] = job.deaths
        stage.check(job.state.value == "quarantined", f"the killer is {job.state}")
        stage.check(job.deaths == 3, "not after three deaths")
        stage.check(verdict.states.get("completed") == 99, "a good job did not complete")


async def hammer(stage: Stage) -> None:
    """8 processes on one SQLite file: no lock error surfaces, the file stays whole."""
    seconds = stage.level.hammer_seconds
    stage.group("a", processes=4)
    command = [sys.executable, "-m", "integration.faults.hammer", stage.url, str(seconds)]
    submitters = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(4)
    ]
    outputs = [await asyncio.to_thread(process.communicate) for process in submitters]
    accepted = 0
    for process, (output, _) in zip(submitters, outputs, strict=True):
        stage.check(process.returncode == 0, f"a submitter failed: {output.decode()[-2000:]}")
        ids = output.decode().split()
        stage.oracle.accept(ids)
        accepted += len(ids)
    stage.figures["accepted"] = accepted
    async with stage.app() as app:
        await stage.drained(app.backend, 300)
        await stage.judged(app.backend)
    log = stage.groups[0].log()
    stage.check("database is locked" not in log, "a lock error surfaced in a worker")
    with sqlite3.connect(stage.path) as connection:
        (answer,) = connection.execute("PRAGMA integrity_check").fetchone()
    stage.check(answer == "ok", f"integrity_check: {answer}")


async def disk_full(stage: Stage) -> None:
    """A submitter on a full disk gets an error; what it was promised before is there."""
    command = [sys.executable, "-m", "integration.faults.hammer", stage.url, "30"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=full_disk(2 << 20)
    )
    output, errors = await asyncio.to_thread(process.communicate)
    accepted = output.decode().split()
    stage.oracle.accept(accepted)
    stage.figures.update(accepted=len(accepted), exit_code=process.returncode)
    stage.check(process.returncode == 1, f"it went on: {errors.decode()[-2000:]}")
    last = errors.decode().strip().splitlines()[-1]
    stage.figures["error"] = last.rpartition(": ")[2]
    stage.check("Unavailable" in last, f"not an error of ours: {last}")
    stage.check(bool(accepted), "nothing was accepted before the disk was full")
    stage.group("a", processes=1)
    async with stage.app() as app:
        await stage.drained(app.backend, 60)
        await stage.judged(app.backend)


async def skewed_clocks(stage: Stage) -> None:
    """A producer 300 s behind and workers 300 s ahead: delays are the ledger's."""
    stage.group("a", processes=2, skew=300.0)
    async with stage.app(clock=SkewedClock(-300.0)) as app:
        jobs = []
        for _ in range(20):
            asked = time.time()
            job = await app.submit_job("sleepy", {"seconds": 0.0}, delay=2)
            stage.oracle.accept([job.id])
            jobs.append((job.id, asked))
        await stage.drained(app.backend, 30)
        verdict = await stage.judged(app.backend)
        waits = [stage.starts(id)[0] - asked for id, asked in jobs]
        stage.figures["waited_s"] = [round(min(waits), 2), round(max(waits), 2)]
        stage.check(min(waits) >= 2.0, "a job started early")
        stage.check(max(waits) <= 4.5, "a job started late")
        stage.check(verdict.extra_runs == 0, "a job ran twice")


async def bad_input(stage: Stage) -> None:
    """Bytes that are no message: quarantined whole, each within a second; nothing runs."""
    stage.group("a", processes=1)
    head = b'{"v":1,"id":"bad","name":"quick","created_at":"2026-01-01T00:00:00Z",'
    bad = {
        "truncated": head,
        "not UTF-8": head + b'"payload":{"number":"\xff\xfe"}}',
        "a million deep": head + b'"payload":' + b"[" * 1_000_000,
        "100,000 digits": head + b'"payload":{"number":' + b"1" * 100_000 + b"}}",
        "NaN": head + b'"payload":{"number":NaN}}',
        "version 2": head.replace(b'"v":1', b'"v":2') + b'"payload":{"number":1}}',
        "crit": head + b'"payload":{"number":1},"crit":["teleport"]}',
        "pickle": b"\x80\x04\x8c\x05posix\x94.",
    }
    took: dict[str, float] = {}
    async with stage.app() as app:
        for kind, body in bad.items():
            begun = time.monotonic()
            assert await app.transport.send([Outgoing(body=body)]) == [None]
            while True:
                page = await app.backend.query(Query(states=(JobState.QUARANTINED,)))
                took[kind] = round(time.monotonic() - begun, 2)
                if any(job.message == body for job in page.jobs):
                    break
                stage.check(took[kind] < 10, f"{kind} was never quarantined")
                await asyncio.sleep(0.01)
        stage.figures["slowest_s"] = max(took.values())
        stage.check(max(took.values()) < 1.0, f"slower than a second: {took}")
        stage.check(not stage.oracle.runs(), "something was executed")
        await stage.submit(app, "quick", [{"number": 1}])
        await stage.drained(app.backend, 20)
        await stage.judged(app.backend)


async def restarts(stage: Stage) -> None:
    """SIGTERM restarts under load: nothing lost and nothing run twice."""
    count = stage.level.restarts
    async with stage.app() as app:
        for number in range(count):
            group = stage.group(f"g{number}", processes=1, grace=2)
            await stage.submit(app, "quick", [{"number": n} for n in range(200)])
            await asyncio.sleep(stage.rng.uniform(0.0, 0.2))
            group.terminate()
            stage.check(group.wait(10) == 0, "the exit code is not 0")
        stage.group("last", processes=1)
        await stage.drained(app.backend, 60)
        verdict = await stage.judged(app.backend)
        stage.check(verdict.extra_runs == 0, "a job ran twice")


SCENARIOS: Final[tuple[Scenario, ...]] = (
    kill_child,
    kill_random,
    stop_group,
    ledger_away,
    blocked,
    graceful_stop,
    poison,
    hammer,
    disk_full,
    skewed_clocks,
    bad_input,
    restarts,
)
