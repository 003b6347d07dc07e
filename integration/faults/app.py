"""The tasks that faults are tried on. Broker and oracle file come from the environment."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time

from bananas import Bananas, current_job
from bananas_plugins.rate_limit import Limit
from integration.faults.inject import SkewedClock
from integration.faults.oracle import note

LIMIT = 50
"""Jobs a second of the task ``limited``."""
RUNS = os.environ.get("FAULTS_RUNS", "runs.jsonl")


def _note(what: str) -> None:
    job = current_job()
    note(RUNS, job.id, job.attempt, what)


async def short(number: int) -> int:
    _note("start")
    await asyncio.sleep(0.05)
    _note("end")
    return number


async def quick(number: int) -> int:
    _note("start")
    await asyncio.sleep(0.001)
    _note("end")
    return number


async def sleepy(seconds: float) -> int:
    _note("start")
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        _note("cancelled")
        raise
    _note("end")
    return os.getpid()


async def block_loop(seconds: float) -> None:
    _note("start")
    time.sleep(seconds)  # noqa: ASYNC251 - the fault itself
    _note("end")


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


async def die() -> None:
    _note("start")
    await asyncio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)


async def member(number: int) -> int:
    _note("start")
    await asyncio.sleep(0.01)
    return 2 * number


async def body(values: list[int], chord: int) -> dict[str, int]:
    _note("start")
    ordered = values == sorted(values)
    return {"chord": chord, "count": len(values), "sum": sum(values), "ordered": int(ordered)}


async def keyed(key: int, seconds: float) -> int:
    _note("start")
    await asyncio.sleep(seconds)
    _note("end")
    return key


async def limited(number: int) -> None:
    _note("start")


async def held(number: int) -> None:
    _note("start")


def make_app(broker_url: str | None = None, result_backend_url: str | None = None) -> Bananas:
    """An app with these tasks."""
    made = Bananas(
        broker_url,
        result_backend_url=result_backend_url,
        clock=SkewedClock(float(os.environ.get("FAULTS_SKEW", "0"))),
    )
    for task in (short, quick, block_loop, hold_gil, member, body):
        made.task(name=task.__name__)(task)
    made.task(name="sleepy", max_attempts=5)(sleepy)
    made.task(name="die", max_attempts=10)(die)
    made.task(name="keyed", max_attempts=10)(keyed)
    made.task(name="limited", limits=Limit(f"{LIMIT}/s"))(limited)
    made.task(name="held", limits=Limit("1/h"))(held)
    return made


app = make_app()
