"""What a receiver gets next: from which queue and band, and when what was fetched goes back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from typing import Any, Final, TypeVar

from aio_pika.abc import AbstractConnection

from bananas_brokers.rabbitmq.intake import WIDEST, Hold, Intake
from bananas_brokers.rabbitmq.link import Link
from bananas_brokers.rabbitmq.names import LEVELS, band_queue
from bananas_brokers.rabbitmq.queues import declare
from bananas_core.bands import band_order
from bananas_core.errors import TransportError, TransportUnavailable
from bananas_core.transport import Delivery

T = TypeVar("T")

log = logging.getLogger("bananas.rabbitmq")

UNASKED: Final = 0.2
"""Seconds without a receiver after which what was fetched for it goes back."""
PASSED_OVER: Final = 2.0
"""The same for a band whose turn doesn't come."""
PATIENCE: Final = 0.5
"""Seconds beyond its time-out that a receive waits to know whether there is nothing."""
START_WITHIN: Final = 5.0
"""Seconds for the server to begin sending: it may be waiting for a queue's leader."""
LOOK: Final = 0.1
PULSE: Final = 4.0
"""Seconds between two questions whether the connection is alive, and for the answer."""


class Receiver:
    """All intakes of one connection. ``receive`` takes nothing before it returns, so cancelling it
    loses nothing."""

    def __init__(self, link: Link, namespace: str, lease: float) -> None:
        self._link = link
        self._lease = lease
        self._namespace = namespace
        self._intakes: dict[tuple[str, int], Intake] = {}
        self._opening: dict[tuple[str, int], asyncio.Lock] = {}
        self._waiting: dict[asyncio.Event, frozenset[str]] = {}
        self._jobs: set[asyncio.Task[Any]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._turn = 1
        self._closed = False

    async def receive(self, queues: Sequence[str], limit: int, timeout: float) -> list[Delivery]:
        """See T11 to T14. Raises TransportUnavailable, TransportError."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        if self._sweeper is None:
            self._sweeper = loop.create_task(self._sweep())
        event = asyncio.Event()
        self._waiting[event] = frozenset(queues)
        try:
            while True:
                event.clear()
                if self._closed:
                    return []
                order = band_order(self._turn, LEVELS)
                await self._start(((queue, order[0]) for queue in queues), limit)
                found, doubt = self._pick(queues, order, limit)
                if not found:
                    await self._start(((q, band) for q in queues for band in order), limit)
                    found, doubt = self._pick(queues, order, limit)
                if found:
                    self._turn += 1
                    return found
                now = loop.time()
                if now >= until + (0.0 if doubt is None else PATIENCE):
                    return []
                ends = until if doubt is None else doubt if now >= until else min(doubt, until)
                try:
                    async with asyncio.timeout(max(0.001, ends - now)):
                        await event.wait()
                except TimeoutError:
                    pass
        finally:
            del self._waiting[event]
            now = loop.time()
            for (queue, _), intake in self._intakes.items():
                if queue in queues:
                    intake.asked_at = now

    async def settle(self, holds: Sequence[Hold], *, requeue: bool | None = None) -> list[bool]:
        """Acknowledge, or give back; whether each was still held. What is given back goes before
        what was fetched after it."""
        answers = [hold.intake.valid(hold) for hold in holds]
        tags: dict[Intake, list[int]] = {}
        for hold, valid in zip(holds, answers, strict=True):
            if valid:
                tags.setdefault(hold.intake, []).append(hold.tag)
        told: dict[Intake, bool] = {}
        for intake, numbers in tags.items():
            if requeue:
                told[intake] = await self._give_back(intake, numbers)
            else:
                told[intake] = await intake.settle(numbers)
        return [valid and told[hold.intake] for hold, valid in zip(holds, answers, strict=True)]

    def counts(self, queue: str) -> tuple[int, int]:
        """Fetched and not handed out; handed out and not settled; here."""
        mine = [i for (key, _), i in self._intakes.items() if key == queue and not i.dead]
        return sum(i.buffered for i in mine), sum(i.held for i in mine)

    async def discard(self, queue: str) -> int:
        """Remove what was fetched and not handed out; how many."""
        mine = [i for (key, _), i in self._intakes.items() if key == queue and not i.dead]
        return sum([await self._ask(i, i.stop(discard=True)) for i in mine])

    def lost(self) -> None:
        """The connection is gone, and with it all leases."""
        for intake in self._intakes.values():
            intake.give_up()
        self._intakes.clear()
        self._wake()

    async def close(self) -> None:
        """End pending receives. What is held goes back with the connection."""
        self._closed = True
        self._wake()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for job in self._jobs:
            job.cancel()
        tasks = [*self._jobs] if self._sweeper is None else [*self._jobs, self._sweeper]
        if tasks:
            await asyncio.wait(tasks)

    # -- inside --------------------------------------------------------------------------------

    def _pick(
        self, queues: Sequence[str], order: Sequence[int], limit: int
    ) -> tuple[list[Delivery], float | None]:
        """What there is, the queues in turn, in each the bands in order; and until when more of a
        higher band may come, if that holds back a lower one."""
        now = asyncio.get_running_loop().time()
        found: list[Delivery] = []
        doubts: list[float] = []
        begin = self._turn % len(queues) if queues else 0
        for queue in (*queues[begin:], *queues[:begin]):
            for band in order:
                intake = self._intakes.get((queue, band))
                if intake is None:
                    break
                found += intake.take(limit - len(found), now + self._lease)
                if len(found) >= limit:
                    return found, None
                doubt = intake.doubt(now)
                if doubt is not None:
                    doubts.append(doubt)
                    break
        return found, min(doubts, default=None)

    async def _start(self, places: Iterable[tuple[str, int]], limit: int) -> None:
        """See to it that these are consumed, with a window that fits."""
        now = asyncio.get_running_loop().time()
        window = min(2 * limit, WIDEST)
        wanted: dict[tuple[str, int], int] = {}
        for place in places:
            intake = self._intakes.get(place)
            if intake is None or not intake.consuming or window >= 2 * intake.window:
                wanted[place] = window
            elif intake.stuck(now):
                wanted[place] = max(2 * intake.window, window)
        if wanted:

            async def begin(connection: AbstractConnection) -> None:
                await asyncio.gather(*(self._begin(connection, *item) for item in wanted.items()))

            await self._shielded(self._link.ask(begin, START_WITHIN))

    async def _begin(
        self, connection: AbstractConnection, place: tuple[str, int], window: int
    ) -> None:
        async with self._opening.setdefault(place, asyncio.Lock()):
            intake = self._intakes.get(place)
            if intake is None or intake.dead:
                queue = band_queue(self._namespace, *place)
                await declare(connection, [queue])
                intake = await Intake.open(connection, place[0], queue, self._wake)
                self._intakes[place] = intake
            await intake.start(window)

    async def _give_back(self, intake: Intake, tags: Iterable[int] = ()) -> bool:
        try:
            await self._ask(intake, intake.stop(also=tags))
        except TransportError:
            return False
        return True

    async def _sweep(self) -> None:
        """Ten times a second: what nobody asks for, and leases that are over, go back."""
        loop = asyncio.get_running_loop()
        pulse = loop.time() + PULSE
        while True:
            await asyncio.sleep(LOOK)
            now = loop.time()
            wanted: set[str] = set().union(*self._waiting.values())
            for place, intake in list(self._intakes.items()):
                if intake.dead:
                    if self._intakes.get(place) is intake:
                        del self._intakes[place]
                    continue
                overdue = intake.overdue(now)
                if overdue:
                    log.warning("%d leases of %s are over", len(overdue), intake.queue)
                    self._spawn(intake.settle(overdue, requeue=True))
                unasked = place[0] not in wanted and now - intake.asked_at > UNASKED
                passed = intake.buffered > 0 and now - intake.taken_at > PASSED_OVER
                if intake.consuming and (unasked or passed):
                    self._spawn(self._give_back(intake))
            if now >= pulse:
                pulse = now + PULSE
                self._spawn(self._feel())

    async def _feel(self) -> None:
        """Drop a connection that gives no answer, sooner than its heartbeat would; and see to it
        that what lies ready is sent."""
        alive = [intake for intake in self._intakes.values() if not intake.dead]
        await asyncio.gather(
            *(self._ask(intake, intake.beat(), PULSE) for intake in alive), return_exceptions=True
        )

    async def _ask(self, intake: Intake, call: Awaitable[T], seconds: float | None = None) -> T:
        """Wait for the server's answer. Cancelling the caller ends only the waiting, since a call
        that is cancelled half-way would close its channel."""
        job = self._link.on(intake.connection, call, seconds)
        return await self._shielded(job)

    async def _shielded(self, job: Coroutine[Any, Any, T]) -> T:
        """Go on with it though the caller be cancelled; ``close`` ends it, and tells the caller."""
        task = self._spawn(job)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if self._closed and task.cancelled():
                raise TransportUnavailable(f"{self._link.settings.label} was closed") from None
            raise

    def _spawn(self, job: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._jobs.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("not done: %r", error)

    def _wake(self) -> None:
        for event in self._waiting:
            event.set()
