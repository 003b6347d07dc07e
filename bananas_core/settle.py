"""From a job's end to the ledger: outcomes are finished in batches, and what became ready is sent.

Nobody in a job's path waits for the reply. A batch whose outcome is unknown is repeated until the
ledger answers: ``finish`` gives the first answer then (L24), and the claims stay renewed meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from bananas_core.errors import BananasError, ResultBackendError
from bananas_core.held import ClaimKey
from bananas_core.job import FinishAnswer, Outcome, OutcomeKind, Ready, Settled
from bananas_core.pair import Pair
from bananas_core.send import send_ready

log = logging.getLogger("bananas.settle")

MOST: Final = 500
"""Outcomes in one ``finish``."""
IN_FLIGHT: Final = 2
UNDONE: Final = (OutcomeKind.HANDBACK, OutcomeKind.SNOOZE)


class Sender:
    """Sends the messages of pending jobs with confirmation, and remembers what to settle."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._settled: list[Settled] = []

    async def send(self, ready: Sequence[Ready]) -> None:
        """What can't be sent now is sent again by ``due`` when its guard fires."""
        self._settled += await send_ready(self._pair, ready)

    def take(self) -> list[Settled]:
        """Confirmed sends whose guards are still to be cleared."""
        taken, self._settled = self._settled, []
        return taken

    def give_back(self, settled: Sequence[Settled]) -> None:
        """The ledger could not be told; try again with the next batch."""
        self._settled.extend(settled)


class Settler:
    """Collects outcomes and finishes them, a batch at a time, at most two in flight."""

    def __init__(
        self,
        pair: Pair,
        sender: Sender,
        drop: Callable[[list[ClaimKey]], None],
        *,
        done: Callable[[int], None],
        recorded: Callable[[list[Outcome]], Awaitable[None]] | None = None,
        eased: Callable[[], None] | None = None,
        worth: int = 1,
    ) -> None:
        """``eased`` is called whenever fewer outcomes wait; so many are ``worth`` a batch of
        their own while another one is in flight."""
        self._pair = pair
        self._sender = sender
        self._drop = drop
        self._done = done
        self._recorded = recorded
        self._eased = eased
        self._worth = worth
        self._outcomes: list[Outcome] = []
        self._flights: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._abandoned = False
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, outcome: Outcome) -> None:
        """Take an outcome; it is on its way after this turn of the loop."""
        if not self._outcomes:
            self._idle.clear()
        self._outcomes.append(outcome)
        if not self._scheduled and self._goes():
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._launch)

    @property
    def waiting(self) -> int:
        """Outcomes that nobody has begun to record: their jobs would run again after a crash, so
        a worker starts no others while these are many."""
        return len(self._outcomes)

    @property
    def idle(self) -> bool:
        """Whether every outcome taken so far is in the ledger, and what follows was done."""
        return self._idle.is_set()

    async def flush(self) -> None:
        """Wait until every outcome taken so far is in the ledger."""
        await self._idle.wait()

    async def abandon(self) -> None:
        """Drop what is in flight or yet to come: its claims lapse and the jobs run again."""
        self._abandoned = True
        flights = list(self._flights)
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _goes(self) -> bool:
        """Whether what waits may go now: a few outcomes wait for the batch before them."""
        flights = len(self._flights)
        return flights == 0 or (flights < IN_FLIGHT and len(self._outcomes) >= self._worth)

    def _launch(self) -> None:
        self._scheduled = False
        if self._abandoned:
            self._outcomes.clear()
        while self._outcomes and self._goes():
            batch, self._outcomes = self._outcomes[:MOST], self._outcomes[MOST:]
            flight = asyncio.get_running_loop().create_task(self._finish(batch))
            self._flights.add(flight)
            flight.add_done_callback(self._landed)
        if not self._outcomes and not self._flights:
            self._idle.set()

    def _landed(self, flight: asyncio.Task[None]) -> None:
        self._flights.discard(flight)
        if not flight.cancelled() and (error := flight.exception()) is not None:
            log.error("a batch of outcomes was dropped, its jobs will run again", exc_info=error)
        self._launch()
        if self._eased is not None and not self._abandoned:
            self._eased()

    async def _finish(self, batch: list[Outcome]) -> None:
        answers, ready = await self._record(batch)
        for job_id in [answer.id for answer in answers if not answer.accepted]:
            log.warning("the outcome of job %s was refused: its claim was lost", job_id)
        self._drop([(outcome.id, outcome.fence) for outcome in batch])
        undone = [outcome for outcome in batch if outcome.kind in UNDONE and _waits(outcome)]
        self._done(len(batch) - len(undone))
        try:
            await self._sender.send(ready)
        except BananasError as error:
            log.warning("released jobs will be sent later: %s", error)
        if self._recorded is not None:
            await self._recorded(batch)

    async def _record(self, batch: list[Outcome]) -> tuple[list[FinishAnswer], list[Ready]]:
        wait = 0.05
        while True:
            try:
                return await self._pair.backend.finish(batch)
            except ResultBackendError as error:
                log.warning("%d outcomes are not recorded yet: %s", len(batch), error)
                await asyncio.sleep(wait)
                wait = min(wait * 2, 1.0)


def _waits(outcome: Outcome) -> bool:
    """Whether it does not count as done: handed back, or only waiting for its turn."""
    return outcome.kind is OutcomeKind.HANDBACK or outcome.ran is None
