"""What the store in memory promises to the ledger, and what the ledger makes of it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from bananas_brokers.memory.kvstore import MemoryKeyValueStore
from bananas_brokers.memory.split import SplitResultBackend
from bananas_core.errors import ConfigurationError, ResultBackendError
from bananas_core.job import Hint, JobPut, Outcome, OutcomeKind, Query
from bananas_core.keyvalue import Change
from bananas_core.testing.clock import ManualClock

MESSAGE = b'{"v":1,"id":"job","name":"n","payload":{},"created_at":"2026-01-01T00:00:00Z"}'


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def backend(clock: ManualClock) -> AsyncIterator[SplitResultBackend]:
    backend = SplitResultBackend(f"memory://{uuid.uuid4().hex}", "n", clock=clock)
    await backend.open()
    yield backend
    await backend.close()


@pytest.fixture
def store(backend: SplitResultBackend) -> MemoryKeyValueStore:
    return backend.kv


async def test_a_watch_sees_what_changed_before_it_began(store: MemoryKeyValueStore) -> None:
    (version,) = await store.write([Change(key="x/a", value=b"1")])
    assert version is not None
    await store.write([Change(key="x/a", value=b"2")])
    async with asyncio.timeout(5.0):
        await store.watch({"x/a": version}, 60.0)
        await store.watch({"x/a": 0, "x/b": 0}, 60.0)


async def test_a_watch_waits_while_nothing_changes(store: MemoryKeyValueStore) -> None:
    (version,) = await store.write([Change(key="x/a", value=b"1")])
    assert version is not None
    watching = asyncio.ensure_future(store.watch({"x/a": version, "x/b": 0}, 60.0))
    done, _ = await asyncio.wait({watching}, timeout=0.05)
    assert not done
    await store.write([Change(key="x/b", value=b"1", version=0)])
    async with asyncio.timeout(5.0):
        await watching


async def test_a_scan_goes_on_behind_expired_keys(
    store: MemoryKeyValueStore, clock: ManualClock
) -> None:
    await store.write([Change(key=f"x/{n:03}", value=b"", ttl=1.0) for n in range(200)])
    await store.write([Change(key="x/last", value=b""), Change(key="y", value=b"")])
    clock.advance(2.0)
    assert [entry.key for entry in await store.scan("x/", "", 5)] == ["x/last"]


async def test_a_scan_begins_at_its_prefix_and_behind_its_mark(store: MemoryKeyValueStore) -> None:
    await store.write([Change(key=key, value=b"") for key in ("w", "x", "x/", "x/a", "x/b", "y")])
    assert [entry.key for entry in await store.scan("x/", "", 5)] == ["x/", "x/a", "x/b"]
    assert [entry.key for entry in await store.scan("x/", "x/a", 5)] == ["x/b"]
    assert [entry.key for entry in await store.scan("x/", "", 2)] == ["x/", "x/a"]


async def test_a_write_applies_key_by_key(store: MemoryKeyValueStore) -> None:
    (first,) = await store.write([Change(key="x/a", value=b"1")])
    answers = await store.write(
        [
            Change(key="x/a", value=b"2", version=0),
            Change(key="x/b", value=b"2", version=0),
            Change(key="x/c", value=b"2", version=first),
        ]
    )
    assert [answer is not None for answer in answers] == [False, True, False]


async def test_a_listing_refuses_what_is_not_its_cursor(backend: SplitResultBackend) -> None:
    with pytest.raises(ResultBackendError):
        await backend.query(Query(cursor="nonsense"))


async def test_an_empty_ledger_counts_to_zero(backend: SplitResultBackend) -> None:
    (count,) = await backend.count([])
    assert (count.group, count.count) == ((), 0)


async def test_a_newer_schema_is_refused(backend: SplitResultBackend) -> None:
    await backend.kv.write([Change(key="m/schema", value=b"99")])
    await backend.close()
    with pytest.raises(ConfigurationError):
        await backend.open()


async def test_a_drained_job_costs_few_writes(backend: SplitResultBackend) -> None:
    """Put, claim and finish write the record once each; requests are shared by the batch."""
    written: list[str] = []
    requests = 0
    write = backend.kv.write

    async def counted(changes: list[Change]) -> list[int | None]:
        nonlocal requests
        requests += 1
        written.extend(change.key for change in changes)
        return await write(changes)

    backend.kv.write = counted  # type: ignore[method-assign,assignment]
    ids = [f"j{n}" for n in range(50)]
    await backend.put([JobPut(id=i, name="n", message=MESSAGE) for i in ids])
    verdicts = await backend.claim("s", [Hint(id=i, gen=1) for i in ids])
    await backend.finish(
        [
            Outcome(id=v.id, fence=v.claim.fence, kind=OutcomeKind.COMPLETED)
            for v in verdicts
            if v.claim is not None
        ]
    )
    assert sum(key.startswith("j/") for key in written) == 3 * len(ids)
    assert requests <= 15
