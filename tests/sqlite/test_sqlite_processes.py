"""Several processes on one file: nothing is lost, run twice, or refused because of a lock."""

from __future__ import annotations

import asyncio
import fcntl
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bananas_brokers.sqlite.results import SQLiteResultBackend
from bananas_core.errors import ResultBackendUnavailable
from bananas_core.job import JobState
from bananas_core.pair import Pair
from bananas_core.results import ResultBackend

WORKER = Path(__file__).with_name("worker.py")
Run = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run() -> Iterator[Run]:
    """Start a program of ``worker.py``; ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(WORKER), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    text = process.stdout.readline()
    assert text, "the program ended early"
    answer: dict[str, Any] = json.loads(text)
    return answer


def assert_sound(url: str) -> None:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()


async def states(backend: ResultBackend) -> dict[str, int]:
    return {count.group[0]: count.count for count in await backend.count(["state"])}


async def test_processes_share_a_file_without_lock_errors(url: str, run: Run, pair: Pair) -> None:
    workers = [run("hammer", url, f"session-{i}", "3") for i in range(4)]
    reports = [line(worker) for worker in workers]
    assert [worker.wait(timeout=20) for worker in workers] == [0, 0, 0, 0]
    finished = [job_id for report in reports for job_id in report["finished"]]
    accepted = sum(report["accepted"] for report in reports)
    assert len(finished) == len(set(finished)), "a job was finished twice"
    left = await states(pair.backend)
    assert left.pop("completed") == len(finished)
    assert sum(left.values()) == accepted - len(finished)
    shares = sorted(report["accepted"] for report in reports)
    assert shares[0] * 4 > shares[-1], f"one process starves: {shares}"
    assert max(report["worst"] for report in reports) < 10
    assert_sound(url)


async def test_a_submit_elsewhere_starts_here_within_moments(
    url: str, run: Run, pair: Pair
) -> None:
    other = run("submit", url)
    assert line(other)["ready"]
    assert other.stdin is not None
    delays = []
    for i in range(10):
        job_id = f"job-{i}"
        waiting = asyncio.ensure_future(
            pair.transport.receive_claimed("here", ["default"], 1, 10.0)
        )
        other.stdin.write(f"{job_id}\n")
        other.stdin.flush()
        (received,) = await waiting
        now = time.time()
        assert received.verdict is not None
        assert received.verdict.id == job_id
        delays.append(now - (await asyncio.to_thread(line, other))["at"])
    assert sorted(delays)[len(delays) // 2] < 0.2, delays


async def test_a_finish_elsewhere_ends_a_wait_here(
    url: str, run: Run, pair: Pair, puts: Callable[[list[str]], Any]
) -> None:
    await pair.backend.put(puts(["one", "two"]))
    waiting = asyncio.ensure_future(pair.backend.wait(["two"], 20.0))
    other = run("hammer", url, "session", "1")
    (job,) = await waiting
    assert (job.id, job.state, job.worker) == ("two", JobState.COMPLETED, "session")
    assert other.poll() is None, "the wait ended only after the other process"


async def test_killed_while_writing_loses_nothing_accepted(url: str, run: Run, pair: Pair) -> None:
    for _ in range(3):
        writer = run("stream", url)
        accepted: list[str] = []
        while len(accepted) < 200:
            accepted += line(writer)["ids"]
        writer.send_signal(signal.SIGKILL)
        assert writer.stdout is not None
        for text in writer.stdout.read().splitlines():
            if text.endswith("}"):  # the last line may be cut
                accepted += json.loads(text)["ids"]
        found = await pair.backend.get(accepted)
        assert all(job is not None and job.state is JobState.PENDING for job in found)
    assert_sound(url)


def test_objects_work_on_both_sides_of_a_fork(url: str, run: Run) -> None:
    report = line(run("fork", url))
    assert report == {"found": [True, True, True], "ready": 3, "status": 0}
    assert_sound(url)


def test_a_full_disk_is_an_error_and_never_a_false_success(url: str, run: Run) -> None:
    report = line(run("starve", url, str(3 << 20)))
    assert "try again" in report["error"]
    assert report["accepted"], "nothing fitted, so nothing was shown"
    path = url.removeprefix("sqlite:///")
    connection = sqlite3.connect(path)
    stored = {job_id for (job_id,) in connection.execute("SELECT id FROM jobs")}
    connection.close()
    assert stored == set(report["accepted"])
    assert_sound(url)


async def test_a_locked_file_is_an_error_by_the_time_out(
    url: str, run: Run, puts: Callable[[list[str]], Any]
) -> None:
    backend = SQLiteResultBackend(f"{url}?busy_timeout=0.5", "test")
    await backend.open()
    try:
        locker = run("lock", url)
        assert line(locker)["locked"]
        began = time.monotonic()
        with pytest.raises(ResultBackendUnavailable, match="locked"):
            await backend.put(puts(["one"]))
        assert 0.4 < time.monotonic() - began < 5
        assert await backend.get(["one"]) == [None]
        locker.kill()
        locker.wait(timeout=10)
        await backend.put(puts(["one"]))
        assert (await backend.get(["one"]))[0] is not None
    finally:
        await backend.close()


async def test_a_process_stopped_at_the_turnstile_stops_no_other(
    url: str, pair: Pair, puts: Callable[[list[str]], Any]
) -> None:
    with open(f"{url.removeprefix('sqlite:///')}-turn") as turnstile:
        fcntl.flock(turnstile, fcntl.LOCK_EX)
        began = time.monotonic()
        await pair.backend.put(puts(["one"]))
        assert time.monotonic() - began < 10
    assert (await pair.backend.get(["one"]))[0] is not None


async def test_an_open_of_a_locked_file_fails_within_10_seconds(
    url: str, run: Run, pair: Pair
) -> None:
    locker = run("lock", url)
    assert line(locker)["locked"]
    backend = SQLiteResultBackend(url, "another")
    began = time.monotonic()
    with pytest.raises(ResultBackendUnavailable):
        await backend.open()
    assert time.monotonic() - began < 10
    locker.kill()
    locker.wait(timeout=10)
