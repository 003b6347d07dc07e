"""The producer's side: put, send, settle, in batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from bananas_core.app import Bananas
from bananas_core.clock import SystemClock
from bananas_core.codec import Codecs
from bananas_core.errors import (
    InvalidPayload,
    PayloadTooLarge,
    ResultBackendUnavailable,
    TransportError,
    TransportUnavailable,
)
from bananas_core.job import JobState, Settled
from bananas_core.message import decode_message
from bananas_core.options import JobOptions, submission
from bananas_core.pair import Pair, load_pair
from bananas_core.plugins import PluginManager
from bananas_core.submit import Submitter
from bananas_core.testing.helpers import memory_app
from bananas_core.transport import Outgoing, TransportCapabilities


class Wire:
    """A transport that only notes what is sent, and can be cut."""

    capabilities = TransportCapabilities(max_message=100_000)

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.calls = 0
        self.down = 0
        """So many calls fail."""
        self.refuse: set[str] = set()
        self.busy: asyncio.Event | None = None

    async def send(self, messages: Sequence[Outgoing]) -> list[TransportError | None]:
        self.calls += 1
        if self.busy is not None:
            await self.busy.wait()
        if self.down:
            self.down -= 1
            raise TransportUnavailable("cut")
        self.sent.extend(messages)
        return [TransportError("no") if m.queue in self.refuse else None for m in messages]

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def shares(self, backend: object) -> bool:
        return False


class Spy:
    """Notes the calls of a ledger."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.puts: list[int] = []
        self.settled: list[Settled] = []
        self.fail = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def put(self, jobs: Any, *, settled: Any = ()) -> Any:
        self.puts.append(len(jobs))
        if self.fail:
            raise ResultBackendUnavailable("cut")
        self.settled.extend(settled)
        return await self._backend.put(jobs, settled=settled)


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
async def spy(wire: Wire, request: pytest.FixtureRequest) -> AsyncIterator[Spy]:
    backend = load_pair(f"memory://{request.node.name.lower()[:40]}", None, "test").backend
    await backend.open(guard=True)
    yield Spy(backend)
    await backend.close()


@pytest.fixture
async def submitter(wire: Wire, spy: Spy) -> AsyncIterator[Submitter]:
    pair = Pair(wire, spy)  # type: ignore[arg-type]
    submitter = Submitter(pair, PluginManager(), Codecs(), clock=SystemClock())
    yield submitter
    await submitter.close()


def job(id: str, payload: bytes = b"{}", **options: Any) -> Any:
    given: JobOptions = {"job_id": id, **options}  # type: ignore[typeddict-item]
    return submission("", "work", payload, given, now=1_700_000_000.0)


async def test_put_goes_before_send_and_the_message_says_so(
    submitter: Submitter, wire: Wire, spy: Spy
) -> None:
    wire.busy = asyncio.Event()
    waiting = asyncio.ensure_future(submitter.submit([job("a", routing_key="k", priority=70)]))
    async with asyncio.timeout(5):
        while not wire.calls:
            await asyncio.sleep(0)
    (stored,) = await spy.get(["a"])
    assert stored.state is JobState.PENDING
    assert not waiting.done()
    wire.busy.set()
    assert await waiting == ["a"]
    (sent,) = wire.sent
    message = decode_message(sent.body)
    assert (message.id, message.put, message.gen) == ("a", True, 1)
    assert (sent.queue, sent.priority) == ("k", 70)


async def test_concurrent_submits_share_requests(submitter: Submitter, spy: Spy) -> None:
    ids = [f"j{n}" for n in range(1234)]
    answers = await asyncio.gather(*(submitter.submit([job(id)]) for id in ids))
    assert [answer[0] for answer in answers] == ids
    assert [n for n in spy.puts if n] == [500, 500, 234]


async def test_a_batch_is_split_and_answers_in_order(submitter: Submitter, spy: Spy) -> None:
    ids = [f"j{n}" for n in range(1001)]
    assert await submitter.submit([job(id) for id in ids]) == ids
    assert [n for n in spy.puts if n] == [500, 500, 1]
    assert await submitter.submit([]) == []


async def test_an_idle_submitter_waits_for_nobody(submitter: Submitter, spy: Spy) -> None:
    for n in range(3):
        await submitter.submit([job(str(n))])
    assert [n for n in spy.puts if n] == [1, 1, 1]


async def test_confirmed_sends_are_settled_by_the_next_put(submitter: Submitter, spy: Spy) -> None:
    await submitter.submit([job("a")])
    (stored,) = await spy.get(["a"])
    assert stored.guard_at is not None
    await submitter.submit([job("b")])
    (stored,) = await spy.get(["a"])
    assert stored.guard_at is None


async def test_confirmed_sends_are_settled_within_a_second_or_so(
    submitter: Submitter, spy: Spy
) -> None:
    await submitter.submit([job("a")])
    async with asyncio.timeout(3):
        while (await spy.get(["a"]))[0].guard_at is not None:
            await asyncio.sleep(0.02)
    assert spy.settled == [Settled(id="a", gen=1)]


async def test_close_settles_what_was_sent(submitter: Submitter, spy: Spy) -> None:
    await submitter.submit([job("a")])
    await submitter.close()
    assert spy.settled == [Settled(id="a", gen=1)]


async def test_an_existing_id_returns_that_job_unchanged(submitter: Submitter, spy: Spy) -> None:
    await submitter.submit([job("a", b'{"n":1}')])
    assert await submitter.submit([job("a", b'{"n":2}', routing_key="other")]) == ["a"]
    (stored,) = await spy.get(["a"])
    assert stored.routing_key == "default"
    assert b'"n":1' in stored.message


