"""A worker: puts the duties together and sees to a clean start and end."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import socket
from collections.abc import Callable, Coroutine, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from bananas_core.admission import Admission, learn
from bananas_core.backlog import Backlog
from bananas_core.clock import Clock, SystemClock
from bananas_core.due import DueLoop, PauseWatch
from bananas_core.errors import ConfigurationError, ResultBackendError
from bananas_core.fetch import Fetcher
from bananas_core.held import ClaimKey
from bananas_core.job import Claim, Outcome, OutcomeKind, RenewAnswer, Retention, Session
from bananas_core.message import DEFAULT_LIMITS
from bananas_core.pair import Pair
from bananas_core.renew import SAFE_AGE, Keeper
from bananas_core.report import Reporter
from bananas_core.running import Executor, Isolation
from bananas_core.settle import Sender, Settler
from bananas_core.state import ORPHAN_AGE
from bananas_core.threads import ThreadPool

if TYPE_CHECKING:
    from bananas_core.app import Bananas

log = logging.getLogger("bananas.worker")

SWEEP: Final = 0.05
"""Seconds between two looks at all running jobs."""
CHECK_EVERY: Final = 20
"""Sweeps between two looks at the process itself."""
UNRECORDED: Final = 2
"""Outcomes that may wait for the ledger for each slot; their jobs would run again after a crash."""
FULL: Final = 100
"""Outcomes that make a full batch."""
LATE: Final = ORPHAN_AGE - 1.0
"""Seconds after which the answer to a receive may not be acted upon."""
STOP_MARGIN: Final = 1.5
"""Seconds after the grace time for cancelled bodies to end and for the last outcomes."""


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How one worker process works. Durations in seconds, memory in MiB."""

    name: str = "worker"
    routing_keys: tuple[str, ...] = ("default",)
    concurrency: int = 16
    grace: float = 30.0
    pool: Literal["thread", "process"] = "thread"
    max_jobs: int | None = None
    max_memory: int | None = None
    retention: Retention = Retention()


class StopReason(StrEnum):
    """Why ``run`` returned."""

    STOPPED = "stopped"
    RECYCLE = "recycle"
    """``max_jobs`` or ``max_memory`` reached, or a thread that can't be stopped: start anew."""
    ABORTED = "aborted"
    """Told to stop twice."""


def new_session(options: WorkerOptions, clock: Clock, tasks: Sequence[str] = ()) -> Session:
    """A session whose id nobody had before, also with equal host names and recycled pids."""
    host, pid = socket.gethostname(), os.getpid()
    return Session(
        id=f"{host}-{pid}-{secrets.token_hex(6)}",
        name=options.name,
        host=host,
        pid=pid,
        started_at=clock.now(),
        routing_keys=options.routing_keys,
        tasks=tuple(sorted(tasks)),
        slots=options.concurrency,
        free=options.concurrency,
    )


