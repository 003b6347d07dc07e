"""One object after a fork, or on another event loop."""

from __future__ import annotations

import asyncio
import os

import pytest

from bananas_core.testing.conformance.support import a_job
from integration.postgres.support import pair_on, received


def test_another_loop_gets_its_own_connection(url: str, namespace: str) -> None:
    pair = pair_on(url, namespace)
    put = a_job()

    async def begin() -> None:
        await pair.open()
        await pair.backend.put([put])
        await pair.backend.wait(["nobody"], 0.05)
        await pair.transport.receive_claimed("s", ["empty"], 1, 0.05)

    async def go_on() -> None:
        (claim,) = await received(pair, "s")
        assert claim.id == put.id
        await pair.backend.wait(["nobody"], 0.05)
        await pair.close()

    asyncio.run(begin())  # that loop is closed now, without the pair being closed
    asyncio.run(go_on())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_gets_its_own_connection(url: str, namespace: str) -> None:
    pair = pair_on(url, namespace)

    async def begin() -> None:
        await pair.open()
        await pair.backend.put([a_job("first")])

    async def in_child() -> None:
        await pair.backend.put([a_job("child")])
        await pair.close()

    async def look() -> set[str]:
        counts = await pair.backend.count(["routing_key"])
        await pair.close()
        return {count.group[0] for count in counts}

    asyncio.run(begin())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            asyncio.run(in_child())
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert asyncio.run(look()) == {"first", "child"}
