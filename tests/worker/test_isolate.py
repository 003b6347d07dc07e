"""Claims in processes of their own, with real runner processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from bananas_core.isolate import ProcessIsolation
from bananas_core.job import Claim, Outcome, OutcomeKind
from tests.worker.conftest import eventually
from tests.worker.group import alive, environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
async def isolation(places: Path) -> AsyncIterator[ProcessIsolation]:
    isolation = ProcessIsolation("process_app:app", most=2)
    yield isolation
    await isolation.stop()


def claim_of(name: str, fence: int = 1) -> Claim:
    message = b'{"v":1,"id":"j","name":"x","payload":{},"created_at":"2026-01-01T00:00:00Z"}'
    return Claim(
        id=f"job-{name}-{fence}",
        fence=fence,
        gen=1,
        name=name,
        routing_key="default",
        priority=50,
        attempt=1,
        failures=0,
        deaths=0,
        max_attempts=3,
        created_at=0.0,
        at=0.0,
        message=message,
    )


async def run(
    isolation: ProcessIsolation,
    name: str,
    *,
    fresh: bool = False,
    payload: bytes = b"{}",
    told: list[object] | None = None,
) -> Outcome:
    said = [] if told is None else told
    return await isolation.run(
        claim_of(name),
        payload,
        fresh=fresh,
        on_begun=lambda: None,
        on_progress=lambda value, text: said.append((value, text)),
        on_log=said.append,
    )


async def test_a_warm_process_is_used_again_and_a_fresh_one_is_not(
    isolation: ProcessIsolation,
) -> None:
    first = await run(isolation, "where")
    second = await run(isolation, "where")
    fresh = await run(isolation, "where", fresh=True)
    assert first.kind is OutcomeKind.COMPLETED
    assert b"MainThread" in (first.result or b""), "a def task has the main thread for itself"
    assert first.result == second.result
    assert fresh.result not in (None, first.result)
    pid = _pid(fresh)
    await eventually(lambda: _gone(pid))


async def test_progress_and_log_lines_come_back_before_the_outcome(
    isolation: ProcessIsolation,
) -> None:
    told: list[object] = []
    outcome = await run(isolation, "talk", told=told)
    assert outcome.result == b'{"value":"talked"}'
    assert told == [(0.25, "a quarter"), "one", "two"]
    told.clear()
    await run(isolation, "where_async", told=told)
    assert told == [(0.5, "half"), "line"]


async def test_a_task_in_a_runner_may_submit_jobs(isolation: ProcessIsolation) -> None:
    assert (await run(isolation, "submits")).result == b'{"value":2}'


async def test_an_exception_is_an_outcome_and_spares_the_process(
    isolation: ProcessIsolation,
) -> None:
    before = await run(isolation, "where")
    outcome = await run(isolation, "fails")
    assert outcome.kind is OutcomeKind.RETRY
    assert outcome.error is not None
    assert outcome.error.message == "no good"
    assert (await run(isolation, "where")).result == before.result


async def test_a_lost_process_is_a_death(isolation: ProcessIsolation) -> None:
    outcome = await run(isolation, "die", fresh=True)
    assert (outcome.kind, outcome.fence) == (OutcomeKind.DIED, 1)
    assert (await run(isolation, "where")).kind is OutcomeKind.COMPLETED


async def test_a_runner_that_died_while_idle_costs_no_job_a_death(
    isolation: ProcessIsolation,
) -> None:
    before = await run(isolation, "where")
    pid = _pid(before)
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: _gone(pid))
    after = await run(isolation, "where")
    assert after.kind is OutcomeKind.COMPLETED
    assert after.result != before.result


async def test_cancelling_kills_the_process_and_what_it_started(
    isolation: ProcessIsolation, places: Path
) -> None:
    task = asyncio.create_task(run(isolation, "hang"))
    runs = places / "runs"

    async def begun() -> bool:
        return runs.exists() and "child" in runs.read_text()

    await eventually(begun, within=10)
    words = runs.read_text().split()
    runner, sleeper = int(words[2]), int(words[4])
    assert alive(runner)
    assert alive(sleeper)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: _gone(runner))
    await eventually(lambda: _gone(sleeper))


async def test_stop_ends_idle_and_busy_runners(places: Path) -> None:
    isolation = ProcessIsolation("process_app:app", warm=1, most=2)
    await isolation.start()
    task = asyncio.create_task(run(isolation, "hang"))
    runs = places / "runs"

    async def begun() -> bool:
        return runs.exists() and "child" in runs.read_text()

    await eventually(begun, within=10)
    idle = await run(isolation, "where")
    pids = [int(runs.read_text().split()[2]), _pid(idle)]
    await isolation.stop()
    assert (await task).kind is OutcomeKind.DIED
    for pid in pids:
        await eventually(lambda pid=pid: _gone(pid))  # type: ignore[misc]


async def test_an_app_that_cannot_be_loaded_puts_the_job_off(places: Path) -> None:
    isolation = ProcessIsolation("no_such_module:app")
    try:
        outcome = await run(isolation, "where")
    finally:
        await isolation.stop()
    assert outcome.kind is OutcomeKind.SNOOZE
    assert "no_such_module" in (outcome.held_by or "")


async def test_suspects_take_turns(places: Path) -> None:
    isolation = ProcessIsolation("process_app:app", most_fresh=1)
    try:
        outcomes = await asyncio.gather(*(run(isolation, "where", fresh=True) for _ in range(2)))
    finally:
        await isolation.stop()
    assert {outcome.kind for outcome in outcomes} == {OutcomeKind.COMPLETED}
    assert outcomes[0].result != outcomes[1].result
    assert os.getpid() not in [_pid(outcome) for outcome in outcomes]


def _pid(outcome: Outcome) -> int:
    """What the task ``where`` says first."""
    return int(msgspec.json.decode(outcome.result or b"")["value"][0])


async def _gone(pid: int) -> bool:
    return not alive(pid)
