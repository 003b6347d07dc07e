"""What a supervisor promises, with real processes on a SQLite file."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest

from bananas import Bananas
from bananas_core.job import Job, JobState
from tests.worker.group import Group, alive, environment, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

Start = Callable[..., Group]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a group and ends it after the test."""
    groups: list[Group] = []

    def begin(**flags: object) -> Group:
        groups.append(Group(tmp_path, flags=flags))
        return groups[-1].start()

    yield begin
    for group in groups:
        group.kill()


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Bananas]:
    """An app on the group's broker that knows no tasks."""
    async with Bananas(environment(tmp_path)["BANANAS_BROKER_URL"]) as app:
        yield app


async def submit(app: Bananas, name: str, *payloads: Mapping[str, object]) -> list[str]:
    return [(await app.submit_job(name, payload)).id for payload in payloads]


async def final(app: Bananas, ids: list[str], *, within: float = 15.0) -> list[Job]:
    """The records when all are final."""
    end = time.monotonic() + within
    while True:
        jobs = [job for job in await app.backend.get(ids) if job is not None]
        if all(job.finished_at is not None for job in jobs):
            return jobs
        assert time.monotonic() < end, [job.state for job in jobs]
        await asyncio.sleep(0.02)


async def running(group: Group, count: int, *, within: float = 10.0) -> None:
    """So many bodies have started."""
    end = time.monotonic() + within
    while len(group.runs()) < count:
        assert time.monotonic() < end, group.log()
        await asyncio.sleep(0.02)


async def said(group: Group, id: str, *, within: float = 10.0) -> None:
    """The body of this job has started."""
    end = time.monotonic() + within
    while id not in [run for _, run, _ in group.runs()]:
        assert time.monotonic() < end, group.log()
        await asyncio.sleep(0.02)


AT_ONCE = 5.0
"""Seconds: a claim would lapse after 15, a guard fire after 30."""


async def test_jobs_of_a_killed_child_run_again_at_once(start: Start, client: Bananas) -> None:
    group = start()
    ids = await submit(client, "sleepy", *[{"seconds": 0.8}] * 4)
    await running(group, 4)
    (child,) = group.children()
    killed = time.time()
    os.kill(child, signal.SIGKILL)
    jobs = await final(client, ids)
    again = [at - killed for at, _, pid in group.runs() if pid != child]
    assert len(again) == 4
    assert max(again) <= AT_ONCE
    assert [(job.state, job.deaths, job.attempt) for job in jobs] == [
        (JobState.COMPLETED, 1, 2)
    ] * 4
    assert "killed by signal 9" in group.log()


async def test_with_a_ledger_apart_too(tmp_path: Path) -> None:
    """What was handed back is sent at once, not when its guard fires."""
    ledger = f"sqlite:///{tmp_path / 'ledger.db'}"
    group = Group(tmp_path, env={"BANANAS_RESULT_BACKEND_URL": ledger}).start()
    try:
        broker = environment(tmp_path)["BANANAS_BROKER_URL"]
        async with Bananas(broker, result_backend_url=ledger) as client:
            ids = await submit(client, "sleepy", *[{"seconds": 0.8}] * 4)
            await running(group, 4)
            (child,) = group.children()
            killed = time.time()
            os.kill(child, signal.SIGKILL)
            jobs = await final(client, ids)
            again = [at - killed for at, _, pid in group.runs() if pid != child]
            assert len(again) == 4
            assert max(again) <= AT_ONCE
            assert {(job.state, job.deaths) for job in jobs} == {(JobState.COMPLETED, 1)}
    finally:
        group.kill()


async def test_def_tasks_in_processes_end_with_their_time_and_with_the_worker(
    start: Start, client: Bananas
) -> None:
    group = start(pool="process", concurrency=2, grace=0.3)
    late = await client.submit_job("hang_too_long", max_attempts=1)
    (job,) = await final(client, [late.id])
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.type == "TimeoutError"
    ids = await submit(client, "where", {}, {}, {})
    jobs = await final(client, ids)
    assert {job.state for job in jobs} == {JobState.COMPLETED}
    pids = {(await (await client.get_job(id)).result(timeout=1))[0] for id in ids}
    assert not pids & set(group.children())
    (long,) = await submit(client, "hang", {})
    await said(group, long)
    group.send(signal.SIGTERM)
    assert group.wait(10) == 0
    (back,) = await client.backend.get([long])
    assert back is not None
    assert (back.state, back.attempt) == (JobState.PENDING, 1)
    sleepers = [int(said.split()[1]) for said in group.said("child")]
    until(lambda: not any(alive(pid) for pid in [*pids, *sleepers]), within=5, what="all ended")


async def test_a_job_that_blocks_past_its_deadline_gets_its_process_killed(
    start: Start, client: Bananas
) -> None:
    group = start()
    (neighbour,) = await submit(client, "sleepy", {"seconds": 0.5})
    await running(group, 1)
    (blocker,) = await submit(client, "hold_gil_once", {})
    one, other = await final(client, [blocker, neighbour])
    assert (one.state, one.deaths, one.failures) == (JobState.COMPLETED, 1, 0)
    assert (other.state, other.attempt) == (JobState.COMPLETED, 1), "it paid for its neighbour"
    assert f"past the time-out of {blocker}" in group.log()


