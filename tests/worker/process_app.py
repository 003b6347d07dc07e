"""The app of the tests with real processes. The broker's URL comes from the environment."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from pathlib import Path

from bananas import Bananas, current_job
from bananas_core import running

running.HARD_GRACE = 0.5  # type: ignore[misc]  # so that tests need not wait for five seconds

app = Bananas()


def note(what: str) -> None:
    """One line in the file of runs, which survives any kill."""
    line = f"{time.time()} {current_job().id} {os.getpid()} {what}\n"
    fd = os.open(os.environ["RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, line.encode())
    os.close(fd)


@app.task
async def sleepy(seconds: float) -> int:
    note("start")
    await asyncio.sleep(seconds)
    note("end")
    return os.getpid()


@app.task
def where() -> tuple[int, str]:
    import threading

    return os.getpid(), threading.current_thread().name


@app.task
async def where_async() -> int:
    current_job().progress(0.5, "half")
    current_job().log("line")
    return os.getpid()


@app.task
def talk() -> str:
    job = current_job()
    job.progress(0.25, "a quarter")
    job.log("one")
    job.log("two")
    return "talked"


@app.task
def submits() -> int:
    """A blocking call of the app, from a process of its own."""
    return len(where.submit_many_blocking([{}, {}]))


@app.task
def fails() -> None:
    raise ValueError("no good")


@app.task(max_attempts=10)
async def die() -> None:
    note("start")
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def hang() -> None:
    """Starts a process, then sleeps; both must end when the job is stopped."""
    import subprocess

    sleeper = subprocess.Popen(["sleep", "60"])
    note(f"child {sleeper.pid}")
    sleeper.wait()


@app.task(timeout=0.5)
def hang_too_long() -> None:
    hang.fn()


@app.task(timeout=0.3)
async def hold_gil_once() -> str:
    """The first run holds the GIL for longer than anybody waits."""
    mark = Path(os.environ["RUNS"] + ".held")
    note("start")
    if not mark.exists():
        mark.touch()
        re.match(r"(a+)+$", "a" * 40 + "b")
    return "done"
