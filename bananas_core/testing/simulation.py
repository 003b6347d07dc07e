"""The whole system on virtual time: real submitter, real workers, a bad network, crashes.

One seed fixes everything: which jobs, which faults, which interleaving. ``simulate`` raises
``Violation`` with the seed in its text, and the same seed replays the same run.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from bananas_core.app import Bananas
from bananas_core.clock import Clock
from bananas_core.context import current_job
from bananas_core.errors import BananasError, Snooze
from bananas_core.job import FINAL, Job, JobState, Session
from bananas_core.pair import Pair
from bananas_core.renew import LoopKeeper
from bananas_core.testing.faulty import Faults, faulty_backend, faulty_transport
from bananas_core.testing.virtual import (
    EPOCH,
    Process,
    VirtualClock,
    VirtualLoop,
    current_process,
    install,
)
from bananas_core.worker import Worker, WorkerOptions

MakePair = Callable[[Clock, random.Random], Pair]
"""Opens nothing: a new connection to the one simulated broker of this run."""

CHAOS: Final = 15.0
"""Virtual seconds during which faults happen."""
SETTLE_WITHIN: Final = 400.0
"""Virtual seconds after which every accepted job must be final. A message that the broker forgot
is missed after a minute, and that may happen to a job more than once."""


class Violation(AssertionError):
    """A promise was broken."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One job to submit: ``fails`` attempts fail before one succeeds."""

    id: str
    name: str
    number: int
    fails: int
    delay: float | None
    priority: int
    cancel: bool


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A body that started."""

    id: str
    attempt: int
    at: float


class Scenario:
    """What is submitted, what its bodies do, and what must hold in the end: here, single jobs."""

    def add_tasks(self, app: Bananas, world: World) -> None:
        """Register the bodies in the app of one process."""
        add_tasks(app, world)

    async def produce(self, world: World, process: Process) -> None:
        """Submit everything, from a process of its own."""
        await _produce(world, process)

    async def check(self, world: World, pair: Pair) -> None:
        """Wait until all has ended, and raise Violation if a promise was broken."""
        await _check(world, pair)


class World:
    """Everything that one seed makes."""

    def __init__(
        self, seed: int, loop: VirtualLoop, make_pair: MakePair, scenario: Scenario
    ) -> None:
        self.scenario = scenario
        self.seed = seed
        self.rng = random.Random(seed)
        self.loop = loop
        self.make_pair = make_pair
        self.clock = VirtualClock(loop)
        rng = self.rng
        self.faults = Faults(
            lost_request=rng.choice([0.0, 0.01, 0.05]),
            lost_reply=rng.choice([0.0, 0.01, 0.05]),
            max_delay=rng.choice([0.0, 0.05, 0.3]),
        )
        self.runs: list[Run] = []
        self.accepted: dict[str, tuple[Plan, float]] = {}
        self.cancelled: set[str] = set()
        self.crashes = 0
        self.cuts = 0
        self.processes: list[Process] = []

    def pair(self, process: Process) -> Pair:
        """A connection for one process, through the bad network."""
        pair = self.make_pair(self.clock, self.rng)
        pair.transport = faulty_transport(pair.transport, self.faults, self.rng, process)
        pair.backend = faulty_backend(pair.backend, self.faults, self.rng, process)
        return pair

    async def app(self, process: Process) -> Bananas:
        """The app of one process, opened on its own connection."""
        app = Bananas(
            "memory://simulation", clock=self.clock, make_pair=lambda _: self.pair(process)
        )
        self.scenario.add_tasks(app, self)
        await app.open()
        return app

    def plans(self) -> list[Plan]:
        """The jobs of this run."""
        rng = self.rng
        names = ["quick", "quick", "flaky", "slow", "snoozing"]
        plans = []
        for number in range(rng.randint(4, 12)):
            name = rng.choice(names)
            plans.append(
                Plan(
                    id=f"job-{number}",
                    name=name,
                    number=number,
                    fails=rng.randint(1, 2) if name == "flaky" else 0,
                    delay=rng.choice([None, None, None, 0.5, 8.0]),
                    priority=rng.choice([0, 10, 50, 90, 100]),
                    cancel=rng.random() < 0.15,
                )
            )
        return plans


def add_tasks(app: Bananas, world: World) -> None:
    """The simulated bodies; each notes that it started."""

    def started() -> str:
        """Note the run; what it returns names the session that it ran in."""
        job = current_job()
        world.runs.append(Run(id=job.id, attempt=job.attempt, at=world.clock.now()))
        process = current_process()
        return process.session if process is not None else ""

    @app.task(name="quick")
    async def quick(number: int) -> str:
        return started()

    @app.task(name="slow")
    async def slow(number: int) -> str:
        session = started()
        await asyncio.sleep(world.rng.uniform(0.5, 12.0))
        return session

    @app.task(name="flaky", max_attempts=5)
    async def flaky(number: int, fails: int) -> str:
        session = started()
        failed = world_failures(world, current_job().id)
        await asyncio.sleep(0.1)
        if failed <= fails:
            raise ValueError(f"failure {failed}")
        return session

    @app.task(name="snoozing")
    async def snoozing(number: int) -> str:
        session = started()
        if world_failures(world, current_job().id) == 1:
            raise Snooze(delay=1.0)
        return session


def world_failures(world: World, id: str) -> int:
    """How often this job's body has started, this time included."""
    return sum(run.id == id for run in world.runs)


