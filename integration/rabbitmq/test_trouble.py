"""What goes wrong at the server, and what a sender or receiver is told."""

from __future__ import annotations

import asyncio
import time

import pytest

from bananas_brokers.rabbitmq.transport import RabbitTransport
from bananas_core.bands import FAIR
from bananas_core.errors import TransportError, TransportUnavailable
from bananas_core.testing.conformance import Harness
from bananas_core.testing.conformance.harness import eventually
from bananas_core.testing.conformance.support import bodies, message, nothing_left, receive, send
from bananas_core.transport import Outgoing
from integration.rabbitmq.support import full, pair_on, plain, queues_in
from integration.servers import Network, Proxy, RabbitServer

BATCH_WITHIN = 2.0


async def alarmed(transport: RabbitTransport) -> bool:
    """The server has told of an alarm, which it does in its own time."""
    await transport.examine()
    return any("alarm" in text for text in transport.warnings())


async def opened(url: str, namespace: str) -> RabbitTransport:
    transport = RabbitTransport(url, namespace)
    await transport.open()
    return transport


async def test_queues_are_deleted_under_load(rabbit: RabbitServer, namespace: str) -> None:
    """A confirmed message is in a queue that is there, or was deleted after it was confirmed."""
    sender, receiver = await opened(rabbit.url, namespace), await opened(rabbit.url, namespace)
    await sender.declare(["q"])
    confirmed: dict[str, float] = {}
    got: set[str] = set()
    over = asyncio.Event()

    async def sending() -> None:
        number = 0
        while not over.is_set():
            batch = [f"m{number + n}" for n in range(20)]
            number += 20
            answers = await sender.send([message(body, "q") for body in batch])
            now = time.monotonic()
            confirmed.update((b, now) for b, a in zip(batch, answers, strict=True) if a is None)

    async def receiving() -> None:
        while not over.is_set() or late() - got:
            try:
                found = await receiver.receive(["q"], 50, 0.5)
            except TransportUnavailable:  # a queue without a leader yet
                await asyncio.sleep(0.1)
                continue
            await receiver.ack(found)
            got.update(bodies(found))

    def late() -> set[str]:
        """Lost may be what lay in a queue when that was deleted. A batch answers when it is done,
        so what it says may be older by as much as it takes."""
        return {body for body, at in confirmed.items() if at > deleted[-1] + BATCH_WITHIN}

    deleted: list[float] = []
    jobs = [asyncio.create_task(sending()), asyncio.create_task(receiving())]
    with plain(rabbit) as connection:
        channel = connection.channel()
        for _ in range(3):
            await asyncio.sleep(0.7)
            channel.queue_delete(f"{namespace}/q/1-of-4")
            deleted.append(time.monotonic())
    await asyncio.sleep(BATCH_WITHIN + 1.0)
    over.set()
    async with asyncio.timeout(20):
        await asyncio.gather(*jobs)
    assert len(late()) > 20  # it went on
    await sender.close()
    await receiver.close()


async def test_an_alarm_fails_submits_in_time(rabbit: RabbitServer, namespace: str) -> None:
    transport = await opened(rabbit.url + "?socket_timeout=2", namespace)
    await send(transport, message("before", "q"))
    rabbit.call("vm_memory_monitor:set_vm_memory_high_watermark({absolute, 1000000})")
    try:
        await eventually(lambda: alarmed(transport), 10.0)
        begun = time.monotonic()
        first, second = await asyncio.gather(
            transport.send([message("a", "q")]), transport.send([message("b", "q")] * 3)
        )
        assert time.monotonic() - begun < 4.0
        for answer in (*first, *second):
            assert isinstance(answer, TransportUnavailable)
            assert "alarm" in str(answer)
        assert bodies(await receive_one(transport)) == ["before"]  # receiving goes on
        other = await opened(rabbit.url, namespace)
        await eventually(lambda: alarmed(other), 10.0)
        await other.close()
    finally:
        rabbit.call("vm_memory_monitor:set_vm_memory_high_watermark(0.4)")

    async def sent() -> bool:
        return await transport.send([message("after", "q")]) == [None]

    await eventually(sent, 15.0)
    other = await opened(rabbit.url, namespace)
    assert not await alarmed(other)
    for one in (transport, other):
        await one.close()


async def test_what_has_no_queue_is_an_error(rabbit: RabbitServer, namespace: str) -> None:
    """The server returns it, and the queue can't be made anew: that is told, for each message."""
    rabbit.add_user(namespace, "secret")
    rabbit.allow(namespace)
    url = rabbit.url.replace("guest:guest", f"{namespace}:secret")
    transport, queue = await opened(url, namespace), f"{namespace}/q/1-of-4"
    await send(transport, message("there", "q"))
    rabbit.allow(namespace, configure="")
    with plain(rabbit) as connection:
        connection.channel().queue_delete(queue)
    answers = await transport.send([message(body, "q") for body in "abc"])
    assert all(isinstance(answer, TransportError) for answer in answers)
    assert len(answers) == 3
    await transport.close()


