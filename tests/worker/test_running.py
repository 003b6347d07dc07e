"""What happens to a body: time-outs, cancels, retries, snoozes, bad results."""

from __future__ import annotations

import asyncio
import time

import pytest

from bananas import (
    Bananas,
    JobCancelled,
    JobExpired,
    JobFailed,
    Retry,
    Snooze,
    current_job,
)
from tests.worker.conftest import eventually, working


async def test_an_async_body_is_cancelled_at_its_timeout(app: Bananas) -> None:
    cancelled = asyncio.Event()

    @app.task(timeout=0.1, max_attempts=1)
    async def slow() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with app, working(app):
        job = await slow.submit()
        with pytest.raises(JobFailed, match=r"0\.1 s") as failed:
            await job.result(timeout=5)
        assert failed.value.error_type == "TimeoutError"
        assert cancelled.is_set()


async def test_a_thread_is_interrupted_at_its_timeout_and_its_slot_is_free_again(
    app: Bananas,
) -> None:
    @app.task(timeout=0.1, max_attempts=1)
    def spin() -> None:
        while True:
            time.sleep(0.005)

    @app.task
    def quick() -> str:
        return "done"

    async with app, working(app, concurrency=1):
        job = await spin.submit()
        with pytest.raises(JobFailed) as failed:
            await job.result(timeout=5)
        assert failed.value.error_type == "TimeoutError"
        assert await (await quick.submit()).result(timeout=5) == "done"


async def test_a_timeout_counts_as_a_failure_that_may_be_retried(app: Bananas) -> None:
    @app.task(timeout=0.1, max_attempts=2)
    async def slow_once() -> int:
        if current_job().attempt == 1:
            await asyncio.sleep(30)
        return current_job().attempt

    async with app, working(app):
        job = await slow_once.job().options(max_attempts=2).submit()
        assert await job.result(timeout=10) == 2


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_a_running_job_is_cancelled_with_its_reason(app: Bananas, kind: str) -> None:
    @app.task(name="async")
    async def sleeping() -> None:
        await asyncio.sleep(30)

    @app.task(name="thread")
    def spinning() -> None:
        while not current_job().cancelled:
            time.sleep(0.005)

    async with app, working(app):
        job = await app.submit_job(kind)

        async def runs() -> bool:
            return (await job.status()) == "processing"

        await eventually(runs)
        assert await job.cancel(reason="not needed")
        with pytest.raises(JobCancelled, match="not needed"):
            await job.result(timeout=5)


async def test_a_cancelled_pending_job_never_runs(app: Bananas) -> None:
    ran = []

    @app.task
    async def note() -> None:
        ran.append(1)

    async with app:
        job = await note.submit()
        assert await job.cancel()
        async with working(app):
            with pytest.raises(JobCancelled):
                await job.result(timeout=5)
    assert not ran


async def test_a_failed_attempt_is_tried_again_and_the_last_error_is_told(app: Bananas) -> None:
    @app.task(max_attempts=3)
    async def failing() -> None:
        raise Retry(f"attempt {current_job().attempt}", delay=0.01)

    async with app, working(app):
        job = await failing.submit()
        with pytest.raises(JobFailed, match="attempt 3"):
            await job.result(timeout=10)
        record = await job.record()
        assert record.attempt == 3
        assert [entry.outcome for entry in record.timeline] == ["retry", "retry", "failed"]


async def test_a_snooze_spends_no_attempt(app: Bananas) -> None:
    runs = []

    @app.task(max_attempts=1)
    async def sleepy() -> int:
        runs.append(current_job().attempt)
        if len(runs) < 3:
            raise Snooze(delay=0.01)
        return len(runs)

    async with app, working(app):
        assert await (await sleepy.submit()).result(timeout=10) == 3
    assert runs == [1, 1, 1]


async def test_a_result_that_has_no_json_form_fails_the_job_at_once(app: Bananas) -> None:
    @app.task
    async def bad() -> object:
        return object()

    @app.task
    async def nan() -> float:
        return float("nan")

    async with app, working(app):
        for task in (bad, nan):
            job = await task.submit()
            with pytest.raises(JobFailed):
                await job.result(timeout=5)
            assert (await job.record()).attempt == 1


async def test_a_job_that_waited_too_long_expires_unrun(app: Bananas) -> None:
    ran = []

    @app.task
    async def note() -> None:
        ran.append(1)

    async with app:
        job = await note.job().options(queue_timeout=0.05).submit()
        await asyncio.sleep(0.1)
        async with working(app):
            with pytest.raises(JobExpired):
                await job.result(timeout=5)
    assert not ran


async def test_progress_and_log_lines_are_kept(app: Bananas) -> None:
    @app.task
    async def telling() -> None:
        current_job().log("first line")
        current_job().progress(0.4, "nearly half")
        current_job().log("second line")

    async with app, working(app):
        job = await telling.submit()
        await job.result(timeout=5)
        record = await job.record()
        assert record.progress is not None
        assert record.progress.text == "nearly half"
        docs = await app.backend.docs(f"job/{job.id}/log/")
        assert b"first line" in docs[0].value
        assert b"second line" in docs[0].value


async def test_progress_is_seen_while_the_job_runs(app: Bananas) -> None:
    go_on = asyncio.Event()

    @app.task
    async def waiting() -> None:
        current_job().progress(0.25, "waiting")
        await go_on.wait()

    async with app, working(app):
        job = await waiting.submit()

        async def told() -> bool:
            progress = (await job.record()).progress
            return progress is not None and progress.value == 0.25

        await eventually(told)
        go_on.set()
        await job.result(timeout=5)


async def test_a_large_payload_and_a_large_result_go_beside_the_record(app: Bananas) -> None:
    @app.task
    async def echo(text: str) -> str:
        return text + "!"

    text = "banana" * 100_000
    async with app, working(app):
        job = await echo.submit(text)
        assert await job.result(timeout=10) == text + "!"
        (stored,) = await app.backend.get([job.id])
        assert stored is not None
        assert len(stored.message) < 2_000
        assert len(stored.result or b"") < 2_000


async def test_a_task_that_nobody_knows_is_handed_back_unspent(app: Bananas) -> None:
    async with app, working(app):
        job = await app.submit_job("from_the_next_deploy")

        async def handed_back() -> bool:
            return (await job.status()) == "scheduled"

        await eventually(handed_back)
        (stored,) = await app.backend.get([job.id])
        assert stored is not None
        assert stored.held is not None
        assert stored.held.by == "unknown-task"
        assert stored.attempt == 1
