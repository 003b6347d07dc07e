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


@pytest.mark.timeout(180)  # 20 s where nothing else runs
def test_the_suite_runs_on_a_url_whatever_the_project_s_pytest_settings_are(
    cli: Cli, folder: Path
) -> None:
    (folder / "pyproject.toml").write_text('[tool.pytest.ini_options]\naddopts = "--nonsense"\n')
    ran = cli("conformance", "sqlite:///suite.db", "--json")
    assert ran.code == 0, ran.stdout
    known = {"suite", "subject", "promise", "outcome", "emulated", "seconds", "tests"}
    assert known == set(ran.lines[0])
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
        "promises": [{"promise": "T8", "outcome": "failed", "emulated": "", "tests": tests}],
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


def test_one_promise_is_tested_alone_and_reported_with_what_is_emulated(
    cli: Cli, folder: Path
) -> None:
    words = ["conformance", "memory://x?form=split", "--promise", "T12", "--name", "x & y"]
    ran = cli(*words, "--report", "report.json", "--badge", "badge.svg")
    assert ran.code == 0, ran.stdout
    report = json.loads((folder / "report.json").read_text())
    assert (report["subject"], report["level"], report["fused"]) == ("x & y", "core", False)
    assert report["transport"]["capabilities"]["levels"] == 4
    found = {promise["promise"]: promise for promise in report["promises"]}
    assert found["T12"]["outcome"] == "passed"
    assert "4 bands" in found["T12"]["emulated"]
    assert found["T12"]["seconds"] > 0
    assert "L7" not in found, "a promise that no test of T12 shows"
    assert "x &amp; y" in (folder / "badge.svg").read_text()
    piped = cli(*words, "--report", "-")
    assert json.loads(piped.stdout)["subject"] == "x & y"


def test_a_promise_that_nobody_made_exits_2(cli: Cli) -> None:
    assert cli("conformance", "memory://x", "--promise", "T99").code == 2


def test_json_and_the_report_do_not_share_stdout(cli: Cli) -> None:
    assert cli("conformance", "memory://x", "--json", "--report", "-").code == 2
