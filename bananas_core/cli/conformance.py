"""``bananas conformance``: the shipped suite against one broker."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

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

STDOUT: Final = "-"
Level = Literal["core", "extended", "faults", "stress"]

COLUMNS: Final = (
    Column("promise"),
    Column("outcome"),
    Column("emulated", fold=True),
    Column("tests passed"),
    Column("others", fold=True),
)


def conformance(
    url: Annotated[str, typer.Argument(metavar="URL", help="The broker to test.")],
    result_backend_url: ResultBackendUrl = None,
    level: Annotated[
        Level, typer.Option("--level", help="Which tests; extended really waits.")
    ] = "core",
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="Run tests side by side, with pytest-xdist.")
    ] = 1,
    promise: Annotated[
        str | None, typer.Option("--promise", metavar="ID", help="Only the tests of this one.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What reports call the broker; else its URL.")
    ] = None,
    report: Annotated[
        str | None,
        typer.Option(
            "--report", metavar="FILE", help="Write all that was found as JSON; - is stdout."
        ),
    ] = None,
    badge: Annotated[
        Path | None, typer.Option("--badge", metavar="FILE", help="Draw a badge as SVG.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the conformance suite on a broker and print which promises it keeps."""
    if as_json and report == STDOUT:
        raise typer.BadParameter("--json and --report - both write to stdout")
    load_pair(url, result_backend_url, "conformance")  # a wrong URL is told here, in one line
    missing = missing_packages(NEEDED if processes == 1 else (*NEEDED, "xdist"))
    if missing:
        raise ConfigurationError(
            f"the conformance suite needs {', '.join(missing)}; "
            'pip install "bananas[testing]" brings all of it'
        )
    options = ["--bananas-level", level]
    if result_backend_url is not None:
        options += ["--bananas-result-backend-url", absolute(result_backend_url)]
    if name is not None:
        options += ["--bananas-name", name]
    if promise is not None:
        options += ["--bananas-promise", promise]
    if processes > 1:
        options += ["-n", str(processes), "--dist", "worksteal"]
    found = run_suite(absolute(url), options)
    if report == STDOUT:
        sys.stdout.write(found.report.decode())
    elif report is not None:
        Path(report).write_bytes(found.report)
    if badge is not None:
        draw(found.report, badge)
    out = Output(json=as_json)
    if report != STDOUT:
        show(out, msgspec.json.decode(found.report))
        if not found.passed:
            out.say(found.said)
    leave(ExitCode.OK if found.passed else ExitCode.JOB_FAILED)


def missing_packages(names: Sequence[str]) -> list[str]:
    """Those that can't be imported."""
    return [name for name in names if importlib.util.find_spec(name) is None]


class Found(msgspec.Struct, frozen=True):
    """A finished run: its report as JSON, and what pytest said."""

    report: bytes
    passed: bool
    said: str


def run_suite(url: str, options: Sequence[str]) -> Found:
    """Run pytest in a process and folder of its own, so that no project's settings matter.

    Raises:
        ConfigurationError: pytest could not run the suite; says why.
    """
    with tempfile.TemporaryDirectory(prefix="bananas-conformance-") as folder:
        report = Path(folder, "report.json")
        inner = Path(folder, "empty")
        inner.mkdir()
        (inner / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n", encoding="utf-8")
        command = [sys.executable, "-m", SUITE, url, "--bananas-report", str(report)]
        quiet = ["-q", "-p", "no:cacheprovider", "--tb=short"]
        ran = subprocess.run(
            [*command, *quiet, *options],
            cwd=inner,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said = ran.stdout.decode(errors="replace")
        if ran.returncode >= BROKEN or not report.exists():
            last = said.strip().splitlines()[-1:] or ["pytest said nothing"]
            raise ConfigurationError(f"the conformance suite did not run: {last[0]}")
        return Found(report.read_bytes(), not ran.returncode, said)


def draw(report: bytes, file: Path) -> None:
    """The badge of a report. Imported here: the suite's modules need pytest."""
    from bananas_core.testing.conformance.badge import badge
    from bananas_core.testing.conformance.report import Document

    file.write_text(badge(msgspec.json.decode(report, type=Document)), encoding="utf-8")


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
        outcome, how = promise["outcome"], promise["emulated"]
        rows.append((promise["promise"], outcome, how, passed, "\n".join(other)))
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
