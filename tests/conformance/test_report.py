"""The suite by URL, and the report that it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bananas_core.testing.conformance import VERSION
from bananas_core.testing.conformance.report import Report


def test_a_promise_is_as_good_as_its_worst_test() -> None:
    report = Report("memory://x")
    report.add("test_a", ["L10", "L2"], "passed")
    report.add("test_b", ["L10"], "failed")
    report.add("test_c", ["L2", "T1"], "skipped", "no clock")
    found = json.loads(report.json())
    assert (found["suite"], found["subject"]) == (VERSION, "memory://x")
    outcomes = [(promise["promise"], promise["outcome"]) for promise in found["promises"]]
    assert outcomes == [("L2", "passed"), ("L10", "failed"), ("T1", "skipped")]
    table = report.table()
    assert "failed: test_b" in table
    assert "skipped: test_c: no clock" in table


def test_the_suite_runs_by_url(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    suite = [sys.executable, "-m", "bananas_core.testing.conformance", "memory://by-url"]
    options = ["-q", "-p", "no:cacheprovider", "--bananas-report", str(file), "-k"]
    done = subprocess.run(
        [*suite, *options, "Version or version or stats or expired_document"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {p["promise"]: p for p in json.loads(file.read_bytes())["promises"]}
    assert found["L39"]["outcome"] == "passed"
    assert found["T18"]["outcome"] == "passed"
    skipped = [test for test in found["L38"]["tests"] if test["outcome"] == "skipped"]
    assert skipped
    assert all("level extended" in test["reason"] for test in skipped)
    assert "promises" in done.stdout


def test_the_suite_says_how_it_is_used() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bananas_core.testing.conformance"],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 2
    assert "URL" in done.stdout
