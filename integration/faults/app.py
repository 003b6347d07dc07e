"""The tasks that faults are tried on. Broker and oracle file come from the environment."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time

from bananas import Bananas, current_job
from integration.faults.inject import SkewedClock
from integration.faults.oracle import note

app = Bananas(clock=SkewedClock(float(os.environ.get("FAULTS_SKEW", "0"))))
RUNS = os.environ.get("FAULTS_RUNS", "runs.jsonl")


def _note(what: str) -> None:
    job = current_job()
    note(RUNS, job.id, job.attempt, what)


@app.task(name="short")
async def short(number: int) -> int:
    _note("start")
    await asyncio.sleep(0.05)
    _note("end")
    return number


@app.task(name="quick")
async def quick(number: int) -> int:
    _note("start")
    await asyncio.sleep(0.001)
    _note("end")
    return number


@app.task(name="sleepy", max_attempts=5)
async def sleepy(seconds: float) -> int:
    _note("start")
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        _note("cancelled")
        raise
    _note("end")
    return os.getpid()


@app.task(name="block_loop")
async def block_loop(seconds: float) -> None:
    _note("start")
    time.sleep(seconds)  # noqa: ASYNC251 - the fault itself
    _note("end")


@app.task(name="hold_gil")
def hold_gil(seconds: float) -> None:
    """A regular expression with exponential back-tracking never lets the GIL go."""
    _note("start")
    end = time.monotonic() + seconds
    size = 22
    while time.monotonic() < end:
        begun = time.monotonic()
        re.match(r"(a+)+$", "a" * size + "b")
        if time.monotonic() - begun < seconds / 4:
            size += 1
    _note("end")


@app.task(name="die", max_attempts=10)
async def die() -> None:
    _note("start")
    await asyncio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
