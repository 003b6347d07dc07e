"""Bad input against a real worker process on SQLite: nothing runs, nothing is lost, it lives on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from bananas import Bananas, InvalidPayload, JobFailed, PayloadTooLarge, TransportError
from bananas_core.job import Job, JobState, Query
from bananas_core.transport import Outgoing
from tests.worker.group import Group, environment

HEAD = b'{"v":1,"id":"bad","name":"sleepy","created_at":"2026-01-01T00:00:00Z",'
MESSAGES = {
    "truncated": (HEAD, "not-json"),
    "not UTF-8": (HEAD + b'"payload":{"seconds":"\xff\xfe"}}', "not-json"),
    "nested a million deep": (HEAD + b'"payload":' + b"[" * 1_000_000, "too-deep"),
    "a 100,000-digit integer": (
        HEAD + b'"payload":{"seconds":' + b"1" * 100_000 + b"}}",
        "too-many-digits",
    ),
    "NaN": (HEAD + b'"payload":{"seconds":NaN}}', "not-json"),
    "unknown version": (
        HEAD.replace(b'"v":1', b'"v":2') + b'"payload":{"seconds":0}}',
        "version",
    ),
    "unknown version with other types": (b'{"v":2,"id":7,"name":["sleepy"]}', "version"),
    "unknown crit": (HEAD + b'"payload":{"seconds":0},"crit":["teleport"]}', "crit"),
    "pickle": (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.", "not-json"),
    "payload of a wrong type": (HEAD + b'"payload":[0]}', "payload"),
}
"""Bytes, and the reason that they are refused for."""
TOO_LARGE = HEAD + b'"payload":{"seconds":"' + b"x" * (1 << 20) + b'"}}'


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Bananas]:
    """An app of a producer that shares the worker's file and knows none of its tasks."""
    group = Group(tmp_path).start()
    try:
        async with Bananas(environment(tmp_path)["BANANAS_BROKER_URL"]) as app:
            yield app
            job = await app.submit_job("where_async")
            assert isinstance(await job.result(timeout=10), int), "the worker is gone"
        assert not (tmp_path / "runs").exists(), "something was executed"
    finally:
        group.kill()


async def quarantined(app: Bananas, count: int) -> list[Job]:
    """The records of all quarantined messages, once there are so many."""
    end = time.monotonic() + 10
    while True:
        page = await app.backend.query(Query(states=(JobState.QUARANTINED,)))
        if len(page.jobs) >= count:
            return list(page.jobs)
        assert time.monotonic() < end, f"only {len(page.jobs)} of {count} are quarantined"
        await asyncio.sleep(0.02)


async def test_what_is_no_message_is_quarantined_whole_and_soon(app: Bananas) -> None:
    sent_at = time.time()
    answers = await app.transport.send([Outgoing(body=body) for body, _ in MESSAGES.values()])
    assert answers == [None] * len(MESSAGES)
    found = await quarantined(app, len(MESSAGES))
    reasons = {job.message: job.error.type for job in found if job.error is not None}
    assert reasons == {body: f"InvalidMessage.{reason}" for body, reason in MESSAGES.values()}
    # All of them together; the promise is a second for each.
    assert max(job.created_at for job in found) - sent_at < len(MESSAGES)


async def test_what_is_over_the_limit_is_refused_by_the_transport(app: Bananas) -> None:
    (answer,) = await app.transport.send([Outgoing(body=TOO_LARGE)])
    assert isinstance(answer, TransportError)
    assert "is over" in str(answer)


async def test_wrong_arguments_of_a_foreign_message_fail_the_job(app: Bananas) -> None:
    message = msgspec.json.decode(HEAD + b'"payload":{"seconds":"soon"}}')
    await app.transport.send([Outgoing(body=msgspec.json.encode({**message, "id": "wrong-type"}))])
    job = await app.submit_job("sleepy", {"sekonds": 1}, job_id="wrong-name")
    for id in ("wrong-type", job.id):
        end = time.monotonic() + 10
        while (await app.backend.get([id]))[0] is None:
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
        with pytest.raises(JobFailed) as failed:
            await (await app.get_job(id)).result(timeout=10)
        assert failed.value.error_type == "InvalidPayload"


async def test_what_can_not_be_a_job_is_refused_at_submit(app: Bananas) -> None:
    with pytest.raises(InvalidPayload, match="NaN"):
        await app.submit_job("sleepy", {"seconds": float("nan")})
    with pytest.raises(PayloadTooLarge):
        await app.submit_job("sleepy", {"seconds": "x" * (9 << 20)})
    with pytest.raises(InvalidPayload):
        await app.submit_job("sleepy", {"seconds": object()})
    with pytest.raises(InvalidPayload):
        await app.submit_job("no such name", {})
    counts = await app.backend.count(["state"])
    assert counts == []


async def test_an_unknown_task_waits_unspent_for_a_worker_that_knows_it(app: Bananas) -> None:
    job = await app.submit_job("from_the_next_release", {})
    end = time.monotonic() + 10
    while await job.status() != "scheduled":
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
    assert (await job.record()).attempt == 1