async def test_scheduled_jobs_are_recorded_and_not_sent(
    submitter: Submitter, wire: Wire, spy: Spy
) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    await submitter.submit([job("a", delay=30), job("b", run_at=tomorrow)])
    assert [j.state for j in await spy.get(["a", "b"])] == [JobState.SCHEDULED] * 2
    assert wire.sent == []


async def test_a_short_cut_of_the_transport_is_bridged(submitter: Submitter, wire: Wire) -> None:
    wire.down = 2
    assert await submitter.submit([job("a")]) == ["a"]
    assert len(wire.sent) == 1


async def test_a_long_cut_is_told_and_the_job_keeps_its_guard(
    submitter: Submitter, wire: Wire, spy: Spy
) -> None:
    wire.down = 99
    with pytest.raises(TransportUnavailable, match="recorded"):
        await submitter.submit([job("a")])
    (stored,) = await spy.get(["a"])
    assert stored.guard_at is not None
    wire.down = 0
    assert await submitter.submit([job("a")]) == ["a"]


async def test_a_ledger_outage_is_told_and_nothing_is_sent(
    submitter: Submitter, wire: Wire, spy: Spy
) -> None:
    await submitter.submit([job("a")])
    spy.fail = True
    with pytest.raises(ResultBackendUnavailable):
        await submitter.submit([job("b")])
    assert len(wire.sent) == 1
    spy.fail = False
    await submitter.submit([job("b")])
    assert Settled(id="a", gen=1) in spy.settled


async def test_one_refused_message_spoils_no_other(submitter: Submitter, wire: Wire) -> None:
    wire.refuse = {"bad"}
    answers = await asyncio.gather(
        submitter.submit([job("a", routing_key="bad")]),
        submitter.submit([job("b")]),
        return_exceptions=True,
    )
    assert isinstance(answers[0], TransportError)
    assert answers[1] == ["b"]


async def test_a_message_over_the_transports_limit_is_refused_before_anything(
    submitter: Submitter, wire: Wire, spy: Spy
) -> None:
    too_long = msgspec.json.encode({"x": "y" * 99_000})
    large = job("a", too_long, routing_key="k")
    # The payload alone goes to the ledger in chunks, so the message gets small enough.
    await submitter.submit([large])
    assert decode_message(wire.sent[0].body).encoding == ("claim-check",)
    wire.capabilities = TransportCapabilities(max_message=50)
    with pytest.raises(PayloadTooLarge):
        await submitter.submit([job("b")])
    assert await spy.get(["b"]) == [None]


async def test_a_cancelled_caller_disturbs_no_other(submitter: Submitter, wire: Wire) -> None:
    first = asyncio.ensure_future(submitter.submit([job("a")]))
    second = asyncio.ensure_future(submitter.submit([job("b")]))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == ["b"]
    assert first.cancelled() or first.done()
    assert len(wire.sent) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"priority": 101},
        {"priority": -1},
        {"priority": True},
        {"priority": 1.5},
        {"max_attempts": 0},
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": "1"},
        {"delay": -1},
        {"delay": 1, "run_at": datetime(2030, 1, 1, tzinfo=UTC)},
        {"run_at": datetime(2030, 1, 1)},
        {"run_at": 5},
        {"routing_key": "a b"},
        {"routing_key": 5},
        {"job_id": ""},
        {"job_id": "a/b"},
        {"color": "red"},
    ],
    ids=str,
)
async def test_impossible_options_are_refused_and_nothing_is_sent(
    options: dict[str, Any],
) -> None:
    async with memory_app() as app:
        with pytest.raises(InvalidPayload):
            await app.submit_job("work", {}, **options)
        for name in ("", "a b"):
            with pytest.raises(InvalidPayload):
                await app.submit_job(name, {})
        assert await app.backend.count(["state"]) == []


async def test_options_reach_the_record() -> None:
    async with memory_app() as app:

        @app.task(priority=60, max_attempts=5, timeout=30, routing_key="media")
        def work(n: int = 0) -> None: ...

        until = datetime(2030, 1, 1, tzinfo=UTC)
        spec = work.job(1).options(priority=95, delay=timedelta(seconds=30), expires_at=until)
        again = spec.options(queue_timeout=9, job_id="mine", timeout=None)
        job = await again.submit()
        (stored,) = await app.backend.get(["mine"])
        assert stored is not None
        assert job.id == stored.id
        assert (stored.priority, stored.max_attempts, stored.routing_key) == (95, 5, "media")
        assert stored.expires_at == until.timestamp()
        assert stored.queue_timeout == 9
        message = decode_message(stored.message)
        assert message.timeout is None
        assert spec.options_given.get("timeout") == 30
        assert stored.run_at == pytest.approx(stored.created_at + 30)


async def test_bulk_with_one_bad_item_sends_nothing() -> None:
    async with memory_app() as app:

        @app.task
        def work(n: int) -> None: ...

        with pytest.raises(InvalidPayload, match="'n'"):
            await work.submit_many([{"n": 1}, {"n": "x"}])
        with pytest.raises(InvalidPayload, match="job_id"):
            await work.submit_many([{"n": 1}, {"n": 2}], job_id="a")
        assert await app.backend.count(["state"]) == []
        jobs = await work.submit_many([{"n": n} for n in range(600)], priority=90)
        assert len({job.id for job in jobs}) == 600
        records = await app.backend.get([job.id for job in jobs])
        assert [bytes(decode_message(r.message).payload) for r in records if r][599] == b'{"n":599}'
        assert {r.priority for r in records if r} == {90}


def test_an_app_must_be_open_to_submit() -> None:
    app = Bananas("memory://unopened")

    async def submit() -> None:
        await app.submit_job("work", {})

    with pytest.raises(Exception, match="not open"):
        asyncio.run(submit())
