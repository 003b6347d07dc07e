"""Logins, TLS, other event loops and forks; and acks after a connection is gone."""

from __future__ import annotations

import asyncio
import os
import re
import shutil

import pytest

from bananas_brokers.rabbitmq.transport import RabbitTransport
from bananas_core.errors import ConfigurationError, TransportError, TransportUnavailable
from bananas_core.pair import load_pair
from bananas_core.testing.conformance.harness import eventually
from bananas_core.testing.conformance.support import bodies, message, send
from integration.rabbitmq.support import plain
from integration.servers import Network, Proxy, RabbitServer
from integration.servers.base import free_port
from integration.servers.need import need

SECONDS = 10.0


async def works(url: str, namespace: str) -> None:
    """A message goes there and comes back."""
    transport = RabbitTransport(url, namespace)
    await transport.open()
    await send(transport, message("a", "q"))
    found = await transport.receive(["q"], 1, SECONDS)
    assert bodies(found) == ["a"]
    assert await transport.ack(found) == [True]
    await transport.close()


async def test_it_tells_what_it_talks_to(rabbit: RabbitServer, namespace: str) -> None:
    transport = RabbitTransport(rabbit.url, namespace)
    await transport.open()
    said = transport.versions()
    assert re.fullmatch(r"RabbitMQ \d+\.\d+.*", said["server"])
    assert re.fullmatch(r"aio-pika [\d.]+", said["client"])
    await transport.close()


async def test_a_login_and_a_virtual_host(rabbit: RabbitServer, namespace: str) -> None:
    rabbit.add_user("jobs", "s:cret/1")
    rabbit.call('rabbit_vhost:add(<<"other/host">>, <<"test">>)')
    rabbit.allow("jobs", "other/host")
    place = f"127.0.0.1:{rabbit.port}"
    await works(f"amqp://jobs:s%3Acret%2F1@{place}/other%2Fhost", namespace)
    for url, text in (
        (f"amqp://jobs:wrongword@{place}/other%2Fhost", "login"),
        (f"amqp://jobs:s%3Acret%2F1@{place}", "virtual host"),
    ):
        with pytest.raises(TransportError, match=text) as caught:
            await RabbitTransport(url, namespace).open()
        assert not isinstance(caught.value, TransportUnavailable)
        assert "wrongword" not in str(caught.value)


async def test_several_hosts_are_tried_in_turn(rabbit: RabbitServer, namespace: str) -> None:
    """The first is not there; of the other two, one is lost, and then the other is used."""
    with Proxy(rabbit.port) as one, Proxy(rabbit.port) as two:
        places = ",".join(f"127.0.0.1:{port}" for port in (free_port(), one.port, two.port))
        transport = RabbitTransport(f"rabbitmq://guest:guest@{places}", namespace)
        await transport.open()
        await send(transport, message("a", "q"))
        assert (one.connections > 0, two.connections) == (True, 0)
        one.become(Network.GONE)

        async def sent() -> bool:
            try:
                return await transport.send([message("b", "q")]) == [None]
            except TransportUnavailable:
                return False

        await eventually(sent, SECONDS)
        assert two.connections > 0
        await transport.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
async def test_tls() -> None:
    need(RabbitServer)
    with RabbitServer(tls=True) as server:
        await works(server.url, "tls")
        with pytest.raises(TransportUnavailable):  # nobody vouches for its certificate
            await RabbitTransport(f"amqps://localhost:{server.port}", "tls").open()


def test_a_ledger_must_be_named(rabbit: RabbitServer) -> None:
    with pytest.raises(ConfigurationError, match="second URL"):
        load_pair(rabbit.url, None, "bananas")


def test_another_loop_gets_its_own_connection(rabbit: RabbitServer, namespace: str) -> None:
    transport = RabbitTransport(rabbit.url, namespace)

    async def begin() -> None:
        await transport.open()
        await send(transport, message("a", "q"))
        await transport.receive(["empty"], 1, 0.05)

    async def go_on() -> None:
        assert bodies(await transport.receive(["q"], 1, SECONDS)) == ["a"]
        await transport.close()

    asyncio.run(begin())  # that loop is closed now, without the transport being closed
    asyncio.run(go_on())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_gets_its_own_connection(rabbit: RabbitServer, namespace: str) -> None:
    transport = RabbitTransport(rabbit.url, namespace)

    async def in_child() -> None:
        await send(transport, message("child", "q"))
        await transport.close()

    async def parent() -> None:
        await transport.open()
        await send(transport, message("first", "q"))
        (held,) = await transport.receive(["q"], 1, SECONDS)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                asyncio.events._set_running_loop(None)
                asyncio.run(in_child())
                code = 0
            finally:
                os._exit(code)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        # What the parent holds is still its own: the child didn't touch the connection.
        assert await transport.ack([held]) == [True]
        assert bodies(await transport.receive(["q"], 1, SECONDS)) == ["child"]
        await transport.close()

    asyncio.run(parent())


async def test_leases_end_with_their_connection(rabbit: RabbitServer, namespace: str) -> None:
    with Proxy(rabbit.port) as proxy:
        url = rabbit.url.replace(str(rabbit.port), str(proxy.port))
        transport = RabbitTransport(url, namespace)
        await transport.open()
        await send(transport, message("a", "q"), message("b", "q"))
        held = await transport.receive(["q"], 2, SECONDS)
        proxy.cut()
        async with asyncio.timeout(SECONDS):
            while any(delivery.token.intake.valid(delivery.token) for delivery in held):
                await asyncio.sleep(0.01)
        assert await transport.ack(held[:1]) == [False]
        assert await transport.release(held[1:]) == [False]
        assert await transport.bury(held, "late") == [False] * len(held)
        again: list[str] = []
        async with asyncio.timeout(SECONDS):
            while len(again) < len(held):
                again += bodies(await transport.receive(["q"], 2, 1.0))
        assert sorted(again) == ["a", "b"]
        await transport.close()


async def test_a_queue_of_another_kind_is_refused(rabbit: RabbitServer, namespace: str) -> None:
    with plain(rabbit) as connection:
        connection.channel().queue_declare(f"{namespace}/q/1-of-4", durable=True)
    transport = RabbitTransport(rabbit.url, namespace)
    await transport.open()
    with pytest.raises(TransportError, match="another namespace"):
        await transport.declare(["q"])
    (refused,) = await transport.send([message("a", "q")])
    assert isinstance(refused, TransportError)
    await transport.close()
