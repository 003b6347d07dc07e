"""Bananas and a plain loop in turn: so many jobs in so many seconds, by wall clock and by CPU."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """``cpu`` is user and system time of the measured process, in seconds."""

    jobs: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        return self.jobs / self.seconds

    @property
    def cpu_us(self) -> float:
        return self.cpu / self.jobs * 1e6


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Median rate of the interleaved rounds, its range, and CPU µs per job."""

    name: str
    rate: float
    low: float
    high: float
    cpu_us: float
    ratio: float | None = None
    """Of the limit line's rate, from the rounds' own pairs."""


class Stopwatch:
    """Filled in by ``timed``."""

    seconds = 0.0
    cpu = 0.0


@contextmanager
def timed() -> Iterator[Stopwatch]:
    """Time the block."""
    watch = Stopwatch()
    before = _cpu()
    begun = time.perf_counter()
    try:
        yield watch
    finally:
        watch.seconds = time.perf_counter() - begun
        watch.cpu = _cpu() - before


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


Place = Callable[[], AbstractContextManager[str]]
"""Makes somewhere empty: a folder, or a database by its URL."""


def new_folder() -> AbstractContextManager[str]:
    return tempfile.TemporaryDirectory(prefix="bananas-bench-")


def sample(module: str, what: str, jobs: int, place: Place = new_folder) -> Sample:
    """Run ``python -m module what jobs place`` in a new process; it prints a Sample."""
    with place() as where:
        done = subprocess.run(
            [sys.executable, "-m", module, what, str(jobs), where],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
            env=_environment(),
        )
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Sample)


def report(jobs: int, watch: Stopwatch) -> None:
    """What a measured process prints last."""
    print(json.dumps({"jobs": jobs, "seconds": watch.seconds, "cpu": watch.cpu}))


def compare(
    what: str, jobs: int, rounds: int, subjects: dict[str, str], place: Place = new_folder
) -> list[Summary]:
    """Interleave the subjects; the first one is the limit line that ratios refer to."""
    samples: dict[str, list[Sample]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, module in subjects.items():
            samples[name].append(sample(module, what, jobs, place))
    limit = next(iter(subjects))
    return [_summary(name, found, samples[limit]) for name, found in samples.items()]


def _summary(name: str, found: list[Sample], limit: list[Sample]) -> Summary:
    rates = [s.rate for s in found]
    pairs = [ours.rate / bare.rate for ours, bare in zip(found, limit, strict=True)]
    return Summary(
        name=name,
        rate=statistics.median(rates),
        low=min(rates),
        high=max(rates),
        cpu_us=statistics.median(s.cpu_us for s in found),
        ratio=None if found is limit else statistics.median(pairs),
    )


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a user may say."""

    jobs: int
    rounds: int
    json: Path | None


def options(name: str, description: str | None, jobs: int) -> Options:
    """From the command line. Servers are processes then: a container's port goes through a helper
    of the engine."""
    os.environ.setdefault("BANANAS_SERVERS", "process")
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--jobs", type=int, default=jobs)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    said = parser.parse_args()
    return Options(jobs=said.jobs, rounds=said.rounds, json=said.json)


def run(
    options: Options,
    subjects: dict[str, str],
    measures: dict[str, tuple[str, float]],
    about: dict[str, object],
    place: Place = new_folder,
) -> int:
    """Measure all, print tables and write the JSON if it was asked for; an exit code.

    Args:
        subjects: modules by what they are called; the first is the limit line.
        measures: what is measured, and the least ratio of the last subject, by title.
        about: what the figures depend on, besides what is known here.
    """
    load = os.getloadavg()[0]
    found: dict[str, list[Summary]] = {}
    short = []
    for title, (what, target) in measures.items():
        found[title] = compare(what, options.jobs, options.rounds, subjects, place)
        Console().print(table(title, found[title], target))
        ratio = found[title][-1].ratio
        if ratio is not None and ratio < target:
            short.append(f"{title}: {ratio:.2f} of the first line, target {target:.2f}")
    if options.json:
        about |= {
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "load_before": round(load, 1),
            "jobs": options.jobs,
            "rounds": options.rounds,
        }
        data = {"about": about, "measures": msgspec.to_builtins(found)}
        options.json.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")
    for line in short:
        print(f"below target: {line}", file=sys.stderr)
    return 1 if short else 0


def table(title: str, rows: list[Summary], target: float) -> Table:
    """For reading. ``target``: of the last line's ratio."""
    table = Table(title=f"{title} (target ≥ {target:.0%} of the first line)")
    for column in ("subject", "jobs/s", "range", "CPU µs/job", "ratio"):
        table.add_column(column, justify="left" if column == "subject" else "right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.rate:,.0f}",
            f"{row.low:,.0f}-{row.high:,.0f}",
            f"{row.cpu_us:.1f}",
            "" if row.ratio is None else f"{row.ratio:.2f}",
        )
    return table


def _environment() -> dict[str, Any]:
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path}
