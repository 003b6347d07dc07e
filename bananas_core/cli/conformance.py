"""``bananas conformance``: the shipped suite against one broker."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from bananas_core.cli.options import Json, ResultBackendUrl
from bananas_core.cli.output import Column, Output
from bananas_core.cli.run import ExitCode, leave
from bananas_core.errors import ConfigurationError
from bananas_core.pair import load_pair

SUITE: Final = "bananas_core.testing.conformance"
NEEDED: Final = ("pytest", "pytest_asyncio", "hypothesis")
BROKEN: Final = 2
"""From this exit code on, pytest did not run the tests (interrupted, usage, nothing found)."""

COLUMNS: Final = (
    Column("promise"),
    Column("outcome"),
    Column("tests passed"),
    Column("others", fold=True),
)


def conformance(
    url: Annotated[str, typer.Argument(metavar="URL", help="The broker to test.")],
    result_backend_url: ResultBackendUrl = None,
    as_json: Json = False,
) -> None:
    """Run the conformance suite on a broker and print which promises it keeps."""
    load_pair(url, result_backend_url, "conformance")  # a wrong URL is told here, in one line
    missing = missing_packages(NEEDED)
    if missing:
        raise ConfigurationError(
            f"the conformance suite needs {', '.join(missing)}; "
            'pip install "bananas[testing]" brings all of it'
        )
    leave(run_suite(url, result_backend_url, Output(json=as_json)))


def missing_packages(names: Sequence[str]) -> list[str]:
    """Those that can't be imported."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def run_suite(url: str, result_backend_url: str | None, out: Output) -> ExitCode:
    """Run pytest in a process and folder of its own, so that no project's settings matter.

    Raises:
        ConfigurationError: pytest could not run the suite; says why.
    """
    with tempfile.TemporaryDirectory(prefix="bananas-conformance-") as folder:
        report = Path(folder, "report.json")
        inner = Path(folder, "empty")
        inner.mkdir()
        (inner / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n", encoding="utf-8")
        command = [sys.executable, "-m", SUITE, absolute(url), "--bananas-report", str(report)]
        options = ["-q", "-p", "no:cacheprovider", "--tb=short"]
        if result_backend_url is not None:
            options += ["--bananas-result-backend-url", absolute(result_backend_url)]
        ran = subprocess.run(
            [*command, *options], cwd=inner, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        said = ran.stdout.decode(errors="replace")
        if ran.returncode >= BROKEN or not report.exists():
            last = said.strip().splitlines()[-1:] or ["pytest said nothing"]
            raise ConfigurationError(f"the conformance suite did not run: {last[0]}")
        matrix: dict[str, Any] = msgspec.json.decode(report.read_bytes())
    show(out, matrix)
    if ran.returncode and not out.json:
        out.say(said)
    return ExitCode.JOB_FAILED if ran.returncode else ExitCode.OK


def show(out: Output, matrix: dict[str, Any]) -> None:
    """One row, or one object, for each promise."""
    head = {"suite": matrix["suite"], "subject": matrix["subject"]}
    if out.json:
        for promise in matrix["promises"]:
            out.line({**head, **promise})
        return
    rows = []
    for promise in matrix["promises"]:
        tests = promise["tests"]
        other = [f"{t['test']}: {t['reason'] or t['outcome']}" for t in tests if not _passed(t)]
        passed = sum(map(_passed, tests))
        rows.append((promise["promise"], promise["outcome"], passed, "\n".join(other)))
    title = f"{head['subject']} (suite {head['suite']})"
    out.table(title, COLUMNS, rows)


def _passed(test: dict[str, Any]) -> bool:
    return bool(test["outcome"] == "passed")


def absolute(url: str) -> str:
    """A relative SQLite path means the caller's folder, not the one the suite runs in."""
    start = "sqlite:///"
    if not url.startswith(start) or url.startswith(f"{start}/"):
        return url
    return f"{start}{os.getcwd()}/{url.removeprefix(start)}"
