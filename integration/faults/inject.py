"""Faults that scenarios inject."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from bananas_core.clock import SystemClock
from integration.faults.workers import WorkerGroup


class Kill(NamedTuple):
    """A process that was killed, and when by the machine's clock."""

    pid: int
    at: float


async def kill_children(
    groups: list[WorkerGroup], every: float, rng: random.Random, killed: list[Kill]
) -> None:
    """kill -9 a random child of a random group, again and again, until cancelled."""
    while True:
        await asyncio.sleep(every)
        children = rng.choice(groups).children()
        if children:
            pid = rng.choice(children)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.append(Kill(pid, time.time()))


@asynccontextmanager
async def stopped(group: WorkerGroup) -> AsyncIterator[None]:
    """SIGSTOP a whole group, SIGCONT it at the end."""
    group.signal_all(signal.SIGSTOP)
    try:
        yield
    finally:
        group.signal_all(signal.SIGCONT)


@asynccontextmanager
async def locked_file(path: Path) -> AsyncIterator[None]:
    """Take a SQLite ledger away: nobody else can write while this holds."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


class SkewedClock(SystemClock):
    """A machine whose clock is off by some seconds."""

    def __init__(self, skew: float) -> None:
        self._skew = skew

    def now(self) -> float:
        return super().now() + self._skew


def full_disk(room: int) -> Callable[[], None]:
    """For ``preexec_fn``: no file of the new process may grow beyond ``room`` bytes. SQLite sees
    what it sees on a full disk: a write that fails."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    return limit


class Deadline:
    """Wall time that a scenario may take."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return self._end - time.monotonic()

    @property
    def over(self) -> bool:
        return self.left() <= 0
