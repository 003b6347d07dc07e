"""What is on the wire, as another client sees it, and what such a client may send."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from bananas import Bananas
from bananas_brokers.rabbitmq.transport import RabbitTransport
from bananas_core.bands import band_of
from bananas_core.embed import run_worker
from bananas_core.job import JobState, Query
from bananas_core.message import decode_message
from bananas_core.testing.conformance.harness import eventually
from bananas_core.testing.conformance.support import message, send
from integration.rabbitmq.support import plain
from integration.servers import RabbitServer

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "accept.json"


async def test_a_submitted_job_as_another_client_sees_it(
    rabbit: RabbitServer, namespace: str, ledger_url: str
) -> None:
    app = Bananas(rabbit.url, result_backend_url=ledger_url, namespace=namespace)

    @app.task(name="shop.add")
    async def add(a: int, b: int) -> int:
        return a + b

    async with app:
        jobs = [await add.job(1, b=2).options(priority=p).submit() for p in (0, 50, 60, 100)]
        with plain(rabbit) as connection:
            channel = connection.channel()
            for band, job in enumerate(jobs):
                queue = f"{namespace}/default/{band}-of-4"
                method, properties, body = channel.basic_get(queue, auto_ack=True)
                assert method is not None, queue
                assert (method.exchange, method.message_count) == ("", 0)
                assert properties.delivery_mode == 2
                assert properties.content_type == "application/json"
                assert set(properties.headers or {}) <= {"x-delivery-count"}  # the server's own
                sent = json.loads(body)
                assert (sent["id"], sent["payload"]) == (job.id, {"a": 1, "b": 2})
                assert (sent["v"], sent["put"]) == (1, True)
                assert decode_message(body).name == "shop.add"


@pytest.mark.parametrize("priority", [0, 25, 26, 50, 51, 75, 76, 100])
async def test_a_plain_client_submits_a_job(
    rabbit: RabbitServer, namespace: str, ledger_url: str, priority: int
) -> None:
    app = Bananas(rabbit.url, result_backend_url=ledger_url, namespace=namespace)

    @app.task(name="shop.add")
    async def add(a: int, b: int) -> int:
        return a + b

    body = {
        "v": 1,
        "id": "from-elsewhere",
        "name": "shop.add",
        "payload": {"a": 2, "b": 3},
        "created_at": "2026-11-24T16:00:00Z",
        "priority": priority,
    }
    async with app:
        stop = asyncio.Event()
        worker = asyncio.create_task(run_worker(app, routing_keys=["default"], stop=stop))
        await eventually(lambda: app.transport.stats(["default"]), 10.0)
        with plain(rabbit) as connection:
            channel = connection.channel()
            queue = f"{namespace}/default/{band_of(priority, 4)}-of-4"
            await app.transport.declare(["default"])
            channel.basic_publish("", queue, json.dumps(body).encode())
            channel.basic_publish("", queue, b"\xff not json")

        async def ended() -> bool:
            (job,) = await app.backend.get(["from-elsewhere"])
            return job is not None and job.state is JobState.COMPLETED

        await eventually(ended, 15.0)
        assert await (await app.get_job("from-elsewhere")).result(timeout=5) == 5

        async def quarantined() -> bool:
            page = await app.backend.query(Query(states=(JobState.QUARANTINED,)))
            return [job.message for job in page.jobs] == [b"\xff not json"]

        await eventually(quarantined, 15.0)
        stop.set()
        await worker
        with plain(rabbit) as connection:
            _, properties, raw = connection.channel().basic_get(f"{namespace}/default/buried")
        assert (raw, properties.headers["reason"]) == (b"\xff not json", "not-json")
        assert await app.transport.purge("default") == 1


async def test_golden_messages_arrive_unchanged(rabbit: RabbitServer, namespace: str) -> None:
    vectors = json.loads(GOLDEN.read_text("utf-8"))["vectors"]
    sent = [vector["text"].encode() for vector in vectors if "text" in vector]
    assert len(sent) > 20
    transport = RabbitTransport(rabbit.url, namespace)
    await transport.open()
    await transport.declare(["default"])
    with plain(rabbit) as connection:
        channel = connection.channel()
        for body in sent:
            channel.basic_publish("", f"{namespace}/default/1-of-4", body)
    got: list[bytes] = []
    async with asyncio.timeout(15):
        while len(got) < len(sent):
            found = await transport.receive(["default"], 100, 1.0)
            await transport.ack(found)
            got += [delivery.body for delivery in found]
    assert sorted(got) == sorted(sent)
    await send(transport, message("a", "default"))
    await transport.close()
