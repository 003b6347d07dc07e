"""The rendered reference pages say what the code and the kept reports say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs_pages import ROOT

REPORTS = sorted((ROOT / "docs" / "data").glob("conformance-*.json"))
GUARANTEES = ROOT / "docs" / "reference" / "guarantees.md"


def test_rendered_pages_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/render_docs.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_a_kept_report_is_of_promises_that_are_made_and_kept(path: Path) -> None:
    report = json.loads(path.read_text("utf-8"))
    found = {promise["promise"]: promise["outcome"] for promise in report["promises"]}
    made = set(re.findall(r"^\| ([A-Z]\d+) \|", GUARANTEES.read_text("utf-8"), re.MULTILINE))
    assert found.keys() <= made
    assert len(found) > 90, "not the whole suite"
    assert "failed" not in found.values()
    assert "://" not in report["subject"], "places of one machine are not kept"
