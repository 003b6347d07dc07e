"""Topic: the feed of what happened."""

from __future__ import annotations

from collections import defaultdict

import pytest

from bananas_core.errors import CursorExpired
from bananas_core.job import Event, JobState, OutcomeKind, Retention, Signal, SignalKind
from bananas_core.results import ResultBackend
from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.marks import promise, takes
from bananas_core.testing.conformance.support import (
    Suite,
    a_job,
    a_scope,
    claim_one,
    finish_one,
    put_one,
    signal_one,
    started,
)


async def read(backend: ResultBackend, after: str, limit: int = 100) -> tuple[list[Event], str]:
    """Everything after a cursor, and the cursor behind it."""
    found: list[Event] = []
    for _ in range(1000):
        page = await backend.events(after, limit=limit)
        assert len(page.events) <= limit
        if not page.events:
            return found, page.cursor
        assert page.cursor != after
        found, after = [*found, *page.events], page.cursor
    raise AssertionError("a feed that never ends")


def once(found: tuple[list[Event], str]) -> list[Event]:
    """Without repetitions, which the feed may have."""
    events: list[Event] = []
    for event in found[0]:
        if event not in events:
            events.append(event)
    return events


class Feeding(Suite):
    @promise("L41", "L22")
    async def test_every_change_of_state_is_told_in_order(self, harness: Harness) -> None:
        one, two = await harness.backend(), await harness.backend()
        session = harness.session()
        put, cancelled = a_job(), a_job(delay=60.0)
        await one.put([put, cancelled])
        claim = await claim_one(one, session, put)
        await finish_one(one, claim, OutcomeKind.RETRY)
        claim = await claim_one(one, session, put, gen=2)
        await finish_one(one, claim, result=b"1")
        await two.signal([Signal(id=cancelled.id, kind=SignalKind.CANCEL)])
        wanted = {
            put.id: ["pending", "processing", "pending", "processing", "completed"],
            cancelled.id: ["scheduled", "cancelled"],
        }

        async def told() -> bool:
            stories: defaultdict[str, list[str]] = defaultdict(list)
            for event in once(await read(two, "")):
                if event.old is None:
                    assert stories[event.id] == []
                stories[event.id].append(event.new.value)
            return stories == wanted

        await harness.eventually(told)
        last = [event for event in once(await read(two, "")) if event.id == put.id][-1]
        assert (last.old, last.new) == (JobState.PROCESSING, JobState.COMPLETED)
        assert (last.fence, last.attempt, last.name) == (claim.fence, 2, put.name)

    @promise("L41", "L46", "L47", "L48")
    async def test_events_of_nodes_name_their_workflow(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        root, plain = a_scope(waiting=True), a_job()
        node = a_job(workflow=root.id, waiting=True)
        await backend.put([root, node, plain])
        for kind, job_id in ((SignalKind.RELEASE, root.id), (SignalKind.RELEASE, node.id)):
            await signal_one(backend, job_id, kind)
        await finish_one(backend, await claim_one(backend, session, node))
        await signal_one(backend, node.id, SignalKind.RESET)
        await signal_one(backend, root.id, SignalKind.END, state=JobState.COMPLETED)
        wanted = {
            root.id: ["waiting", "completed"],
            node.id: ["waiting", "pending", "processing", "completed", "waiting"],
            plain.id: ["pending"],
        }

        async def told() -> bool:
            stories: defaultdict[str, list[str]] = defaultdict(list)
            for event in once(await read(backend, "")):
                stories[event.id].append(event.new.value)
                assert event.workflow == (None if event.id == plain.id else root.id)
            return stories == wanted

        await harness.eventually(told)

    @promise("L41")
    async def test_a_cursor_skips_and_repeats_nothing(self, harness: Harness) -> None:
        backend = await harness.backend()
        puts = [a_job() for _ in range(20)]
        await backend.put(puts[:7])
        await backend.put(puts[7:])

        async def complete() -> bool:
            return len(once(await read(backend, ""))) >= 20

        await harness.eventually(complete)
        for limit in (1, 3, 7, 100):
            events = once(await read(backend, "", limit))
            assert sorted(event.id for event in events) == sorted(put.id for put in puts)

    @promise("L41")
    async def test_from_now_on_means_from_now_on(self, harness: Harness) -> None:
        backend = await harness.backend()
        await put_one(backend, a_job())
        page = await backend.events("$")
        assert page.events == ()
        assert (await backend.events(page.cursor)).events == ()
        put = await put_one(backend, a_job())

        async def told() -> bool:
            return [event.id for event in once(await read(backend, page.cursor))] == [put.id]

        await harness.eventually(told)

    @promise("L41", "L42")
    @takes(30)
    async def test_a_cursor_older_than_what_is_kept_says_so(self, harness: Harness) -> None:
        backend = await harness.backend()
        start = (await backend.events("$")).cursor
        await started(backend, harness.session())
        first = await backend.events(start, limit=1)
        await harness.advance(20.0)
        assert await backend.prune(Retention(events=10.0), 100) == 0
        with pytest.raises(CursorExpired):
            await backend.events(first.cursor)
        young = await put_one(backend, a_job())
        assert [event.id for event in once(await read(backend, ""))] == [young.id]
