"""The scripts decide as ``state.py`` does."""

from __future__ import annotations

import os

import pytest
import redis

from bananas_core.testing.clock import ManualClock
from integration.redis.invariants import check
from integration.redis.support import on_redis_only, pair_on
from integration.twins import do_the_same


@on_redis_only
@pytest.mark.parametrize("seed", range(int(os.environ.get("BANANAS_TWINS", "12"))))
async def test_both_do_the_same(redis_url: str, namespace: str, seed: int) -> None:
    clock = ManualClock()
    await do_the_same(pair_on(redis_url, namespace, clock), namespace, clock, seed)
    with redis.Redis.from_url(redis_url) as client:
        check(client, namespace)
