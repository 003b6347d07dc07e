"""Workers that serve many routing keys: each key has its turn, and nobody sleeps on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from bananas_core.pair import Pair
from bananas_core.testing.conformance.support import a_job
from integration.redis.support import pair_on, succeed

KEYS = [f"k{number:03}" for number in range(300)]
"""More than one script looks at."""


@pytest.fixture
async def pair(redis_url: str, namespace: str) -> AsyncIterator[Pair]:
    pair = pair_on(redis_url, namespace)
    await pair.open()
    yield pair
    await pair.close()


async def take(pair: Pair, limit: int, timeout: float = 0.0) -> list[str]:
    """Claim and finish; the routing keys of what came."""
    found = await pair.transport.receive_claimed("s", KEYS, limit, timeout)  # type: ignore[attr-defined]
    claims = [item.verdict.claim for item in found]
    await pair.backend.finish([succeed(claim) for claim in claims])
    return [claim.routing_key for claim in claims]


@pytest.mark.parametrize("limit", [7, 100])
async def test_with_a_backlog_each_key_gets_the_same(pair: Pair, limit: int) -> None:
    await pair.backend.put([a_job(key) for key in KEYS for _ in range(40)])
    seen: Counter[str] = Counter()
    while seen.total() < 20 * len(KEYS):
        seen.update(await take(pair, limit))
    assert len(seen) == len(KEYS)
    assert min(seen.values()) >= 10
    assert max(seen.values()) <= 30


async def test_keys_that_are_never_empty_starve_no_other(pair: Pair) -> None:
    busy, quiet = KEYS[:100], KEYS[290]
    await pair.backend.put([a_job(quiet)])
    for _ in range(12):
        await pair.backend.put([a_job(key) for key in busy])
        if quiet in await take(pair, 100):
            return
    raise AssertionError("the quiet key's turn never came")


async def test_what_one_receiver_leaves_wakes_another(
    pair: Pair, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bananas_brokers.redis.receiver._LOOK", 60.0)  # nobody looks unasked
    others = [pair_on(redis_url, namespace) for _ in range(2)]
    for other in others:
        await other.open()
    try:
        loop = asyncio.get_running_loop()
        for key in (KEYS[299], KEYS[1], KEYS[150]):
            waiting = [loop.create_task(take(other, 1, timeout=20.0)) for other in others]
            await asyncio.sleep(0.3)  # they listen; if not yet, what follows is no less true
            await pair.backend.put([a_job(key) for _ in range(2)])
            assert await asyncio.gather(*waiting) == [[key], [key]]
    finally:
        for other in others:
            await other.close()