async def test_sigterm_to_the_whole_group_is_one_graceful_stop(
    start: Start, client: Bananas
) -> None:
    group = start(grace=0.8, processes=2)
    (short,) = await submit(client, "sleepy", {"seconds": 0.5})
    (long,) = await submit(client, "sleepy", {"seconds": 30})
    await running(group, 2)
    begun = time.monotonic()
    group.send_all(signal.SIGTERM)
    assert group.wait(10) == 0
    assert time.monotonic() - begun <= 0.8 + 2.0
    done, back = await client.backend.get([short, long])
    assert done is not None
    assert done.state is JobState.COMPLETED
    assert back is not None
    assert (back.state, back.attempt) == (JobState.PENDING, 1)
    assert await client.backend.sessions() == []


async def test_a_second_signal_stops_at_once(start: Start, client: Bananas) -> None:
    group = start(grace=60)
    (id,) = await submit(client, "sleepy", {"seconds": 30})
    await running(group, 1)
    begun = time.monotonic()
    group.send(signal.SIGINT)
    group.send(signal.SIGTERM)
    assert group.wait(10) == 1
    assert time.monotonic() - begun <= 2.0
    (back,) = await client.backend.get([id])
    assert back is not None
    assert (back.state, back.attempt) == (JobState.PENDING, 1)


async def test_children_end_when_their_parent_is_killed(start: Start, client: Bananas) -> None:
    group = start(processes=2)
    await submit(client, "sleepy", {"seconds": 30})
    await running(group, 1)
    children = group.children()
    assert len(children) == 2
    group.send(signal.SIGKILL)
    group.wait(5)
    until(lambda: not any(alive(pid) for pid in children), within=5, what="children are gone")


async def test_a_child_is_replaced_after_max_jobs(start: Start, client: Bananas) -> None:
    group = start(max_jobs=5, concurrency=2)
    ids = await submit(client, "sleepy", *[{"seconds": 0.01}] * 15)
    jobs = await final(client, ids)
    assert all(job.state is JobState.COMPLETED and job.attempt == 1 for job in jobs)
    assert len({pid for _, _, pid in group.runs()}) >= 2
    assert "another one is started" not in group.log(), "a recycled child was taken for a dead one"


async def test_a_killer_among_good_jobs_is_quarantined_alone(start: Start, client: Bananas) -> None:
    group = start(concurrency=4)
    good = await submit(client, "sleepy", *[{"seconds": 0.05}] * 5)
    (killer,) = await submit(client, "die", {})
    good += await submit(client, "sleepy", *[{"seconds": 0.05}] * 94)
    jobs = await final(client, [killer, *good], within=30)
    assert (jobs[0].state, jobs[0].deaths) == (JobState.QUARANTINED, 3)
    assert {job.state for job in jobs[1:]} == {JobState.COMPLETED}
    assert len([1 for _, id, _ in group.runs() if id == killer]) == 3


async def test_sighup_replaces_the_children_and_loses_nothing(
    start: Start, client: Bananas
) -> None:
    group = start(processes=2)
    ids = await submit(client, "sleepy", *[{"seconds": 1.0}] * 4)
    await running(group, 4)
    old = set(group.children())
    group.send(signal.SIGHUP)
    until(
        lambda: len(pids := set(group.children())) == 2 and not pids & old,
        within=15,
        what="two new children",
    )
    jobs = await final(client, ids)
    assert all(job.state is JobState.COMPLETED and job.attempt == 1 for job in jobs)


async def test_a_closed_terminal_is_a_graceful_stop(tmp_path: Path, client: Bananas) -> None:
    ours, theirs = os.openpty()
    group = Group(tmp_path, stdin=theirs).start()
    try:
        ids = await submit(client, "sleepy", {"seconds": 1.0})
        await running(group, 1)
        group.send_all(signal.SIGHUP)
        assert group.wait(15) == 0
        (job,) = await final(client, ids)
        assert (job.state, job.attempt, job.deaths) == (JobState.COMPLETED, 1, 0)
    finally:
        group.kill()
        os.close(ours)
        os.close(theirs)


def test_an_app_that_cannot_be_imported_is_said_and_ends_with_2(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    group = Group(tmp_path, app="broken:app", flags={"processes": 2}).launch()
    try:
        assert group.wait(15) == 2
        assert "no_such_module" in group.log()
        assert "ready" not in group.log()
    finally:
        group.kill()


def test_memory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "inside.py").write_text("from bananas import Bananas\napp = Bananas('memory://')")
    group = Group(tmp_path, app="inside:app").launch()
    try:
        assert group.wait(15) == 2
        assert "memory:// lives inside one process" in group.log()
    finally:
        group.kill()
