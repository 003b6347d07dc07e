"""Jobs of one kind: made from a template, put together, and no different from any others."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from bananas_core.alike import Alike, together
from bananas_core.app import Bananas
from bananas_core.clock import SystemClock, new_ids
from bananas_core.codec import Codecs
from bananas_core.errors import ResultBackendUnavailable
from bananas_core.job import JobPut
from bananas_core.message import decode_message, encode_instant
from bananas_core.options import JobOptions, to_put
from bananas_core.pair import Pair, load_pair
from bananas_core.plugins import PluginManager
from bananas_core.submit import Submitter
from bananas_core.template import Template
from bananas_core.testing.helpers import memory_app

NOW = 1_700_000_000.25


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"routing_key": "media", "priority": 90, "max_attempts": 7},
        {"timeout": 3.5, "queue_timeout": 60},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["work", 'a"payload":{},"created_at":"é', "\\"])
def test_a_template_makes_the_messages_that_submissions_have(
    name: str, options: JobOptions
) -> None:
    template = Template(name, options)
    ids, payloads = ["a", "b"], [b'{"payload":{},"n":1}', b"{}"]
    assert template.simple
    made = list(template.jobs(ids, payloads, NOW))
    assert [decode_message(job.message) for job in made] == [
        found.message for found in template.submissions(ids, payloads, NOW)
    ]
    assert made == [to_put(found) for found in template.submissions(ids, payloads, NOW)]
    (lone,) = template.jobs(ids[:1], payloads[:1], NOW)
    assert lone == made[0]


@pytest.mark.parametrize(
    "options",
    [
        {"job_id": "mine"},
        {"delay": 1},
        {"run_at": datetime(2030, 1, 1, tzinfo=UTC)},
        {"expires_at": datetime(2030, 1, 1, tzinfo=UTC)},
        {"unique": object()},
    ],
    ids=lambda options: next(iter(options)),
)
def test_rare_options_have_no_simple_template(options: Any) -> None:
    assert not Template("work", options).simple


@pytest.mark.parametrize("now", [0.0, NOW, 1_699_999_999.9999996, 1_700_000_000.000001])
def test_an_instant_is_written_as_a_message_has_it(now: float) -> None:
    assert msgspec.json.decode(encode_instant(now), type=datetime) == datetime.fromtimestamp(
        now, UTC
    )


@pytest.mark.parametrize("count", [0, 1, 2, 300])
def test_ids_are_random_uuids(count: int) -> None:
    ids = new_ids(count)
    assert len(set(ids)) == count
    for id in ids:
        assert len(id) == 32
        found = uuid.UUID(id)
        assert (found.version, found.variant, found.hex) == (4, uuid.RFC_4122, id)


def test_alike_jobs_are_a_sequence() -> None:
    like = JobPut(id="", name="work", message=b"", priority=70)
    jobs = Alike(like, ["a", "b", "c"], [b"1", b"2", b"3"])
    plain = [
        JobPut(id=id, name="work", message=raw, priority=70)
        for id, raw in zip("abc", (b"1", b"2", b"3"), strict=True)
    ]
    assert len(jobs) == 3
    assert list(jobs) == plain
    assert jobs[1:] == plain[1:]
    assert [list(part) for part in jobs.parts(2)] == [plain[:2], plain[2:]]
    again = together(jobs.parts(1))
    assert isinstance(again, Alike)
    assert list(again) == plain
    other = Alike(JobPut(id="", name="other", message=b""), ["d"], [b"4"])
    assert list(together([jobs, other])) == [*plain, other[0]]


class Slow:
    """A ledger that answers when it may, and notes how many jobs each put has."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.puts: list[int] = []
        self.go = asyncio.Event()
        self.fail = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def put(self, jobs: Any, *, settled: Any = ()) -> Any:
        self.puts.append(len(jobs))
        await self.go.wait()
        if self.fail:
            raise ResultBackendUnavailable("cut")
        return await self._backend.put(jobs, settled=settled)


@pytest.fixture
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    found = load_pair(f"memory://{request.node.name.lower()[:40]}", None, "test")
    found.backend = Slow(found.backend)  # type: ignore[assignment]
    assert found.fused
    await found.open()
    yield found
    await found.close()


@pytest.fixture
def slow(pair: Pair) -> Slow:
    assert isinstance(pair.backend, Slow)
    return pair.backend


