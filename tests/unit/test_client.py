"""Clients, blocking twins and the background loop behind them."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from bananas_core.app import Bananas
from bananas_core.client import AsyncClient, Client
from bananas_core.errors import BananasError, JobNotFound, ResultTimeout
from bananas_core.job import JobState
from bananas_core.portal import Portal
from bananas_core.testing.helpers import drain, memory_app


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'jobs.db'}"


async def run_jobs(url: str) -> None:
    app = Bananas(url)

    @app.task
    async def double(n: int) -> int:
        return 2 * n

    async with app:
        await drain(app)


def test_a_client_submits_by_name_and_waits(url: str) -> None:
    with Client(url) as client:
        job_id = client.submit_job("double", payload={"n": 4}, priority=90, routing_key="default")
        more = client.submit_many("double", [{"n": n} for n in range(3)])
        stopped = client.submit_job("double", {"n": 9}, job_id="chosen")
        assert stopped == "chosen"
        assert client.submit_job("double", {"n": 9}, job_id="chosen") == "chosen"
        assert client.cancel(stopped, reason="no") is True
        with pytest.raises(ResultTimeout):
            client.wait_for_result(job_id, timeout=0.01)
        worker = threading.Thread(target=lambda: asyncio.run(run_jobs(url)))
        worker.start()
        assert client.wait_for_result(job_id, timeout=30) == 8
        assert [client.wait_for_result(id, timeout=30) for id in more] == [0, 2, 4]
        worker.join()
        record = client.get_job(job_id)
        assert (record.state, record.result, record.priority) == (JobState.COMPLETED, 8, 90)
        assert client.get_job("chosen").state is JobState.CANCELLED
        with pytest.raises(JobNotFound):
            client.get_job("ghost")


def test_a_client_connects_by_itself_and_again_after_close(url: str) -> None:
    client = Client(url)
    client.close()
    job_id = client.submit_job("double", {"n": 1})
    client.close()
    client.close()
    assert client.get_job(job_id).payload == {"n": 1}
    client.close()
    assert not [t for t in threading.enumerate() if t.name == "bananas-portal"]


async def test_the_async_client_is_its_twin(url: str) -> None:
    async with AsyncClient(url) as client:
        job_id = await client.submit_job("double", {"n": 1})
        ids = await client.submit_many("double", [{"n": 2}, {"n": 3}], priority=10)
        assert await client.cancel(ids[1]) is True
        await run_jobs(url)
        assert await client.wait_for_result(job_id, timeout=5) == 2
        assert (await client.get_job(ids[0])).result == 4
        assert (await client.get_job(ids[1])).state is JobState.CANCELLED


def test_tasks_and_handles_have_blocking_twins() -> None:
    app = memory_app()

    @app.task
    def work(n: int = 0) -> int:
        return n

    job = work.submit_blocking(1)
    assert job.status_blocking() is JobState.PENDING
    assert job.cancel_blocking("no") is True
    assert job.record_blocking().state is JobState.CANCELLED
    with pytest.raises(BananasError, match="no"):
        job.result_blocking(timeout=1)
    many = work.submit_many_blocking([{"n": 1}, {"n": 2}])
    assert len({job.id for job in many}) == 2
    assert work.job(3).options(priority=1).submit_blocking().record_blocking().priority == 1
    app.close_blocking()
    app.close_blocking()


async def test_a_blocking_call_inside_a_running_loop_is_refused() -> None:
    app = memory_app()

    @app.task
    def work() -> None: ...

    client = Client("memory://never-opened")
    for call in (work.submit_blocking, lambda: client.submit_job("work")):
        with pytest.raises(BananasError, match="await"):
            call()


async def test_threads_use_the_loop_that_has_the_app_open() -> None:
    app = memory_app()

    @app.task
    def work() -> None: ...

    async with app:
        job = await asyncio.to_thread(work.submit_blocking)
        assert await job.status() is JobState.PENDING
    assert not app.connections.background


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_blocking_twins_work_in_a_child_forked_from_an_open_app(url: str) -> None:
    app = Bananas(url)

    @app.task
    def double(n: int) -> int:
        return 2 * n

    async def fork_inside() -> int:
        async with app:
            await double.submit(1)
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    # A thread: the child's main thread is inside a copy of the parent's loop.
                    submit = threading.Thread(
                        target=double.job(2).options(job_id="from-child").submit_blocking
                    )
                    submit.start()
                    submit.join(10)
                    code = 0
                finally:
                    os._exit(code)
            _, status = await asyncio.to_thread(os.waitpid, child, 0)
            assert (await app.get_job("from-child")).id == "from-child"
            return os.waitstatus_to_exitcode(status)

    assert asyncio.run(fork_inside()) == 0


def test_many_threads_share_one_portal() -> None:
    portal = Portal()
    seen: list[int] = []

    async def where() -> int:
        return threading.get_ident()

    threads = [threading.Thread(target=lambda: seen.append(portal.call(where))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert len(set(seen)) == 1
    portal.close()


def test_errors_come_through_the_portal_and_close_cancels_what_runs() -> None:
    portal = Portal()

    async def fail() -> None:
        raise LookupError("here")

    with pytest.raises(LookupError, match="here"):
        portal.call(fail)

    async def leave_behind() -> None:
        portal_task = asyncio.get_running_loop().create_task(asyncio.sleep(3600))
        ended.append(portal_task)

    ended: list[asyncio.Task[None]] = []
    portal.call(leave_behind)
    portal.close()
    assert ended[0].cancelled()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_connects_anew(url: str) -> None:
    client = Client(url)
    first = client.submit_job("double", {"n": 1})
    child = os.fork()
    if child == 0:
        code = 1
        try:
            client.submit_job("double", {"n": 2}, job_id="from-child")
            code = 0 if client.get_job(first).payload == {"n": 1} else 2
        finally:
            os._exit(code)
    deadline = time.monotonic() + 20
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(status) == 0
    assert client.get_job("from-child").payload == {"n": 2}
    client.close()
