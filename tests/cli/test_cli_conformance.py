"""The command that runs the shipped suite."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bananas_core.cli import conformance
from bananas_core.cli.conformance import absolute, show
from bananas_core.cli.output import Output

Cli = Callable[..., Any]


def test_the_suite_runs_on_a_url_whatever_the_project_s_pytest_settings_are(
    cli: Cli, folder: Path
) -> None:
    (folder / "pyproject.toml").write_text('[tool.pytest.ini_options]\naddopts = "--nonsense"\n')
    ran = cli("conformance", "sqlite:///suite.db", "--json")
    assert ran.code == 0, ran.stdout
    assert {"suite", "subject", "promise", "outcome", "tests"} == set(ran.lines[0])
    outcomes = {line["promise"]: line["outcome"] for line in ran.lines}
    assert outcomes["T8"] == outcomes["L10"] == "passed"


def test_missing_packages_are_named_with_the_cure(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conformance, "NEEDED", ("pytest", "absent_library"))
    refused = cli("conformance", "memory://x")
    assert refused.code == 2
    assert "absent_library" in refused.stderr
    assert "bananas[testing]" in refused.stderr


@pytest.mark.parametrize("url", ["nonsense", "carrier-pigeon://x", "amqp://x"])
def test_an_impossible_url_exits_2(cli: Cli, url: str) -> None:
    assert cli("conformance", url).code == 2


def test_relative_files_stay_in_the_caller_s_folder(folder: Path) -> None:
    assert absolute("sqlite:///a.db") == f"sqlite:///{folder}/a.db"
    assert absolute("sqlite:////tmp/a.db") == "sqlite:////tmp/a.db"
    assert absolute("memory://a") == "memory://a"


def test_what_did_not_pass_is_shown_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    tests = [
        {"test": "test_a", "outcome": "passed", "reason": ""},
        {"test": "test_b", "outcome": "failed", "reason": ""},
        {"test": "test_c", "outcome": "skipped", "reason": "no levels"},
    ]
    matrix = {
        "suite": "1",
        "subject": "memory://x",
        "promises": [{"promise": "T8", "outcome": "failed", "tests": tests}],
    }
    show(Output(json=False), matrix)
    table = capsys.readouterr().out
    assert "test_b: failed" in table
    assert "test_c: no levels" in table
    assert "test_a" not in table
    show(Output(json=True), matrix)
    assert json.loads(capsys.readouterr().out)["promise"] == "T8"


def test_only_packages_that_can_t_be_imported_are_missing() -> None:
    assert conformance.missing_packages(["sys", "absent_library"]) == ["absent_library"]
