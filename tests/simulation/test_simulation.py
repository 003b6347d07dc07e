"""The whole system on virtual time; ``BANANAS_SEEDS`` sets how many seeds (CI: 1,000)."""

from __future__ import annotations

import asyncio
import itertools
import os
import random

import pytest

from bananas_brokers.memory.kvstore import StoreFaults
from bananas_brokers.memory.results import MemoryResultBackend
from bananas_brokers.memory.split import SplitResultBackend, SplitTransport, TransportFaults
from bananas_brokers.memory.transport import MemoryTransport
from bananas_core.clock import Clock
from bananas_core.pair import Pair
from bananas_core.testing.simulation import MakePair, simulate

SEEDS = int(os.environ.get("BANANAS_SEEDS", "120"))
CHUNK = 20
FIRST = int(os.environ.get("BANANAS_FIRST_SEED", "0"))
_worlds = itertools.count()


def fused() -> MakePair:
    """A new in-memory broker of the fused form."""
    url = f"memory://simulated-{next(_worlds)}"

    def make(clock: Clock, rng: random.Random) -> Pair:
        transport = MemoryTransport(url, "sim", clock=clock)
        return Pair(transport, MemoryResultBackend(url, "sim", clock=clock))

    return make


def split() -> MakePair:
    """A new in-memory broker of the split form, with a fault at every primitive of its store."""
    url = f"memory://simulated-{next(_worlds)}?form=split"

    def make(clock: Clock, rng: random.Random) -> Pair:
        transport = SplitTransport(
            url, "sim", clock=clock, rng=rng, faults=TransportFaults(duplicate=0.1, forget=0.05)
        )
        backend = SplitResultBackend(
            url, "sim", clock=clock, rng=rng, faults=StoreFaults(conflict=0.02, lost_reply=0.003)
        )

        async def linger(when: str, primitive: str) -> None:
            """Time passes between primitives, so that a crash may come between any two."""
            if rng.random() < 0.1:
                await asyncio.sleep(rng.random() * 0.05)

        backend.kv.hook = linger
        return Pair(transport, backend)

    return make


@pytest.mark.parametrize("form", [fused, split], ids=lambda form: form.__name__)
@pytest.mark.parametrize("begin", range(FIRST, FIRST + SEEDS, CHUNK))
def test_every_accepted_job_ends_once_whatever_fails(form, begin: int) -> None:
    for seed in range(begin, min(begin + CHUNK, FIRST + SEEDS)):
        simulate(seed, form())


@pytest.mark.parametrize("form", [fused, split], ids=lambda form: form.__name__)
def test_a_seed_replays_the_same_run(form) -> None:
    first, second = simulate(7, form()), simulate(7, form())
    assert first.runs == second.runs
    assert first.loop.time() == second.loop.time()
