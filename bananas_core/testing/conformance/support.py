"""Short words for what nearly every test of the suite does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import pytest

from bananas_core.clock import new_ids
from bananas_core.job import (
    Claim,
    ErrorInfo,
    FinishAnswer,
    Hint,
    Job,
    JobPut,
    JobState,
    Outcome,
    OutcomeKind,
    Ready,
    ReadyKind,
    RenewMode,
    Session,
    Signal,
    SignalAnswer,
    SignalKind,
    VerdictKind,
)
from bananas_core.message import Message, encode_message
from bananas_core.results import ResultBackend
from bananas_core.testing.conformance.harness import Harness
from bananas_core.transport import Delivery, Outgoing, Transport

ERROR: Final = ErrorInfo(type="ValueError", message="no", traceback="Traceback …")


class Suite:
    """Base of all topics. Works in pytest-asyncio's strict mode too."""

    pytestmark = pytest.mark.asyncio


def a_job(routing_key: str = "default", *, put: bool = True, **options: Any) -> JobPut:
    """A job to put (or, with ``put=False``, what a foreign message creates)."""
    job_id = options.pop("id", None) or new_ids(1)[0]
    name = options.pop("name", "conformance.task")
    message = Message(
        v=1,
        id=job_id,
        name=name,
        payload=msgspec.Raw(b'{"n":1}'),
        created_at=datetime.now(UTC),
        put=put,
        routing_key=routing_key,
        priority=options.get("priority", 50),
    )
    return JobPut(
        id=job_id, name=name, message=encode_message(message), routing_key=routing_key, **options
    )


def hint(put: JobPut, gen: int = 1) -> Hint:
    """What the message of a job that was put says."""
    return Hint(id=put.id, gen=gen)


def outcome(claim: Claim, kind: OutcomeKind = OutcomeKind.COMPLETED, **options: Any) -> Outcome:
    """How a claim ended."""
    return Outcome(id=claim.id, fence=claim.fence, kind=kind, **options)


def a_scope(**options: Any) -> JobPut:
    """A whole workflow to put: a scope that is its own root, started unless it is ``waiting``."""
    job_id = options.pop("id", None) or new_ids(1)[0]
    return a_job(id=job_id, scope=True, workflow=options.pop("workflow", job_id), **options)


async def forms(harness: Harness) -> tuple[ResultBackend, ResultBackend]:
    """A ledger beside another transport, and one whose transport finds pending records itself."""
    return await harness.backend(), await harness.backend(guard=False)


def sends(ready: Sequence[Ready]) -> list[tuple[str, int]]:
    """(id, gen) of what must be sent."""
    return [(r.id, r.gen) for r in ready if r.kind is ReadyKind.SEND]


def follow_ups(ready: Sequence[Ready]) -> list[tuple[str, int]]:
    """(id, gen) of what must be followed up, which never has a message."""
    found = [r for r in ready if r.kind is ReadyKind.FOLLOW]
    assert all(r.message == b"" for r in found)
    return [(r.id, r.gen) for r in found]


async def signal_one(
    backend: ResultBackend, job_id: str, kind: SignalKind, **options: Any
) -> tuple[SignalAnswer, list[Ready]]:
    """Send one signal."""
    (answer,), ready = await backend.signal([Signal(id=job_id, kind=kind, **options)])
    assert answer.id == job_id
    return answer, ready


async def put_one(backend: ResultBackend, put: JobPut) -> JobPut:
    """Put one job."""
    await backend.put([put])
    return put


async def claim_one(backend: ResultBackend, session: str, put: JobPut, gen: int = 1) -> Claim:
    """Claim a job that must be free to run."""
    (verdict,) = await backend.claim(session, [hint(put, gen)])
    assert verdict.kind is VerdictKind.RUN, f"expected a claim, got {verdict}"
    assert verdict.claim is not None
    return verdict.claim


async def started(backend: ResultBackend, session: str, **options: Any) -> Claim:
    """Put and claim a new job."""
    return await claim_one(backend, session, await put_one(backend, a_job(**options)))


async def finish_one(
    backend: ResultBackend, claim: Claim, kind: OutcomeKind = OutcomeKind.COMPLETED, **options: Any
) -> FinishAnswer:
    """Finish one claim."""
    (answer,), _ = await backend.finish([outcome(claim, kind, **options)])
    return answer


async def record(backend: ResultBackend, job_id: str) -> Job:
    """The record of a job that must exist."""
    (job,) = await backend.get([job_id])
    assert job is not None, f"the ledger does not know {job_id}"
    return job


async def state_of(backend: ResultBackend, job_id: str) -> JobState:
    """The state of a job that must exist."""
    return (await record(backend, job_id)).state


async def all_due(backend: ResultBackend) -> list[Ready]:
    """What ``due`` gives until nothing more is due right now."""
    found: list[Ready] = []
    for _ in range(1000):
        ready, more = await backend.due(500)
        found += ready
        if not more:
            return found
    raise AssertionError("due says `more` for ever")


async def pass_time(
    harness: Harness, backend: ResultBackend, seconds: float, *, alive: Sequence[str] = ()
) -> list[Ready]:
    """Let time pass while ``due`` runs as it does in a healthy system; what it gave. The sessions
    ``alive`` say that they live, without telling what they hold."""
    found: list[Ready] = []
    left = seconds
    while left > 0:
        step = min(2.0, left)
        await harness.advance(step)
        left -= step
        for session in alive:
            await beat(backend, session)
        found += await all_due(backend)
    return found


async def beat(backend: ResultBackend, session: str) -> None:
    """Renew a session's claims, whatever they are."""
    await backend.renew(Session(id=session, name="conformance"), [], mode=RenewMode.UPDATE)


async def some_turns(number: int) -> None:
    """Let other tasks go on for a little: another moment for each number."""
    for _ in range(number % 9):
        await asyncio.sleep(0)
    if number % 3:  # and for those who wait for a thread or a socket
        await asyncio.sleep(0.0002 * (number % 11))


def message(body: str, queue: str, priority: int = 50, *, head: bool = False) -> Outgoing:
    """A message to send."""
    return Outgoing(body=body.encode(), queue=queue, priority=priority, head=head)


async def send(transport: Transport, *messages: Outgoing) -> None:
    """Send messages that must be accepted."""
    assert await transport.send(messages) == [None] * len(messages)


async def receive(
    harness: Harness, transport: Transport, queues: Sequence[str], count: int, *, limit: int = 100
) -> list[Delivery]:
    """Exactly ``count`` deliveries, in the order in which they came; they are not acked."""
    found: list[Delivery] = []
    loop = asyncio.get_running_loop()
    until = loop.time() + harness.limits.deadline
    while len(found) < count and loop.time() < until:
        found += await transport.receive(queues, min(limit, count - len(found)), 0.2)
    assert len(found) == count, f"received {len(found)} of {count}: {bodies(found)}"
    return found


async def nothing_left(transport: Transport, *queues: str) -> None:
    """Assert that there is nothing to receive."""
    found = await transport.receive(queues, 10, 0.1)
    assert found == [], f"unexpected: {bodies(found)}"


def bodies(deliveries: Sequence[Delivery]) -> list[str]:
    """The bodies as text."""
    return [delivery.body.decode() for delivery in deliveries]
