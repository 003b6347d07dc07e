"""Pruning beside workflows that live on, and what one call asks for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from bananas_brokers.sqlite import prune
from bananas_brokers.sqlite.results import SQLiteResultBackend
from bananas_core.job import (
    JobPut,
    JobState,
    ReadyKind,
    Retention,
    Settled,
    Signal,
    SignalKind,
)
from bananas_core.testing.clock import ManualClock

Puts = Callable[[list[str]], Any]
AT_ONCE = Retention(completed=0.0, failed=0.0, cancelled=0.0, quarantined=0.0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def backend(url: str, clock: ManualClock) -> AsyncIterator[SQLiteResultBackend]:
    opened = SQLiteResultBackend(url, "test", clock=clock)
    await opened.open()
    yield opened
    await opened.close()


async def end(backend: SQLiteResultBackend, ids: list[str], *, settle: bool = True) -> None:
    """End waiting records, and settle their follow-ups."""
    completed = JobState.COMPLETED
    wishes = [Signal(id=i, kind=SignalKind.END, state=completed) for i in ids]
    answers, ready = await backend.signal(wishes)
    assert all(answer.done for answer in answers)
    if settle:
        await backend.put([], settled=[Settled(id=r.id, gen=r.gen, followed=True) for r in ready])


async def left(backend: SQLiteResultBackend, ids: list[str]) -> list[str]:
    return [job.id for job in await backend.get(ids) if job is not None]


async def test_a_large_live_workflow_does_not_hide_what_may_go(
    backend: SQLiteResultBackend, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "_PAGE", 4)
    monkeypatch.setattr(prune, "_MOST_SEEN", 10)
    nodes = [f"node-{n}" for n in range(25)]
    plain = [f"plain-{n}" for n in range(3)]
    await backend.put([JobPut(id="w", name="dag", message=b"{}", workflow="w", scope=True)])
    await backend.put(
        [JobPut(id=i, name="n", message=b"{}", workflow="w", waiting=True) for i in nodes]
    )
    await backend.put([JobPut(id=i, name="n", message=b"{}", waiting=True) for i in plain])
    await end(backend, nodes)
    clock.advance(1.0)
    await end(backend, plain, settle=False)
    clock.advance(1000.0)
    gone = [await backend.prune(AT_ONCE, 100) for _ in range(3)]
    assert gone == [0, 0, 3]  # ten are looked at in each
    assert await left(backend, [*nodes, *plain, "w"]) == [*nodes, "w"]
    assert await backend.prune(replace(AT_ONCE, most=0), 100) == 0
    await end(backend, ["w"], settle=False)
    clock.advance(1000.0)
    assert sum([await backend.prune(AT_ONCE, 100) for _ in range(5)]) == 0
    await backend.put([], settled=[Settled(id="w", gen=1, followed=True)])
    assert [await backend.prune(AT_ONCE, 100) for _ in range(4)] == [10, 10, 6, 0]


async def test_the_most_rule_takes_the_oldest_that_may_go(
    backend: SQLiteResultBackend, clock: ManualClock
) -> None:
    ids = [f"job-{n}" for n in range(6)]
    keys = {"job-0": "k", "job-3": "k"}
    await backend.put(
        [JobPut(id=i, name="n", message=b"{}", waiting=True, unique=keys.get(i)) for i in ids]
    )
    for job_id in ids:
        await end(backend, [job_id], settle=job_id != "job-0")
        clock.advance(1.0)
    clock.advance(1000.0)
    assert await backend.prune(Retention(most=4), 100) == 2
    assert await left(backend, ids) == ["job-0", "job-3", "job-4", "job-5"]
    assert await backend.prune(Retention(most=4), 100) == 0


async def test_a_call_asks_for_a_record_once(backend: SQLiteResultBackend) -> None:
    node = JobPut(id="n", name="task", message=b"{}", workflow="w", waiting=True)
    await backend.put([node])
    kinds = [SignalKind.RELEASE, SignalKind.CANCEL, SignalKind.RESET, SignalKind.RELEASE]
    _, ready = await backend.signal([Signal(id="n", kind=kind) for kind in kinds])
    assert [(r.kind, r.gen) for r in ready] == [(ReadyKind.SEND, 3)]
    _, ready = await backend.signal(
        [
            Signal(id="n", kind=SignalKind.CHANGE, delay=60.0),
            Signal(id="n", kind=SignalKind.CANCEL),
        ]
    )
    assert [(r.kind, r.gen) for r in ready] == [(ReadyKind.FOLLOW, 5)]
    _, ready = await backend.signal([Signal(id="n", kind=kind) for kind in kinds[1:3]])
    assert ready == []


async def test_a_new_message_is_what_is_sent_and_read(backend: SQLiteResultBackend) -> None:
    put = JobPut(id="a", name="task", message=b'{"payload":1}')
    await backend.put([put, replace(put, id="b")])
    new = b'{"payload":2}'
    _, ready = await backend.signal([Signal(id="a", kind=SignalKind.CHANGE, message=new)])
    assert b'"payload":2' in ready[0].message
    assert [job and job.message for job in await backend.get(["a", "b"])] == [new, put.message]
    _, ready = await backend.signal([Signal(id="a", kind=SignalKind.CHANGE, priority=90)])
    assert b'"payload":2' in ready[0].message