async def test_sizes_at_the_limit(rabbit: RabbitServer, namespace: str) -> None:
    transport = await opened(rabbit.url, namespace)
    most = transport.capabilities.max_message
    sizes = (most - 1, most, most + 1)
    answers = await transport.send([Outgoing(body=b"x" * n, queue="q") for n in sizes])
    assert answers[:2] == [None, None]
    assert isinstance(answers[2], TransportError)
    assert not isinstance(answers[2], TransportUnavailable)
    got: list[int] = []
    async with asyncio.timeout(10):
        while len(got) < 2:
            found = await transport.receive(["q"], 2, 1.0)
            assert await transport.ack(found) == [True] * len(found)
            got += [len(delivery.body) for delivery in found]
    assert sorted(got) == [most - 1, most]
    await transport.close()


async def receive_one(transport: RabbitTransport) -> list:
    found = await transport.receive(["q"], 1, 10.0)
    assert await transport.ack(found) == [True]
    return found


async def test_no_answer_is_an_error_in_time(rabbit: RabbitServer, namespace: str) -> None:
    with Proxy(rabbit.port) as proxy:
        url = rabbit.url.replace(str(rabbit.port), str(proxy.port)) + "?socket_timeout=1"
        transport = await opened(url, namespace)
        await send(transport, message("a", "q"))
        proxy.become(Network.DEAF)
        begun = time.monotonic()
        with pytest.raises(TransportError):
            raise (await transport.send([message("b", "q")]))[0] or AssertionError("a success")
        assert time.monotonic() - begun < 8.0
        proxy.become(Network.FINE)

        async def sent() -> bool:
            try:
                return await transport.send([message("c", "q")]) == [None]
            except TransportUnavailable:
                return False

        await eventually(sent, 10.0)
        found = bodies(await transport.receive(["q"], 10, 5.0))
        found += bodies(await transport.receive(["q"], 10, 1.0))
        assert {"a", "c"} <= set(found)  # what had no answer may be there, too
        await transport.close()


async def test_what_is_fetched_ahead_goes_to_who_asks(rabbit: RabbitServer, namespace: str) -> None:
    busy, idle = await opened(rabbit.url, namespace), await opened(rabbit.url, namespace)
    sent = [f"m{n}" for n in range(20)]
    await send(busy, *(message(body, "q") for body in sent))
    first = await busy.receive(["q"], 10, 5.0)  # and then it is busy
    begun, got = time.monotonic(), bodies(first)
    while len(got) < len(sent) and time.monotonic() - begun < 5:
        got += bodies(await idle.receive(["q"], 20, 1.0))
    assert sorted(got) == sorted(sent)
    assert time.monotonic() - begun < 2.0
    assert await busy.ack(first) == [True] * len(first)
    await busy.close()
    await idle.close()


async def test_a_higher_band_goes_first_and_none_starves(
    rabbit: RabbitServer, namespace: str
) -> None:
    transport = await opened(rabbit.url, namespace)
    await send(transport, *(message("low", "q", 10) for _ in range(100)))
    await send(transport, *(message("high", "q", 90) for _ in range(900)))
    got: list[str] = []
    fetches: list[list[str]] = []
    while len(got) < 1000:
        found = await transport.receive(["q"], 10, 5.0)
        assert found
        assert await transport.ack(found) == [True] * len(found)
        fetches.append(bodies(found))
        got += bodies(found)
    assert not any("low" in fetch for fetch in fetches[: FAIR - 1])
    lower = [fetch for fetch in fetches[:160] if "low" in fetch]
    assert len(lower) <= 160 / FAIR + 2  # on a machine that stands still at times
    assert "low" in got[:800]
    await transport.close()


async def test_erase_removes_what_it_has_met(rabbit: RabbitServer, namespace: str) -> None:
    transport, other = (
        await opened(rabbit.url, namespace),
        await opened(rabbit.url, f"{namespace}x"),
    )
    await send(transport, message("a", "q"), message("a", "default", 99))
    await send(other, message("b", "q"))
    assert len(queues_in(rabbit, namespace)) == 2
    await transport.erase()
    await transport.erase()
    assert queues_in(rabbit, namespace) == []
    await send(transport, message("again", "q"))
    assert bodies(await transport.receive(["q"], 1, 5.0)) == ["again"]
    assert bodies(await other.receive(["q"], 1, 5.0)) == ["b"]
    await transport.close()
    await other.close()


@full
async def test_what_is_confirmed_survives_kill_9(namespace: str, ledger_url: str) -> None:
    with RabbitServer() as server:
        first = await opened(server.url, namespace)
        sent = [f"m{n}" for n in range(200)]
        await send(first, *(message(body, "q", n % 101) for n, body in enumerate(sent)))
        await asyncio.sleep(3.0)  # the server itself may lose a queue that is younger (3.10)
        server.kill()
        await first.close()
        await asyncio.to_thread(server.start)
        second = await opened(server.url, namespace)
        harness = Harness(lambda: pair_on(server.url, ledger_url, namespace))
        assert sorted(bodies(await receive(harness, second, ["q"], 200))) == sorted(sent)
        await nothing_left(second, "q")
        await second.close()
