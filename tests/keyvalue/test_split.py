"""The split form: bands in order, one store a name, forks and event loops kept apart."""

from __future__ import annotations

import asyncio
import os
import random
import uuid

import pytest

from bananas_brokers.memory.split import SplitResultBackend, SplitTransport, TransportFaults
from bananas_core.errors import ConfigurationError
from bananas_core.job import Write
from bananas_core.transport import Outgoing


def url() -> str:
    return f"memory://{uuid.uuid4().hex}?form=split"


async def test_a_higher_band_always_comes_first() -> None:
    transport = SplitTransport(url(), "n", rng=random.Random(1))
    await transport.open()
    got: list[bytes] = []
    for turn in range(40):
        await transport.send([Outgoing(body=b"low", queue="q", priority=0)])
        await transport.send([Outgoing(body=b"high", queue="q", priority=100)])
        (delivery,) = await transport.receive(["q"], 1, 1.0)
        got.append(delivery.body)
        await transport.ack([delivery])
        assert got == [b"high"] * (turn + 1)
    await transport.close()


async def test_neighbours_come_out_of_order_and_a_seed_replays_it() -> None:
    orders = []
    for _ in range(2):
        transport = SplitTransport(url(), "n", rng=random.Random(3))
        await transport.open()
        sent = [Outgoing(body=b"%d" % n, queue="q") for n in range(30)]
        await transport.send(sent)
        orders.append([d.body for d in await transport.receive(["q"], 30, 1.0)])
        await transport.close()
    assert orders[0] == orders[1]
    assert orders[0] != [message.body for message in sent]
    assert sorted(orders[0]) == sorted(message.body for message in sent)


async def test_faults_happen_only_when_asked_for() -> None:
    for faults, least, most in (
        (None, 500, 500),
        (TransportFaults(duplicate=0.2), 501, 999),
        (TransportFaults(forget=0.2), 1, 499),
    ):
        transport = SplitTransport(url(), "n", rng=random.Random(5), faults=faults)
        await transport.open()
        answers = await transport.send([Outgoing(body=b"x", queue="q") for _ in range(500)])
        assert answers == [None] * 500
        assert least <= len(await transport.receive(["q"], 2000, 1.0)) <= most
        await transport.close()


def test_a_second_event_loop_is_refused() -> None:
    where = url()

    async def hold() -> SplitResultBackend:
        backend = SplitResultBackend(where, "n")
        await backend.open()
        return backend

    async def other() -> None:
        with pytest.raises(ConfigurationError):
            await SplitResultBackend(where, "n").open()
        with pytest.raises(ConfigurationError):
            await SplitTransport(where, "n").open()

    loop = asyncio.new_event_loop()
    try:
        backend = loop.run_until_complete(hold())
        asyncio.run(other())
        loop.run_until_complete(backend.close())
    finally:
        loop.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_a_store_of_its_own() -> None:
    where = url()
    backend = SplitResultBackend(where, "n")

    async def write() -> None:
        await backend.open()
        await backend.cas([Write(key="k", value=b"parent")])
        await backend.close()

    async def read() -> int:
        await backend.open()
        return len(await backend.docs(""))

    asyncio.run(write())
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = asyncio.run(read())
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert asyncio.run(read()) == 1