@pytest.fixture
def submitter(pair: Pair) -> Submitter:
    return Submitter(pair, PluginManager(), Codecs(), clock=SystemClock())


WORK = Template("work", {})


async def test_a_lone_submit_waits_for_nobody_and_many_share(
    submitter: Submitter, slow: Slow
) -> None:
    slow.go.set()
    for _ in range(3):
        assert len(await submitter.submit_alike(WORK, [b"{}"])) == 1
    assert slow.puts == [1, 1, 1]
    ids = await asyncio.gather(*(submitter.submit_alike(WORK, [b"{}"]) for _ in range(1000)))
    assert len({id for (id,) in ids}) == 1000
    assert sum(slow.puts) == 1003
    assert len(slow.puts) <= 8
    assert all(job is not None for job in await slow.get([id for (id,) in ids]))


async def test_at_most_two_requests_are_under_way(submitter: Submitter, slow: Slow) -> None:
    waiting = [asyncio.ensure_future(submitter.submit_alike(WORK, [b"{}"])) for _ in range(50)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert slow.puts == [1, 1]
    slow.go.set()
    await asyncio.gather(*waiting)
    assert slow.puts == [1, 1, 48]


async def test_close_waits_for_a_lone_submit(submitter: Submitter, slow: Slow) -> None:
    waiting = asyncio.ensure_future(submitter.submit_alike(WORK, [b"{}"]))
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(submitter.close())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not closing.done()
    slow.go.set()
    await asyncio.wait_for(closing, 5)
    assert await waiting


async def test_a_cancelled_lone_submit_keeps_nobody_waiting(
    submitter: Submitter, slow: Slow
) -> None:
    waiting = [asyncio.ensure_future(submitter.submit_alike(WORK, [b"{}"])) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[1].cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    slow.go.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [True] * 2 + (
        [False] * 3
    )
    await asyncio.wait_for(submitter.close(), 5)


async def test_an_outage_reaches_everybody_and_ends_with_it(
    submitter: Submitter, slow: Slow
) -> None:
    slow.fail = True
    slow.go.set()
    answers = await asyncio.gather(
        *(submitter.submit_alike(WORK, [b"{}"]) for _ in range(9)), return_exceptions=True
    )
    assert {type(answer) for answer in answers} == {ResultBackendUnavailable}
    slow.fail = False
    assert len(await submitter.submit_alike(WORK, [b"{}"] * 1200)) == 1200


async def test_a_large_payload_among_small_ones_goes_apart() -> None:
    async with memory_app() as app:

        @app.task
        def work(text: str) -> None: ...

        jobs = await work.submit_many([{"text": "x"}, {"text": "y" * 200_000}, {"text": "z"}])
        records = [await job.record() for job in jobs]
        assert [len(record.payload["text"]) for record in records] == [1, 200_000, 1]


async def test_alike_jobs_are_sent_where_the_transport_is_another_place() -> None:
    app = Bananas("memory://two-places?form=split")

    @app.task(routing_key="media", priority=70)
    def work(n: int) -> None: ...

    async with app:
        assert app.pair is not None
        assert not app.pair.fused
        jobs = [await work.submit(0), *await work.submit_many([{"n": n} for n in range(1, 20)])]
        found = await app.transport.receive(["media"], 100, 1.0)
        assert {decode_message(d.body).id for d in found} == {job.id for job in jobs}
        assert all(decode_message(d.body).put for d in found)


async def test_blocking_and_async_submits_make_the_same_jobs(app_of_two_doors: Bananas) -> None:
    app = app_of_two_doors
    work = app.tasks["work"]
    async with app:
        first = await work.submit(1)
        second = await asyncio.to_thread(lambda: work.submit_blocking(1))
        third = (await asyncio.to_thread(lambda: work.submit_many_blocking([{"n": 1}])))[0]
        records = await app.backend.get([first.id, second.id, third.id])
    messages = [decode_message(record.message) for record in records if record is not None]
    plain = [
        msgspec.structs.replace(m, id="x", created_at=messages[0].created_at) for m in messages
    ]
    assert plain[0] == plain[1] == plain[2]
    assert (plain[0].priority, bytes(plain[0].payload)) == (70, b'{"n":1}')


@pytest.fixture
def app_of_two_doors() -> Bananas:
    app = Bananas("memory://two-doors")

    @app.task(priority=70)
    def work(n: int) -> None: ...

    return app
