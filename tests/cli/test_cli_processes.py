"""The command as real processes: a worker that runs jobs, and others that talk to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

WITHIN = 30.0

Bananas = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def bananas(folder: Path) -> Bananas:
    """Runs a command in the test's folder."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bananas_core.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=WITHIN)

    return call


class Worker:
    """``bananas worker`` in a session of its own, so that nothing of it outlives the test."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._log = folder / "worker.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bananas_core.cli", "worker", *arguments],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def said(self) -> str:
        return self._log.read_text()

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WITHIN
        while not condition():
            assert time.monotonic() < deadline, self.said()
            assert self.process.poll() is None, self.said()
            time.sleep(0.02)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WITHIN)

    def kill(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(WITHIN)


@pytest.fixture
def worker(folder: Path) -> Iterator[Callable[..., Worker]]:
    started: list[Worker] = []

    def start(*arguments: str) -> Worker:
        started.append(Worker(folder, *arguments))
        started[-1].until(lambda: "ready" in started[-1].said())
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.terminate()
            try:
                one.process.wait(5)
            except subprocess.TimeoutExpired:
                pass
        one.kill()


def test_a_worker_runs_jobs_and_stops_with_code_0(
    bananas: Bananas, worker: Callable[..., Worker]
) -> None:
    group = worker("shop:app", "--processes", "2", "--concurrency", "3", "--grace", "5")

    done = bananas("submit", "shop:app", "add", "--payload", '{"x": 2, "y": 3}', "--wait")
    assert (done.returncode, done.stdout) == (0, "5\n")

    failed = bananas("submit", "shop:app", "fail", "--payload", '{"text": "no"}', "--wait")
    assert failed.returncode == 1
    assert "ValueError: no" in failed.stderr
    assert "Traceback" not in failed.stderr

    again = bananas("submit", "shop:app", "flaky", "--wait", "--timeout", "20", "--json")
    record = json.loads(again.stdout)
    assert (again.returncode, record["result"], record["attempt"]) == (0, "done", 2)

    sessions = [json.loads(line) for line in bananas("workers", "--json").stdout.splitlines()]
    assert len(sessions) == 2
    assert {session["slots"] for session in sessions} == {3}
    assert {tuple(session["routing_keys"]) for session in sessions} == {("default", "media")}

    healthy = bananas("health", "--json")
    assert healthy.returncode == 0
    assert json.loads(healthy.stdout)["ok"] is True

    assert group.stop() == 0
    assert bananas("workers", "--json").stdout == ""
    unhealthy = bananas("health")
    assert unhealthy.returncode == 3
    assert "no worker is running" in unhealthy.stderr


def test_a_worker_consumes_the_chosen_keys_and_a_pause_holds_them(
    bananas: Bananas, worker: Callable[..., Worker]
) -> None:
    assert bananas("pause", "default").returncode == 0
    worker("shop:app", "--routing-key", "default", "--routing-key", "media")
    held = bananas("submit", "shop:app", "add", "--payload", '{"x": 1}').stdout.strip()
    free = bananas("submit", "shop:app", "flaky", "--wait", "--timeout", "20")
    assert free.returncode == 0
    assert json.loads(bananas("job", held, "--json").stdout)["state"] == "pending"
    assert bananas("resume", "default").returncode == 0
    waited = bananas("submit", "shop:app", "add", "--payload", "{}", "--wait")
    assert waited.returncode == 2  # refused: x is missing
    assert (
        bananas("submit", "shop:app", "add", "--payload", '{"x": 5}', "--wait", "--timeout", "20")
    ).stdout == "6\n"
    assert json.loads(bananas("job", held, "--json").stdout)["state"] == "completed"


def test_reload_runs_the_changed_code(
    bananas: Bananas, worker: Callable[..., Worker], folder: Path
) -> None:
    group = worker("shop:app", "--reload", "--grace", "1")
    shop = folder / "shop.py"
    shop.write_text(shop.read_text().replace("return x + y", "return x * 100"))
    group.until(lambda: group.said().count("ready") == 2)
    done = bananas("submit", "shop:app", "add", "--payload", '{"x": 2}', "--wait")
    assert done.stdout == "200\n"
    assert group.stop() == 0


@pytest.mark.parametrize("arguments", [(), ("no-app",), ("shop:app", "more")], ids=str)
def test_a_worker_without_a_possible_app_is_a_usage_error(
    bananas: Bananas, arguments: tuple[str, ...]
) -> None:
    assert bananas("worker", *arguments).returncode == 2


def test_a_worker_whose_app_can_t_be_imported_says_why_and_ends(
    bananas: Bananas, folder: Path
) -> None:
    (folder / "broken.py").write_text("import absent_library\n")
    ended = bananas("worker", "broken:app")
    assert ended.returncode != 0
    assert "No module named 'absent_library'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_worker_whose_broker_is_away_exits_3(
    bananas: Bananas, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "taken.db").mkdir()
    monkeypatch.setenv("BANANAS_BROKER_URL", f"sqlite:///{folder}/taken.db")
    ended = bananas("worker", "shop:app")
    assert ended.returncode == 3
    assert "Traceback" not in ended.stderr


def test_the_installed_command_is_the_same(bananas: Bananas) -> None:
    shown = bananas("--help").stdout
    names = "worker submit jobs job cancel retry purge pause resume queues workers health doctor"
    for name in [*names.split(), "conformance"]:
        assert f" {name} " in shown
    assert bananas("--version").stdout.startswith("bananas 1.")


def test_worker_processes_load_an_app_without_typer_and_rich(folder: Path) -> None:
    program = (
        "import sys; from bananas_core.target import load_app; load_app('shop:app');"
        "print(sorted({'typer', 'rich', 'click'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout == "[]\n", ran.stderr
