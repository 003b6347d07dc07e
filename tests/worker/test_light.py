"""Worker processes are light: they import what they use, and get their settings told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.worker.light import ask, heavy


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'jobs.db'}"


def test_a_worker_process_imports_nothing_heavy(tmp_path: Path, url: str) -> None:
    modules = ask(tmp_path, url, "modules")
    assert "bananas_brokers.sqlite.fused" in modules
    assert heavy(modules, "redis", "bananas_brokers.redis") == set()


def test_nor_does_a_process_that_runs_def_tasks(tmp_path: Path, url: str) -> None:
    modules = ask(tmp_path, url, "modules_of_def", "--pool", "process")
    assert "bananas_core.isolate" in modules
    assert heavy(modules, "redis", "bananas_brokers.redis") == set()


def test_nor_does_the_supervisor() -> None:
    code = "import bananas_core.supervisor, sys; print(*sys.modules)"
    asked = [sys.executable, "-c", code]
    found = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()
    assert "bananas_core.supervisor" in found
    assert heavy(found) == {"bananas_core.supervisor", "http"}  # it answers health checks


def test_settings_come_from_the_same_places_in_the_same_order(tmp_path: Path, url: str) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[tool.bananas]\ngrace = 7\nmax_payload = 5000\nconcurrency = 9\n"
    )
    env = {"BANANAS_MAX_PAYLOAD": "6000", "BANANAS_CONCURRENCY": "8"}
    assert ask(tmp_path, url, "settings", env=env) == {
        "concurrency": [3, "argument"],
        "grace": [7.0, "pyproject.toml"],
        "max_payload": [6000, "BANANAS_MAX_PAYLOAD"],
        "retention_failed": [2_592_000.0, "default"],
        "pool": ["thread", "default"],
    }


def test_an_app_may_set_variables_when_it_is_imported(tmp_path: Path, url: str) -> None:
    env = {"BANANAS_MAX_PAYLOAD": "6000", "SET_BY_APP": "7000"}
    found = ask(tmp_path, url, "settings", env=env)
    assert found["max_payload"] == [7000, "BANANAS_MAX_PAYLOAD"]


def test_an_impossible_variable_is_told_and_ends_with_2(tmp_path: Path, url: str) -> None:
    with pytest.raises(AssertionError, match=r"grace.*BANANAS_GRACE"):
        ask(tmp_path, url, "settings", env={"BANANAS_GRACE": "long"})
