"""What ``bananas bench`` measures, and how it cleans up after itself."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from bananas_core.clock import SystemClock
from bananas_core.errors import BananasError
from bananas_core.renew import LoopKeeper
from bananas_core.worker import Worker, WorkerOptions

if TYPE_CHECKING:
    from bananas_core.app import Bananas
    from bananas_core.pair import Pair

TASK: Final = "bananas.bench"
DRAINED: Final = "bench"
"""The routing key of jobs that are submitted at once and run later."""
PROMPT: Final = "bench-latency"
"""The one of jobs that an idle worker waits for."""
BULK: Final = 500
"""Jobs in one ``submit_many``."""
MOST_SUBMITS: Final = 5_000
MOST_BULK: Final = 100_000
PAUSE: Final = 0.02
"""Seconds between two jobs for an idle worker."""
STALL: Final = 30.0
"""Seconds without a start after which a worker counts as stuck."""
SHARES: Final = {"submit": 0.15, "bulk": 0.25, "drain": 0.4, "latency": 0.2}
"""Of the time; what one part leaves, the next ones don't get."""

Check = Callable[..., Awaitable[None]]
Tell = Callable[[str, float], None]
"""Told which part is measured and how much of it is done, 0-1."""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured part. ``rate`` is jobs a second; ``p50`` and ``p99`` are seconds of one call or
    wait, None where only the rate means something."""

    measure: str
    jobs: int
    rate: float
    p50: float | None = None
    p99: float | None = None


class Starts:
    """What the bench's own task writes down: when each job started, by number."""

    def __init__(self) -> None:
        self.at: dict[int, float] = {}

    async def run(self, number: int) -> int:
        self.at.setdefault(number, time.perf_counter())
        return number


class Bench:
    """The measures of one run. ``producer`` and ``consumer`` are apps on the same broker and
    namespace, with connections of their own, both open."""

    def __init__(
        self, producer: Bananas, consumer: Bananas, *, seconds: float, concurrency: int, tell: Tell
    ) -> None:
        self._producer = producer
        self._consumer = consumer
        self._seconds = seconds
        self._concurrency = concurrency
        self._tell = tell
        self._starts = Starts()
        self._submitted = 0
        for app in (producer, consumer):
            app.task(name=TASK)(self._starts.run)

    async def run(self) -> AsyncIterator[Figure]:
        """All parts in turn; a job of one is never another's."""
        yield await self._submit()
        yield await self._bulk()
        yield await self._drain()
        yield await self._latency()

    async def _submit(self) -> Figure:
        """One call after another."""
        durations = []
        for _ in self._steps("submit", MOST_SUBMITS):
            before = time.perf_counter()
            await self._producer.submit_job(TASK, {"number": self._next()}, routing_key=DRAINED)
            durations.append(time.perf_counter() - before)
        return Figure(
            measure="submit",
            jobs=len(durations),
            rate=len(durations) / sum(durations),
            p50=percentile(durations, 50),
            p99=percentile(durations, 99),
        )

    async def _bulk(self) -> Figure:
        """Batches, one after another."""
        begun, before = time.perf_counter(), self._submitted
        for _ in self._steps("bulk", MOST_BULK // BULK):
            payloads = [{"number": self._next()} for _ in range(BULK)]
            specs = self._producer.specs(TASK, payloads, {"routing_key": DRAINED})
            await self._producer.submit_specs(specs)
        jobs = self._submitted - before
        return Figure(measure="bulk", jobs=jobs, rate=jobs / (time.perf_counter() - begun))

    async def _drain(self) -> Figure:
        """One worker runs all of these, and keeps their results; from first to last start."""
        jobs, starts = self._submitted, self._starts.at
        async with self._worker(DRAINED) as check:
            begun = time.perf_counter()
            while len(starts) < jobs and time.perf_counter() < begun + self._share("drain"):
                self._tell("drain", len(starts) / jobs)
                await check()
            while not starts:
                await check()
            times = sorted(starts.values())
        span = times[-1] - times[0]
        rate = (len(times) - 1) / span if span > 0 else 0.0
        return Figure(measure="drain", jobs=len(times), rate=rate)

    async def _latency(self) -> Figure:
        """From the call of submit to the start, with a worker that has nothing else to do."""
        made: dict[int, float] = {}
        async with self._worker(PROMPT) as check:
            begun = time.perf_counter()
            for _ in self._steps("latency", round(self._seconds / PAUSE)):
                number = self._next()
                made[number] = time.perf_counter()
                await self._producer.submit_job(TASK, {"number": number}, routing_key=PROMPT)
                await check(PAUSE)
            while not made.keys() <= self._starts.at.keys():
                await check()
            seconds = time.perf_counter() - begun
        waits = [self._starts.at[number] - at for number, at in made.items()]
        return Figure(
            measure="latency",
            jobs=len(waits),
            rate=len(waits) / seconds,
            p50=percentile(waits, 50),
            p99=percentile(waits, 99),
        )

    def _steps(self, part: str, most: int) -> Iterator[int]:
        """Numbers until the part's time is over, at least two and at most ``most``."""
        seconds, begun = self._share(part), time.perf_counter()
        for number in range(most):
            done = max((time.perf_counter() - begun) / seconds, number / most)
            if done >= 1 and number >= 2:
                return
            self._tell(part, min(done, 1.0))
            yield number

    def _next(self) -> int:
        self._submitted += 1
        return self._submitted

    def _share(self, part: str) -> float:
        return self._seconds * SHARES[part]

    @asynccontextmanager
    async def _worker(self, routing_key: str) -> AsyncIterator[Check]:
        """A worker on this loop; what is yielded waits a moment and raises if it failed, or if it
        started nothing for ``STALL`` seconds."""
        app, clock = self._consumer, SystemClock()
        options = WorkerOptions(
            name="bench", routing_keys=(routing_key,), concurrency=self._concurrency, grace=5.0
        )
        worker = Worker(app, options, keeper=LoopKeeper(app.backend, clock), clock=clock)
        run = asyncio.get_running_loop().create_task(worker.run())
        seen, since = -1, 0.0

        async def check(pause: float = 0.005) -> None:
            nonlocal seen, since
            await asyncio.sleep(pause)
            if run.done():
                raise BananasError(f"the worker stopped: {await run}")
            now = time.perf_counter()
            if len(self._starts.at) != seen:
                seen, since = len(self._starts.at), now
            elif now - since > STALL:
                raise BananasError(f"the worker started no job for {STALL:g} s")

        try:
            yield check
        finally:
            worker.stop()
            await asyncio.gather(run, return_exceptions=True)


async def clean_up(pair: Pair) -> bool:
    """Remove everything under the pair's namespace; False if a driver can't.

    A driver may have a coroutine ``erase()`` that removes its whole namespace. Pruning won't do: it
    keeps what is younger than ten minutes.
    """
    gone = True
    for driver in (pair.transport, pair.backend):
        erase: Any = getattr(driver, "erase", None)
        if erase is None:
            gone = False
        else:
            await erase()
    if not gone:
        for key in (DRAINED, PROMPT):
            await pair.transport.purge(key)
    return gone


def percentile(values: Sequence[float], percent: int) -> float:
    """Inclusive, interpolated; ``values`` are at least two."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