def simulate(seed: int, make_pair: MakePair, scenario: Scenario | None = None) -> World:
    """Run one seed to its end.

    Raises:
        Violation: a promise was broken; the text names the seed.
    """
    loop = VirtualLoop()
    install(loop)
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(
            _simulate(World(seed, loop, make_pair, scenario or Scenario()))
        )
    except Violation as error:
        raise Violation(f"seed {seed}: {error}") from error
    finally:
        asyncio.set_event_loop(None)
        loop.close()


async def _simulate(world: World) -> World:
    pair = world.pair(Process("witness"))
    await insist(pair.open)  # first of all: a memory broker lives as long as somebody has it open
    workers = world.rng.randint(1, 3)
    keepers = [asyncio.ensure_future(_keep_worker(world, n)) for n in range(workers)]
    outages = asyncio.ensure_future(_outages(world))
    producer = Process("producer")
    producing = producer.spawn(world.scenario.produce(world, producer))
    await asyncio.sleep(CHAOS)
    outages.cancel()
    world.faults.lost_request = world.faults.lost_reply = 0.0
    world.faults.down_until = 0.0
    await producing
    try:
        await world.scenario.check(world, pair)
    finally:
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, outages, return_exceptions=True)
        for process in (*world.processes, producer):
            process.crash()
            await process.gone()
        await pair.close()
    return world


async def _keep_worker(world: World, number: int) -> None:
    """One worker that is started again whenever it ends, and crashes now and then."""
    rng = world.rng
    while True:
        process = Process(f"worker-{number}")
        world.processes.append(process)
        task = process.spawn(_work(world, process))
        crash_after = rng.expovariate(1 / 12)
        if asyncio.get_running_loop().time() + crash_after < CHAOS and rng.random() < 0.7:
            await asyncio.wait({task}, timeout=crash_after)
            if not task.done():
                world.crashes += 1
                process.crash()
                await process.gone()
            await asyncio.sleep(rng.uniform(0.0, 4.0))
        else:
            await asyncio.wait({task})
            await asyncio.sleep(0.5)
        if task.done() and not task.cancelled() and task.exception() is not None:
            error = task.exception()
            if not isinstance(error, BananasError):
                raise Violation(f"a worker died of {error!r}") from error


async def _work(world: World, process: Process) -> None:
    app = await world.app(process)
    options = WorkerOptions(concurrency=world.rng.choice([1, 2, 4]))
    process.session = f"{process.name}-{world.rng.getrandbits(48):012x}"
    session = Session(id=process.session, name=process.name)
    worker = Worker(
        app,
        options,
        session=session,
        keeper=LoopKeeper(app.backend, world.clock),
        clock=world.clock,
        rng=world.rng,
        sweep_every=0.5,
    )
    await worker.run()