class Worker:
    """One worker on the running event loop.

    The app must be open. ``run`` returns after a graceful stop; cancelling it stops at once,
    like a crash: claims lapse or are ended by the supervisor.
    """

    def __init__(
        self,
        app: Bananas,
        options: WorkerOptions,
        *,
        keeper: Keeper,
        isolation: Isolation | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        on_ready: Callable[[], None] | None = None,
        memory: Callable[[], float] | None = None,
        session: Session | None = None,
        sweep_every: float = SWEEP,
    ) -> None:
        if options.concurrency < 1:
            raise ConfigurationError("concurrency must be at least 1")
        if not options.routing_keys:
            raise ConfigurationError("a worker needs at least one routing key")
        if options.pool == "process" and isolation is None:
            raise ConfigurationError("pool=process needs a worker started by `bananas worker`")
        self.app = app
        self.options = options
        self.clock = clock or SystemClock()
        self.session = session or new_session(options, self.clock, tuple(app.tasks))
        self.done = 0
        self._rng = rng or random.Random()
        self._keeper = keeper
        self._isolation = isolation
        self._on_ready = on_ready
        self._memory = memory
        self._sweep_every = sweep_every
        self._stop = asyncio.Event()
        self._abort = asyncio.Event()
        self._recycle = False
        self._freed = 0
        """Jobs that have ended in this turn of the loop, and the seconds they took together."""
        self._busy_for = 0.0
        self._duties: list[asyncio.Task[None]] = []
        if app.pair is None:
            raise ConfigurationError("open the app before making a worker: async with app: …")
        self._pair = app.pair
        self._limits = app.plugins.has("before_execute")
        self._build(app.pair)

    def stop(self) -> None:
        """Finish what runs within the grace time, hand the rest back. Again: stop at once."""
        if self._stop.is_set():
            self._abort.set()
        self._stop.set()

    async def run(self) -> StopReason:
        """Work until stopped.

        Raises:
            BananasError: broker or ledger can't be reached at the start.
        """
        try:
            await self._start()
            await self._wait_for_stop()
            await self._end()
        finally:
            self._keeper.abandon()
            await self._cancel_duties()
            self._threads.close()
        if self._abort.is_set():
            return StopReason.ABORTED
        return StopReason.RECYCLE if self._recycle else StopReason.STOPPED

    def _build(self, pair: Pair) -> None:
        options = self.options
        self._backlog = Backlog(options.concurrency)
        self._threads = ThreadPool(options.concurrency)
        self._sender = Sender(pair)
        self._settler = Settler(
            pair,
            self._sender,
            self._keeper.drop,
            done=self._finished,
            recorded=self._recorded,
            eased=self._eased,
            worth=min(FULL, UNRECORDED * options.concurrency),
        )
        self._reporter = Reporter(pair, self.session, self.clock, self._heard)
        self._executor = Executor(
            self.app,
            self._keeper,
            self._reporter,
            settle=self._settler.add,
            ended=self._ended,
            threads=self._threads,
            isolation=self._isolation,
            processes=options.pool == "process",
            clock=self.clock,
            rng=self._rng,
        )
        self._admission = Admission(
            self.app,
            clock=self.clock,
            free=self._may_start,
            start=lambda claim: self._executor.start((claim,)),
            settle=self._settler.add,
            ready=self._fill,
        )
        self._fetcher = Fetcher(
            pair,
            self.session.id,
            options.routing_keys,
            capacity=self._capacity,
            intake=self._intake,
            clock=self.clock,
            limits=DEFAULT_LIMITS,
        )
        self._due = DueLoop(
            pair,
            self._sender,
            options.routing_keys,
            clock=self.clock,
            rng=self._rng,
            retention=options.retention,
        )
        self._pauses = PauseWatch(pair, self._fetcher.pause)

    async def _start(self) -> None:
        await self._pair.transport.declare(self.options.routing_keys)
        await self._keeper.start(self.session)
        await self._pauses.once()
        if self.app.plugins.has("worker_started"):
            await self.app.plugins.worker_started(self.session)
        self._fetching = self._spawn(self._fetcher.run())
        for duty in (self._due.run(), self._pauses.run(), self._reporter.run(), self._sweep()):
            self._spawn(duty)
        if self._on_ready is not None:
            self._on_ready()

    async def _wait_for_stop(self) -> None:
        stop = asyncio.get_running_loop().create_task(self._stop.wait())
        try:
            await asyncio.wait({stop, *self._duties}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
        for duty in self._duties:
            if duty.done() and not duty.cancelled() and (error := duty.exception()) is not None:
                raise error

    async def due_once(self) -> None:
        """One round of the due duty, now."""
        await self._due.once()

    @property
    def settled(self) -> bool:
        """Whether every outcome of its jobs is in the ledger, and what follows was done."""
        return self._settler.idle

    async def _end(self) -> None:
        """Graceful: no new claims, the backlog back, the rest within the grace time."""
        self._fetching.cancel()
        await asyncio.gather(self._fetching, return_exceptions=True)
        for claim in self._backlog.clear():
            self._hand_back(claim)
        self._admission.close()
        if not self._abort.is_set():
            await self._wait_for_jobs(self.options.grace)
        self._executor.stop_all()
        await self._wait_for_jobs(STOP_MARGIN, abort=False)
        self._executor.give_up()
        try:
            async with asyncio.timeout(STOP_MARGIN):
                await self._settler.flush()
                await self._fetcher.settle()
                settled = self._sender.take()
                if settled:
                    await self._pair.backend.put([], settled=settled)
                if self.app.plugins.has("worker_stopping"):
                    await self.app.plugins.worker_stopping(self.session)
                await self._keeper.stop()
        except (TimeoutError, ResultBackendError) as error:
            log.warning("the session was not ended, its claims will lapse: %s", error)

    async def _wait_for_jobs(self, seconds: float, *, abort: bool = True) -> None:
        end = self.clock.monotonic() + seconds
        while self._executor.running and self.clock.monotonic() < end:
            if abort and self._abort.is_set():
                return
            await asyncio.sleep(0.02)

    async def _cancel_duties(self) -> None:
        running = [job.task for job in self._executor.running.values() if job.task is not None]
        for task in (*self._duties, *running):
            task.cancel()
        self._fetcher.close()
        await self._settler.abandon()
        await asyncio.gather(*self._duties, return_exceptions=True)

    def _spawn(self, duty: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(duty)
        self._duties.append(task)
        return task

    def _capacity(self) -> int:
        if self._stop.is_set() or not self._safe() or self._crowded():
            return 0
        return self._backlog.capacity(self._busy() + self._admission.due)

    def _safe(self) -> bool:
        return self.clock.monotonic() - self._keeper.confirmed() < SAFE_AGE

    def _crowded(self) -> bool:
        """Whether the ledger is so slow that outcomes pile up."""
        return self._settler.waiting >= UNRECORDED * self.options.concurrency

    def _busy(self) -> int:
        """Slots that are taken."""
        return len(self._executor.running) + self._admission.slots

    def _may_start(self) -> bool:
        """Whether a slot is free; never while our claims may have lapsed."""
        if self._stop.is_set() or self._crowded():
            return False
        return self._busy() < self.options.concurrency and self._safe()

    def _intake(self, claims: Sequence[Claim], asked_at: float) -> None:
        """Take claims that were asked for at ``asked_at``. If the answer lay around, because the
        loop was blocked, they may count as orphans by now and run elsewhere: hand them back."""
        if self.clock.monotonic() - asked_at > LATE:
            for claim in claims:
                self._hand_back(claim)
            return
        few = 2 * len(claims) <= self.options.concurrency
        if not few:
            # Later: the next receive is sent first, and is answered while these run.
            asyncio.get_running_loop().call_soon(self._fill)
        learn(self._admission.time, claims)
        self._keeper.hold(claims)
        self._backlog.push(claims, self.clock.monotonic())
        if few:
            self._fill()

    def _fill(self) -> None:
        """Start what has a free slot; nothing while our claims may have lapsed. Who waited for its
        turn goes first, since it has none later."""
        admission, backlog = self._admission, self._backlog
        admission.pump()
        if self._stop.is_set() or not backlog or not self._safe() or self._crowded():
            return
        free = self.options.concurrency - self._busy()
        if free <= 0:
            return
        claims = self._take_unlimited(free) if self._limits else backlog.take(free)
        if claims:
            self._executor.start(claims)

    def _take_unlimited(self, free: int) -> list[Claim]:
        """Claims for so many slots; those that plugins must be asked about are asked about."""
        admission, backlog = self._admission, self._backlog
        claims: list[Claim] = []
        before = admission.slots
        while backlog and len(claims) + admission.slots - before < free:
            claim = backlog.pop()
            if admission.concerns(claim):
                admission.ask(claim)
            else:
                claims.append(claim)
        return claims

    def _hand_back(self, claim: Claim) -> None:
        self._settler.add(Outcome(id=claim.id, fence=claim.fence, kind=OutcomeKind.HANDBACK))

    def _ended(self, duration: float) -> None:
        """A job has ended. What follows is done once for all that end in this turn of the loop."""
        self._freed += 1
        self._busy_for += duration
        if self._freed == 1:
            asyncio.get_running_loop().call_soon(self._refill)

    def _refill(self) -> None:
        freed, self._freed = self._freed, 0
        spent, self._busy_for = self._busy_for, 0.0
        self._backlog.ended(freed, spent / freed)
        self._eased()

    def _eased(self) -> None:
        self._fill()
        self._fetcher.wake()

    def _finished(self, count: int) -> None:
        self.done += count
        limit = self.options.max_jobs
        if limit is not None and self.done >= limit:
            self._recycle_now(f"{self.done} jobs done")

    async def _recorded(self, outcomes: list[Outcome]) -> None:
        if self.app.plugins.has("after_finish"):
            await self.app.plugins.after_finish(self.app, outcomes)

    def _recycle_now(self, why: str) -> None:
        if not self._stop.is_set():
            log.info("this process is replaced: %s", why)
            self._recycle = True
            self._stop.set()

    def _heard(self, answer: RenewAnswer) -> None:
        for key in list(self._executor.running):
            cancel = answer.cancelled.get(key[0])
            if cancel is not None:
                self._executor.cancel(key, cancel)
        if answer.lost:
            self._executor.lose(frozenset(answer.lost))

    async def _sweep(self) -> None:
        """Deadlines, cancels, lost claims, memory: one look at all jobs, 20 times a second."""
        rounds = 0
        while True:
            await asyncio.sleep(self._sweep_every)
            notices = self._keeper.notices()
            for key, cancel in notices.cancelled.items():
                self._executor.cancel(key, cancel)
                self._admission.cancel(key)
            if notices.lost:
                self._executor.lose(notices.lost)
                self._admission.lose(notices.lost)
            self._admission.sweep()
            now = self.clock.monotonic()
            self._executor.sweep(now)
            if not self._safe():
                self._executor.lose()
                self._keeper.drop(self._admission.lose())
                self._drop_backlog()
            for claim in self._backlog.stalled(now):
                self._hand_back(claim)
            self._fill()
            self._fetcher.wake()
            self._keeper.describe(
                max(0, self.options.concurrency - len(self._executor.running)), self.done
            )
            rounds += 1
            if rounds % CHECK_EVERY == 0:
                self._check_process()

    def _drop_backlog(self) -> None:
        claims: list[ClaimKey] = [(claim.id, claim.fence) for claim in self._backlog.clear()]
        self._keeper.drop(claims)

    def _check_process(self) -> None:
        limit = self.options.max_memory
        if limit is not None and self._memory is not None and self._memory() > limit * (1 << 20):
            self._recycle_now(f"over {limit} MiB of memory")
        if self._threads.abandoned:
            self._recycle_now("a thread could not be stopped")
