"""``make bench`` and ``make bench-full``: Bananas, the loops and the peers on one Redis server.

Writes ``docs/data/bench-redis.json`` and two pictures beside it, unless told otherwise. Exits 1 if
a measure failed, after it has run all others.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from benchmarks.environments import PEERS, ROOT, CannotInstall, Subject, our_subjects, peer
from benchmarks.lab import Lab, processor
from benchmarks.plan import FULL, QUICK, Profile, Step, steps
from benchmarks.report import Report, Sample, place, summarise
from benchmarks.tables import tables
from integration.servers import RedisServer, ValkeyServer
from integration.servers.redis import Fsync

OUT: Final = ROOT / "docs" / "data"
DURABLE: Final[dict[str, Fsync | None]] = {"none": None, "everysec": "everysec", "always": "always"}


def main() -> int:
    # A container's port goes through a helper of the engine: only if somebody asks for that.
    os.environ.setdefault("BANANAS_SERVERS", "process")
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true", help="more of everything, up to an hour")
    parser.add_argument("--only", help="comma-separated subjects, such as bananas,celery")
    parser.add_argument("--measure", help="comma-separated measures or curves, such as flow,depth")
    parser.add_argument("--server", choices=("redis", "valkey"), default="redis")
    parser.add_argument("--fsync", choices=DURABLE, default="none", help="append-only file")
    parser.add_argument("--bananas-url", metavar="URL", help="run Bananas on this broker instead")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the JSON and the pictures")
    options = parser.parse_args()
    check(options, parser)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that processes are ended
    profile = FULL if options.full else QUICK
    console = Console(width=None if sys.stdout.isatty() else 150)
    samples: list[Sample] = []
    begun = time.monotonic()
    kind = {"redis": RedisServer, "valkey": ValkeyServer}[options.server]
    fsync = DURABLE[options.fsync]
    with (
        tempfile.TemporaryDirectory(prefix="bananas-bench-") as folder,
        kind(appendonly=fsync is not None, appendfsync=fsync or "no") as server,
    ):
        subjects = list(find_subjects(options.only, samples, console))
        wanted = [
            step
            for step in steps(profile, subjects)
            if not options.measure or step.measure in options.measure.split(",")
        ]
        lab = Lab(server, Path(folder), options.bananas_url)
        end = begun + profile.seconds
        samples += run(wanted, lab, end, console)
        about = describe(profile, server, options.fsync, time.monotonic() - begun)
    if options.bananas_url:
        about["bananas_driver"] = options.bananas_url.partition(":")[0]
    report = summarise(samples, about, [described(subject) for subject in subjects])
    for table in tables(report):
        console.print(table)
    write(report, options.out, console)
    for failure in report.failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if report.failures else 0


def check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """A name with a typo would measure nothing, quietly."""
    subjects = {*PEERS, *(name for s in our_subjects() for name in names_of(s))}
    measures = {step.measure for step in steps(QUICK, our_subjects())}
    for given, known in ((options.only, subjects), (options.measure, measures)):
        unknown = {name.strip().lower() for name in (given or "").split(",") if name} - known
        if unknown:
            parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(sorted(known))}")


def names_of(subject: Subject) -> set[str]:
    """How ``--only`` may call it."""
    return {subject.name.lower(), subject.name.split()[0].lower()}


def find_subjects(only: str | None, samples: list[Sample], console: Console) -> Iterator[Subject]:
    """Ours first; a peer that can't be installed is noted as failed."""
    wanted = None if only is None else {name.strip().lower() for name in only.split(",")}
    for subject in our_subjects():
        if wanted is None or names_of(subject) & wanted:
            yield subject
    for name in PEERS:
        if wanted is None or name in wanted:
            try:
                with console.status(f"environment of {name}"):
                    found = peer(name)
            except CannotInstall as error:
                samples.append(Sample(measure="install", subject=name, round=0, failed=str(error)))
            else:
                yield found


def run(wanted: Sequence[Step], lab: Lab, end: float, console: Console) -> Iterator[Sample]:
    """All steps in order; those that only wait, side by side."""
    columns = (
        TextColumn("{task.description}", justify="left"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=len(wanted))
        begun, told = time.monotonic(), ""
        for together, group in groupby(wanted, key=lambda step: step.together):
            batch = list(group)
            if not console.is_terminal and together:
                console.print(f"{time.monotonic() - begun:4.0f} s  {batch[0].measure}")
            if together:
                progress.update(bar, description=f"{batch[0].measure} of {len(batch)} at once")
                with ThreadPoolExecutor(len(batch)) as pool:
                    for sample in pool.map(lambda step: take(step, lab, end), batch):
                        progress.advance(bar)
                        yield sample
                continue
            for step in batch:
                if not console.is_terminal and step.measure != told:  # a log has no moving bar
                    told = step.measure
                    console.print(f"{time.monotonic() - begun:4.0f} s  {told}")
                at = "" if step.x is None else f" at {place(step.x)}"
                progress.update(bar, description=f"{step.measure}{at}: {step.subject}")
                yield take(step, lab, end)
                progress.advance(bar)


def take(step: Step, lab: Lab, end: float) -> Sample:
    """One sample, whatever happens: one subject's failure spoils no other's figures."""
    what: dict[str, Any] = {
        "measure": step.measure,
        "subject": step.subject,
        "round": step.round,
        "x": step.x,
    }
    if time.monotonic() > end:
        return Sample(**what, failed="left out, the time was over")
    try:
        return Sample(**what, figures=step.call(lab))
    except Exception as error:
        return Sample(**what, failed=f"{type(error).__name__}: {error}")


def describe(profile: Profile, server: RedisServer, fsync: str, seconds: float) -> dict[str, Any]:
    """The machine and the run."""
    info = server.info("server")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "profile": profile.name,
        "seconds": round(seconds),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "server": f"{server.name} {info.get('valkey_version') or info['redis_version']}",
        "append_only": fsync,
        "jobs": {
            "Bananas and the simple loop": profile.fast_jobs,
            "tight loop": profile.tight_jobs,
            "peers": profile.peer_jobs,
        },
    }


def described(subject: Subject) -> dict[str, Any]:
    return {
        "name": subject.name,
        "peer": subject.peer,
        "versions": subject.versions,
        "settings": subject.settings,
        "reliable": subject.reliable,
    }


def write(report: Report, folder: Path, console: Console) -> None:
    """The JSON, and the pictures if matplotlib is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    data = msgspec.json.format(msgspec.json.encode(report), indent=1)
    (folder / "bench-redis.json").write_bytes(data + b"\n")
    try:
        from benchmarks.plot import plot

        plot(report, folder / "bench-redis-rates.svg", folder / "bench-redis-scaling.svg")
    except ModuleNotFoundError as error:
        console.print(f"no pictures: {error}")
    console.print(f"written to {folder}")


if __name__ == "__main__":
    raise SystemExit(main())
