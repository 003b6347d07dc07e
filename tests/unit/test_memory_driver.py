"""What is particular to ``memory://``: who shares a store, for how long, and in which loop."""

from __future__ import annotations

import asyncio
import gc
import uuid

import pytest

from bananas_brokers.memory.ordered import Ordered
from bananas_brokers.memory.results import MemoryResultBackend
from bananas_brokers.memory.store import find_store
from bananas_brokers.memory.transport import MemoryTransport
from bananas_core.clock import SystemClock
from bananas_core.errors import ConfigurationError
from bananas_core.testing.clock import ManualClock
from bananas_core.testing.conformance.support import a_job


async def knows(url: str, namespace: str, job_id: str) -> bool:
    """Whether a new connection sees the job."""
    backend = MemoryResultBackend(url, namespace)
    await backend.open()
    (job,) = await backend.get([job_id])
    await backend.close()
    return job is not None


@pytest.mark.parametrize("url", ["memory://", "memory://name"])
async def test_the_same_name_and_namespace_share(url: str) -> None:
    namespace, put = uuid.uuid4().hex, a_job()
    backend = MemoryResultBackend(url, namespace)
    await backend.open()
    await backend.put([put])
    assert await knows(url, namespace, put.id)
    assert not await knows(url, namespace + "x", put.id)
    assert not await knows("memory://another", namespace, put.id)
    assert MemoryTransport(url, namespace).shares(backend)
    assert not MemoryTransport("memory://another", namespace).shares(backend)
    await backend.close()
    assert await knows(url, namespace, put.id)  # `backend` still exists


async def test_jobs_are_gone_with_the_last_object() -> None:
    namespace = uuid.uuid4().hex
    store = find_store("name", namespace, SystemClock())
    mark = id(store.records)
    backend = MemoryResultBackend("memory://name", namespace)
    del store
    gc.collect()
    assert id(find_store("name", namespace, SystemClock()).records) == mark
    del backend
    put = a_job()
    gc.collect()
    assert not await knows("memory://name", namespace, put.id)


async def test_the_first_object_brings_the_clock() -> None:
    namespace, clock = uuid.uuid4().hex, ManualClock(1000.0)
    first = MemoryResultBackend("memory://name", namespace, clock=clock)
    second = MemoryResultBackend("memory://name", namespace)
    await first.open()
    await second.open()
    clock.advance(5.0)
    assert await second.now() == 1005.0
    await first.close()
    await second.close()


def test_another_loop_is_refused_while_one_has_it_open() -> None:
    namespace = uuid.uuid4().hex
    one = MemoryResultBackend("memory://name", namespace)
    two = MemoryTransport("memory://name", namespace)
    loops = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        loops[0].run_until_complete(one.open())
        with pytest.raises(ConfigurationError, match="another event loop"):
            loops[1].run_until_complete(two.open())
        loops[0].run_until_complete(one.close())
        loops[1].run_until_complete(two.open())
        loops[1].run_until_complete(two.close())
    finally:
        for loop in loops:
            loop.close()


def test_a_loop_that_was_closed_holds_nothing() -> None:
    namespace = uuid.uuid4().hex
    forgotten = MemoryResultBackend("memory://name", namespace)
    asyncio.run(forgotten.open())
    another = MemoryResultBackend("memory://name", namespace)

    async def use() -> None:
        await another.open()
        await another.put([a_job()])
        await another.close()

    asyncio.run(use())


@pytest.mark.parametrize(
    "url",
    ["memory://a/b", "memory://a?form=round", "memory://a?size=3", "memory://a:1", "redis://a"],
)
def test_a_bad_url_is_refused(url: str) -> None:
    for driver in (MemoryTransport, MemoryResultBackend):
        with pytest.raises(ConfigurationError):
            driver(url, "bananas")


def test_a_clock_does_not_go_back() -> None:
    clock = ManualClock(10.0)
    clock.advance(2.5)
    assert (clock.now(), clock.monotonic()) == (12.5, 2.5)
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1.0)


def test_an_ordered_set_forgets_what_was_removed() -> None:
    ordered: Ordered[int] = Ordered()
    for n in range(1000):
        ordered.add(n, -n)
    for n in range(1000):
        ordered.add(n, n)
    for n in range(0, 1000, 2):
        ordered.discard(n)
    assert len(ordered) == 500
    assert ordered.take(9, 100) == [1, 3, 5, 7, 9]
    assert ordered.pop() == 11
    assert ordered.first() == (13, 13)
    assert len(ordered._heap) < 1200
