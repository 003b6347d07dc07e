"""What every scenario works with: a folder, workers, the oracle, and how much to do."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import msgspec

from bananas import Bananas
from bananas_core.errors import ResultBackendUnavailable, TransportUnavailable
from bananas_core.job import Job
from bananas_core.results import ResultBackend
from integration.faults.inject import Deadline
from integration.faults.oracle import Oracle, Verdict
from integration.faults.workers import WorkerGroup
from integration.servers import RedisServer, Server


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """How long and how much."""

    kill_jobs: int
    stop_seconds: float
    away_seconds: float
    block_seconds: float
    hammer_seconds: float
    restarts: int
    chords: int
    members: int
    chords_kill_every: float
    """Seconds between two kills while these run."""
    racers: int
    """Processes that submit the same unique keys, each with 64 threads."""
    keys: int
    race_submits: int
    held_back: int
    """Jobs that a limit holds back while others run."""
    overtaken_slower: float
    """By which share other jobs may be slower then: 0.1 is promised; CI has noisy neighbours."""
    pause_seconds: float
    """Without workers, while jobs with a limit wait."""
    broker_jobs: int
    """Jobs over kills of the broker …"""
    broker_kills: int
    """… and how many of these …"""
    broker_away: tuple[float, float]
    """… each followed by so many seconds, from and to, until it is started again."""
    worker_kill_turns: int
    drain_jobs: int


SLOTS: Final = 16
"""Jobs at once in one worker process, by default."""
IN_FLIGHT: Final = 2 * SLOTS
"""Most jobs in flight in one worker process, by default: those that run, and as many that have
ended and whose outcome is on its way to the ledger."""

LEVELS: Final = {
    "ci": Level(
        kill_jobs=10_000,
        stop_seconds=24,
        away_seconds=10,
        block_seconds=20,
        hammer_seconds=10,
        restarts=5,
        chords=30,
        members=500,
        chords_kill_every=1.0,
        racers=2,
        keys=200,
        race_submits=20_000,
        held_back=20_000,
        overtaken_slower=0.3,
        pause_seconds=20,
        broker_jobs=20_000,
        broker_kills=2,
        broker_away=(0.2, 3.0),
        worker_kill_turns=1,
        drain_jobs=20_000,
    ),
    "full": Level(
        kill_jobs=20_000,
        stop_seconds=45,
        away_seconds=10,
        block_seconds=60,
        hammer_seconds=60,
        restarts=200,
        chords=100,
        members=500,
        chords_kill_every=2.0,
        racers=4,
        keys=2_000,
        race_submits=200_000,
        held_back=100_000,
        overtaken_slower=0.1,
        pause_seconds=60,
        broker_jobs=200_000,
        broker_kills=10,
        broker_away=(10.0, 10.0),
        worker_kill_turns=5,
        drain_jobs=1_000_000,
    ),
}


class Stage:
    """What one scenario works with. ``server``: the broker; without one, it is a SQLite file.
    ``ledger``: where records are, for a broker that keeps none."""

    def __init__(
        self,
        folder: Path,
        level: Level,
        seed: int,
        server: Server | None = None,
        ledger: RedisServer | None = None,
    ) -> None:
        self.folder = folder
        self.level = level
        self.rng = random.Random(seed)
        self.path = folder / "jobs.db"
        self.ledger_url: str | None = None
        if server is None:
            self.url = f"sqlite:///{self.path}"
        elif ledger is None:
            self.url = f"{server.url}?durable=true"
        else:
            self.url, self.ledger_url = server.url, f"{ledger.url}?durable=true"
        self._server = server
        self._ledger = ledger
        self.oracle = Oracle(folder)
        self.groups: list[WorkerGroup] = []
        self.figures: dict[str, object] = {}

    @property
    def server(self) -> Server:
        """The broker, for scenarios that need one."""
        assert self._server is not None, "this scenario needs a server"
        return self._server

    @property
    def ledger(self) -> RedisServer:
        """The server of the ledger, for scenarios that need one beside the broker."""
        assert self._ledger is not None, "this scenario needs a ledger that is another server"
        return self._ledger

    def app(self, **settings: Any) -> Bananas:
        """On the broker, and the ledger if that is another one."""
        return Bananas(self.url, result_backend_url=self.ledger_url, **settings)

    def group(
        self, name: str, *, skew: float = 0.0, url: str | None = None, **options: object
    ) -> WorkerGroup:
        ledger_url = self.ledger_url if url is None else None
        group = WorkerGroup(
            self.folder, url or self.url, name, ledger_url=ledger_url, skew=skew, **options
        )
        self.groups.append(group)
        return group.start()

    def close(self) -> None:
        with ExitStack() as stack:
            stack.callback(self.oracle.close)
            for group in self.groups:
                stack.callback(group.kill)  # all of them, also if one can't be

    def check(self, condition: bool, text: str) -> None:
        """Raise AssertionError with the workers' logs if a promise was broken, which is said before
        and after them, since either end may be cut off."""
        if not condition:
            logs = "\n".join(group.log() for group in self.groups)
            raise AssertionError(f"{text}; figures {self.figures}\n{logs}\n{text}")

    async def submit(self, app: Bananas, name: str, payloads: list[dict[str, object]]) -> list[str]:
        """Submit and tell the oracle; an id is accepted once ``submit`` returned."""
        ids: list[str] = []
        for begin in range(0, len(payloads), 500):
            jobs = await app.submit_specs(app.specs(name, payloads[begin : begin + 500], {}))
            part = [job.id for job in jobs]
            self.oracle.accept(part)
            ids += part
        return ids

    async def submit_surely(
        self, app: Bananas, name: str, payloads: list[dict[str, object]]
    ) -> int:
        """``submit`` in one request that is repeated with the same ids until its outcome is known;
        how often it was."""
        ids = [uuid.UUID(int=self.rng.getrandbits(128)).hex for _ in payloads]
        specs = [
            spec
            for id, payload in zip(ids, payloads, strict=True)
            for spec in app.specs(name, [payload], {"job_id": id})
        ]
        for repeated in itertools.count():
            try:
                jobs = await app.submit_specs(specs)
            except (ResultBackendUnavailable, TransportUnavailable):
                await asyncio.sleep(0.2)
                continue
            self.oracle.accept(job.id for job in jobs)
            return repeated
        raise AssertionError

    async def drained(self, backend: ResultBackend, seconds: float) -> float:
        """Wait until no job is live; how long that took."""
        begun = time.monotonic()
        deadline = Deadline(seconds)
        while not deadline.over:
            left = await live(backend)
            if not left:
                return time.monotonic() - begun
            await asyncio.sleep(0.1)
        self.check(False, f"{left} jobs are not done after {seconds} s")
        raise AssertionError

    async def judged(self, backend: ResultBackend) -> Verdict:
        verdict = await self.oracle.judge(backend)
        self.figures["verdict"] = msgspec.to_builtins(verdict)
        self.check(verdict.ok, "accepted jobs were lost")
        self.check(verdict.never_ran == 0, "completed without ever running")
        return verdict

    async def started(self, id: str, seconds: float = 20.0) -> None:
        """Wait for the job's first start line."""
        deadline = Deadline(seconds)
        while not deadline.over:
            if any(run.id == id and run.what == "start" for run in self.oracle.runs()):
                return
            await asyncio.sleep(0.05)
        self.check(False, f"job {id} did not start")

    async def ended(self, id: str, pids: list[int], seconds: float = 20.0) -> str:
        """How the run in one of these processes ended: ``end`` or ``cancelled``."""
        deadline = Deadline(seconds)
        while not deadline.over:
            for run in self.oracle.runs():
                if run.id == id and run.pid in pids and run.what != "start":
                    return run.what
            await asyncio.sleep(0.05)
        raise AssertionError(f"the run of {id} in {pids} did not end")

    async def said(self, group: WorkerGroup, text: str, seconds: float = 10.0) -> None:
        """Wait until the group's log has a text."""
        deadline = Deadline(seconds)
        while text not in group.log():
            self.check(not deadline.over, f"{group.name} never said {text!r}")
            await asyncio.sleep(0.05)

    def starts(self, id: str) -> list[float]:
        return [run.at for run in self.oracle.runs() if run.id == id and run.what == "start"]


async def live(backend: ResultBackend) -> int:
    """How many jobs are not final."""
    counts = {count.group[0]: count.count for count in await backend.count(["state"])}
    return sum(counts.get(state, 0) for state in ("waiting", "scheduled", "pending", "processing"))


async def one(backend: ResultBackend, id: str) -> Job:
    """The record of an accepted job."""
    (job,) = await backend.get([id])
    assert job is not None, f"job {id} has no record"
    return job


Scenario = Callable[[Stage], Awaitable[None]]
