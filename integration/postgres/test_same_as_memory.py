"""The statements decide as ``state.py`` does."""

from __future__ import annotations

import os

import pytest

from bananas_core.testing.clock import ManualClock
from integration.postgres.invariants import check
from integration.postgres.support import pair_on
from integration.twins import do_the_same


@pytest.mark.parametrize("seed", range(int(os.environ.get("BANANAS_TWINS", "8"))))
async def test_both_do_the_same(url: str, namespace: str, seed: int) -> None:
    clock = ManualClock()
    await do_the_same(pair_on(url, namespace, clock), namespace, clock, seed)
    await check(url, namespace)
