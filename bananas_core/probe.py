"""Probe jobs: they go the way of all jobs, from the put to the finish, to prove that it is open.

A probe leaves one record for each routing key, however often it is used: its task ends with
``Snooze``, so that the job is scheduled for a far day, and the next probe brings it forward. When
nobody does, it ends by its ``queue_timeout`` and is pruned like any other job.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from bananas_core.errors import Snooze, TransportError
from bananas_core.job import (
    FINAL,
    Job,
    JobPut,
    JobState,
    Ready,
    Signal,
    SignalKind,
)
from bananas_core.message import VERSION, Message, encode_message
from bananas_core.pair import Pair
from bananas_core.settle import Sender

if TYPE_CHECKING:
    from bananas_core.app import Bananas

log = logging.getLogger("bananas.health")

PROBE: Final = "bananas.probe"
"""The name of the task, and how the routing keys begin that a worker consumes for its probes."""
REST: Final = 86_400.0
"""Seconds until a probe that nobody repeats runs once more."""
UNTAKEN: Final = 60.0
"""Seconds after which a probe that nobody takes is given up."""
POLL: Final = 0.02
PRIORITY: Final = 100


def register_probe(app: Bananas) -> None:
    """Make the app's workers answer probes. Safe to repeat."""
    if PROBE not in app.tasks:

        async def probe() -> None:
            raise Snooze("rests until the next probe", delay=REST)

        app.task(name=PROBE, result=False, max_attempts=1)(probe)


class Probe:
    """The probe job of one routing key."""

    def __init__(self, pair: Pair, routing_key: str, job_id: str) -> None:
        self._pair = pair
        self._routing_key = routing_key
        self._id = job_id

    async def run(self, timeout: float) -> float | None:
        """Send the job on its way; how many seconds it took, None after ``timeout``.

        Raises:
            ResultBackendError: the ledger didn't answer.
        """
        begun = time.monotonic()
        job = await self._get()
        fence = 0 if job is None else job.fence
        await self._send(job)
        while time.monotonic() - begun < timeout:
            job = await self._get()
            # Resting again, with a newer claim than before: it was run.
            if job is not None and job.fence > fence and job.state is JobState.SCHEDULED:
                return time.monotonic() - begun
            await asyncio.sleep(POLL)
        return None

    async def retire(self) -> None:
        """No more probes: the record becomes final. Raises ResultBackendError."""
        await self._pair.backend.signal([Signal(id=self._id, kind=SignalKind.CANCEL, by=PROBE)])

    async def _get(self) -> Job | None:
        return (await self._pair.backend.get([self._id]))[0]

    async def _send(self, job: Job | None) -> None:
        backend = self._pair.backend
        if job is None:
            put = self._put()
            (answer,) = await backend.put([put])
            if answer.send:
                ready = Ready(
                    id=put.id,
                    gen=answer.gen,
                    routing_key=put.routing_key,
                    priority=put.priority,
                    head=False,
                    message=put.message,
                )
                await send_ready(self._pair, [ready])
            return
        if job.state in FINAL:
            wish = Signal(id=self._id, kind=SignalKind.RETRY, by=PROBE)
        elif job.state is JobState.SCHEDULED:
            now = await backend.now()
            wish = Signal(id=self._id, kind=SignalKind.CHANGE, run_at=now, by=PROBE)
        else:
            return  # the last one is still on its way
        _, ready_now = await backend.signal([wish])
        await send_ready(self._pair, ready_now)

    def _put(self) -> JobPut:
        message = Message(
            v=VERSION,
            id=self._id,
            name=PROBE,
            payload=msgspec.Raw(b"{}"),
            created_at=datetime.now(UTC),
            put=True,
            routing_key=self._routing_key,
            priority=PRIORITY,
            max_attempts=1,
            queue_timeout=UNTAKEN,
        )
        return JobPut(
            id=self._id,
            name=PROBE,
            message=encode_message(message),
            routing_key=self._routing_key,
            priority=PRIORITY,
            max_attempts=1,
            queue_timeout=UNTAKEN,
        )


async def send_ready(pair: Pair, ready: Sequence[Ready]) -> None:
    """Send what became pending, over a transport that need not be open yet. When that fails,
    the guards fire in 5 s. Raises ResultBackendError."""
    if not ready or pair.fused:
        return
    sender = Sender(pair)
    try:
        await pair.transport.open()
    except TransportError as error:
        log.warning("%d jobs are sent again later: %s", len(ready), error)
        return
    await sender.send(ready)
    settled = sender.take()
    if settled:
        await pair.backend.put([], settled=settled)