async def _outages(world: World) -> None:
    """Now and then nobody can reach the broker for some seconds, or one process is cut off for
    so long that its claims lapse while it goes on working."""
    rng = world.rng
    while True:
        await asyncio.sleep(rng.uniform(1.0, 10.0))
        now = asyncio.get_running_loop().time()
        alive = [process for process in world.processes if process.alive]
        if alive and rng.random() < 0.6:
            world.cuts += 1
            rng.choice(alive).cut_until = now + rng.uniform(10.0, 30.0)
        else:
            world.faults.down_until = now + rng.uniform(0.5, 8.0)


async def _produce(world: World, process: Process) -> None:
    """Submit all jobs; an unknown outcome is tried again with the same id."""
    app = await insist(lambda: world.app(process))
    for plan in world.plans():
        payload: dict[str, Any] = {"number": plan.number}
        if plan.name == "flaky":
            payload["fails"] = plan.fails
        begun = world.clock.now()
        job = await insist(
            lambda plan=plan, payload=payload: app.submit_job(  # type: ignore[misc]
                plan.name,
                payload,
                job_id=plan.id,
                priority=plan.priority,
                delay=plan.delay,
                max_attempts=5,
            )
        )
        world.accepted[plan.id] = (plan, begun)
        await asyncio.sleep(world.rng.uniform(0.0, 1.0))
        if plan.cancel and await insist(job.cancel):
            world.cancelled.add(plan.id)


async def insist(call: Callable[[], Awaitable[Any]]) -> Any:
    """Repeat a call whose outcome is unknown."""
    while True:
        try:
            return await call()
        except BananasError:
            await asyncio.sleep(0.5)


async def _check(world: World, pair: Pair) -> None:
    ids = list(world.accepted)
    deadline = asyncio.get_running_loop().time() + SETTLE_WITHIN
    while True:
        found = await insist(lambda: pair.backend.get(ids))
        jobs = {job.id: job for job in found if job is not None}
        live = [id for id in ids if id not in jobs or jobs[id].state not in FINAL]
        if not live:
            break
        if asyncio.get_running_loop().time() > deadline:
            shown = [f"{id}: {jobs.get(id)}" for id in live]
            raise Violation(f"not final {SETTLE_WITHIN} s after the faults: {shown}")
        await asyncio.sleep(1.0)
    starts = defaultdict(list)
    for run in world.runs:
        starts[run.id].append(run)
    for id, (plan, begun) in world.accepted.items():
        check_job(world, plan, begun, jobs[id], starts[id])


def check_job(world: World, plan: Plan, begun: float, job: Job, runs: list[Run]) -> None:
    """What must hold for one job at the end, whatever happened on the way."""
    text = f"{plan} ended as {job} after {runs}"
    outcomes = [entry.outcome for entry in job.attempts]
    if plan.id in world.cancelled:
        if job.state not in (JobState.CANCELLED, JobState.COMPLETED):
            raise Violation(f"cancelled, but {text}")
    elif not plan.cancel and job.state is not JobState.COMPLETED and not world.crashes:
        raise Violation(f"no crash, but {text}")
    if outcomes.count("completed") != (1 if job.state is JobState.COMPLETED else 0):
        raise Violation(f"not one recorded outcome: {text}")
    if job.state is JobState.COMPLETED and f'"{job.worker}"'.encode() not in (job.result or b""):
        raise Violation(f"the outcome is not of the run that had the claim: {text}")
    if len(runs) > len(job.attempts):
        raise Violation(f"ran without a claim: {text}")
    if job.deaths and not (world.crashes or world.cuts):
        raise Violation(f"a death without a crash or a cut: {text}")
    if plan.delay is not None and runs and runs[0].at < begun + plan.delay:
        raise Violation(f"early: {text}")
    if None in outcomes:
        raise Violation(f"a claim without an outcome: {text}")
    if job.created_at < EPOCH:
        raise Violation(f"not the ledger's clock: {text}")
