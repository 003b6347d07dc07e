"""The app and its handles, on the memory driver."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bananas_core.app import Bananas
from bananas_core.context import current_job
from bananas_core.errors import (
    BananasError,
    ConfigurationError,
    InvalidPayload,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobNotFound,
    ResultTimeout,
    UnknownTask,
)
from bananas_core.handle import Job
from bananas_core.job import JobState, Outcome, OutcomeKind, Session
from bananas_core.options import Priority
from bananas_core.testing.helpers import ManualClock, drain, memory_app


@pytest.fixture
async def app() -> AsyncIterator[Bananas]:
    async with memory_app() as app:
        yield app


async def test_a_plain_call_runs_the_function_here() -> None:
    app = Bananas("memory://unopened")

    @app.task
    async def double(n: int) -> int:
        """Twice."""
        return 2 * n

    @app.task(name="other.name", priority=Priority.HIGH)
    def triple(n: int) -> int:
        return 3 * n

    assert await double(2) == 4
    assert triple(2) == 6
    assert double.__doc__ == "Twice."
    assert (double.name, triple.name) == ("double", "other.name")
    assert (double.is_async, triple.is_async) == (True, False)
    assert app.get_task("other.name") is triple
    with pytest.raises(UnknownTask):
        app.get_task("triple")


async def test_callable_objects_can_be_tasks() -> None:
    class Greet:
        async def __call__(self, name: str) -> str:
            return f"hello {name}"

    app = memory_app()
    greet = app.task(name="greet")(Greet())
    with pytest.raises(ConfigurationError):
        app.task(Greet())
    with pytest.raises(ConfigurationError):
        app.task(name="again")(greet)
    async with app:
        twice = app.task(name="twice")(partial(lambda n, by: n * by, by=2))
        doubled = await twice.submit(4)
        job = await greet.submit("you")
        await drain(app)
        assert await job.result(timeout=5) == "hello you"
        assert await doubled.result(timeout=5) == 8


def test_a_task_name_is_given_once() -> None:
    app = Bananas("memory://unopened")

    @app.task
    def work() -> None: ...

    with pytest.raises(ConfigurationError, match="work"):
        app.task(name="work")(lambda: None)


async def test_a_job_runs_and_its_handle_tells(app: Bananas) -> None:
    @dataclass
    class Point:
        x: int

    @app.task
    async def move(point: Point, by: int = 1) -> Point:
        current_job().progress(0.5, "half")
        return Point(point.x + by)

    job = await move.submit(Point(1), by=2)
    assert await job.status() is JobState.PENDING
    await drain(app)
    assert await job.result(timeout=5) == Point(3)
    assert await job.status() is JobState.COMPLETED
    found = await app.get_job(job.id)
    assert found == job
    assert await found.result() == Point(3)
    record = await job.record()
    assert record.result == {"x": 3}
    assert record.payload == {"point": {"x": 1}, "by": 2}
    assert record.progress is not None
    assert record.progress.text == "half"
    assert record.attempt == 1
    assert record.finished_at is not None
    assert record.created_at is not None
    assert record.finished_at >= record.created_at
    assert [entry.outcome for entry in record.timeline] == ["completed"]


async def test_a_waiting_result_is_woken(app: Bananas) -> None:
    @app.task
    def work() -> str:
        return "done"

    job = await work.submit()
    waiting = asyncio.ensure_future(job.result(timeout=10))
    await asyncio.sleep(0)
    await drain(app)
    assert await waiting == "done"


async def test_how_a_job_ended_is_raised(app: Bananas) -> None:
    @app.task(max_attempts=1)
    async def fail() -> None:
        raise ValueError("broken")

    @app.task(result=False)
    async def quiet() -> int:
        return 1

    failed = await fail.submit()
    silent = await quiet.submit()
    cancelled = await quiet.submit()
    late = await quiet.job().options(expires_at=datetime(2020, 1, 1, tzinfo=UTC)).submit()
    assert await cancelled.cancel(reason="why not") is True
    assert await cancelled.cancel() is True
    await drain(app)
    with pytest.raises(JobFailed) as error:
        await failed.result()
    assert (error.value.error_type, error.value.message) == ("ValueError", "broken")
    assert "ValueError: broken" in (error.value.traceback or "")
    with pytest.raises(JobCancelled) as stopped:
        await cancelled.result()
    assert stopped.value.reason == "why not"
    with pytest.raises(JobExpired):
        await late.result()
    assert await silent.result() is None
    assert await silent.cancel() is False


async def test_a_result_that_does_not_come_in_time_is_a_timeout(app: Bananas) -> None:
    job = await app.submit_job("nobody_runs_it", {"a": 1})
    for timeout in (0, 0.01):
        with pytest.raises(TimeoutError) as error:
            await job.result(timeout=timeout)
        assert isinstance(error.value, ResultTimeout)
    assert await job.status() is JobState.PENDING


async def test_a_payload_is_named_arguments(app: Bananas) -> None:
    @app.task
    def work(n: int) -> None: ...

    for name in ("work", "elsewhere"):
        for payload in ([1], {1: 2}, "n", {"n": float("nan")}):
            with pytest.raises(InvalidPayload):
                await app.submit_job(name, payload)  # type: ignore[arg-type]
        with pytest.raises(InvalidPayload, match="job_id"):
            app.specs(name, [{"n": 1}, {"n": 2}], {"job_id": "a"})
    assert await app.backend.count(["state"]) == []


async def test_unknown_ids_are_not_found(app: Bananas) -> None:
    ghost: Job[Any] = Job("ghost", app)
    calls = (ghost.result(1), ghost.status(), ghost.cancel(), ghost.record(), app.get_job("ghost"))
    for call in calls:
        with pytest.raises(JobNotFound, match="ghost"):
            await call


async def test_a_job_driven_by_hand(app: Bananas) -> None:
    """The handle shows what a worker in another process does, step by step."""
    assert app.pair is not None
    job = await app.submit_job("elsewhere", {"n": 1}, priority=Priority.HIGH, max_attempts=2)
    session = Session(id="s1", name="worker")
    await app.backend.renew(session, [])
    (received,) = await app.transport.receive_claimed("s1", ["default"], 1, 1.0)
    assert received.verdict is not None
    claim = received.verdict.claim
    assert claim is not None
    assert await job.status() is JobState.PROCESSING
    assert await job.cancel("stop it") is True
    done = Outcome(
        id=job.id, fence=claim.fence, kind=OutcomeKind.COMPLETED, result=b'{"value":[1,2]}'
    )
    await app.backend.finish([done])
    assert await job.result(timeout=1) == [1, 2]  # it succeeded all the same
    record = await job.record()
    assert (record.priority, record.max_attempts, record.worker) == (90, 2, "s1")


async def test_delays_count_on_the_ledgers_clock() -> None:
    clock = ManualClock()
    async with memory_app(clock=clock) as app:

        @app.task
        def work() -> str:
            return "ran"

        job = await work.job().options(delay=60).submit()
        await drain(app)
        assert await job.status() is JobState.SCHEDULED
        clock.advance(61)
        await drain(app)
        assert await job.result(timeout=1) == "ran"


async def test_opening_and_closing_may_be_repeated(app: Bananas) -> None:
    job = await app.submit_job("work", {})
    await app.open()
    await asyncio.gather(app.open(), app.open())
    assert await job.status() is JobState.PENDING
    await app.close()
    await app.close()
    assert app.pair is None
    with pytest.raises(ConfigurationError, match="not open"):
        await job.status()
    await app.open()
    assert app.pair is not None


async def test_a_second_event_loop_is_refused(app: Bananas) -> None:
    seen: list[BaseException] = []

    def elsewhere() -> None:
        try:
            asyncio.run(app.open())
        except BananasError as error:
            seen.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert "another event loop" in str(seen[0])


def test_an_app_can_be_opened_in_one_loop_after_another() -> None:
    app = memory_app()

    async def once(close: bool) -> None:
        await app.open()
        await app.submit_job("work", {})
        if close:
            await app.close()

    for close in (True, False, True):
        asyncio.run(once(close))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"broker_url": "nothing"}, "not a broker URL"),
        ({"broker_url": "gopher://x"}, "gopher"),
        ({"broker_url": "memory://x?colour=red"}, "colour"),
        ({"broker_url": "memory://x", "concurency": 3}, "concurency"),
        ({"broker_url": "memory://x", "concurrency": 0}, "concurrency"),
        ({"broker_url": "memory://x", "plugins": ["nothing"]}, "nothing"),
        ({"broker_url": "amqp://user:secret@h/"}, "second URL"),
    ],
)
async def test_wrong_settings_are_told_at_open(arguments: dict[str, Any], text: str) -> None:
    app = Bananas(**arguments)
    with pytest.raises(ConfigurationError, match=text) as error:
        await app.open()
    assert "secret" not in str(error.value)


def test_without_settings_the_database_is_in_the_current_folder(tmp_path: Path) -> None:
    code = (
        "import asyncio\nfrom bananas import Bananas\n"
        "app = Bananas()\n"
        "async def main():\n"
        "    async with app:\n"
        "        await app.submit_job('work', {})\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=30)
    assert (tmp_path / ".bananas" / "bananas.db").is_file()
    assert (tmp_path / ".bananas" / ".gitignore").read_text() == "*\n"


def test_current_job_needs_a_job() -> None:
    with pytest.raises(BananasError, match="outside"):
        current_job()


async def test_a_def_task_may_submit_from_its_thread(app: Bananas) -> None:
    @app.task
    def child(n: int) -> int:
        return n + 1

    @app.task
    def parent() -> str:
        current_job().log("from a thread")
        return child.submit_blocking(1).id

    job = await parent.submit()
    await drain(app)
    assert await (await app.get_job(await job.result(1))).result(1) == 2
