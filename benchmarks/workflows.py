"""``python -m benchmarks.workflows [URL…]``: what a node of a workflow costs, by the size of the
workflow; and how long and how much memory a large group takes to submit.

The same number of nodes, in ever larger groups, is submitted and run by a worker in this process.
Each line is a process of its own; CPU time counts, since it is less disturbed than wall time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bananas import Bananas, Task, Workflow, group
from bananas_core.desk import wait_for_end
from bananas_core.embed import run_worker
from bananas_core.workflow.spec import Group

SIZES: Final = (10, 100, 1_000, 10_000, 100_000)
AT_ONCE: Final = 100
"""Workflows that are submitted at the same time."""
LISTED: Final = 1_000
PLACES: Final = ("memory://bench", "memory://bench?form=split", "sqlite")


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.workflows", description=__doc__)
    parser.add_argument("url", nargs="*", default=PLACES)
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(asyncio.run(measure(options.url[0], options.one, options.nodes))))
        return 0
    rows = []
    for place in options.url:
        for size in [size for size in SIZES if size <= options.nodes]:
            with tempfile.TemporaryDirectory(prefix="bananas-bench-") as folder:
                url = f"sqlite:///{folder}/jobs.db" if place == "sqlite" else place
                rows.append({"on": place, **_sample(url, size, options.nodes)})
    Console().print(_table(rows))
    if options.json:
        about = {
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "cores": os.cpu_count(),
            "nodes": options.nodes,
        }
        options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")
    return 0


def _sample(url: str, size: int, nodes: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.workflows", url]
    command += ["--one", str(size), "--nodes", str(nodes)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


async def measure(url: str, size: int, nodes: int) -> dict[str, Any]:
    """Submit ``nodes`` jobs in groups of ``size`` and run them."""
    app = Bananas(url)

    @app.task
    async def work(n: int) -> int:
        return n

    async with app:
        await _run([await group(work.job(n) for n in range(200)).submit()], app)
        memory, begun, before = _memory(), time.perf_counter(), _cpu()
        flows: list[Workflow] = []
        for start in range(0, nodes // size, AT_ONCE):
            some = range(start, min(start + AT_ONCE, nodes // size))
            flows += await asyncio.gather(*(_group(work, size).submit() for _ in some))
        grown = _memory() - memory
        submitted, took = _cpu(), time.perf_counter() - begun
        await _run(flows, app)
        ran = _cpu()
        for flow in flows[:: max(1, len(flows) // 10)]:
            assert [value async for value in flow.results(timeout=10)] == list(range(size))
    return {
        "size": size,
        "submit_us": round((submitted - before) / nodes * 1e6, 1),
        "run_us": round((ran - submitted) / nodes * 1e6, 1),
        "submit_s": round(took, 2),
        "submitter_grew_mib": round(grown / 1024, 1),
    }


def _group(work: Task[..., int], size: int) -> Group:
    """As one would write it: a large one as a generator."""
    members = (work.job(n) for n in range(size))
    return group(members if size > LISTED else list(members))


async def _run(flows: Sequence[Workflow], app: Bananas) -> None:
    """A worker until all have ended."""
    stop = asyncio.Event()
    worker = asyncio.create_task(run_worker(app, concurrency=100, stop=stop))
    for flow in flows:
        await wait_for_end(app, flow.id, 600)
    stop.set()
    await worker


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _memory() -> int:
    """Largest resident size until now, KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _table(rows: list[dict[str, Any]]) -> Table:
    names = ("on", "size", "submit_us", "run_us", "submit_s", "submitter_grew_mib")
    titles = ("on", "nodes a group", "submit, CPU µs", "run, CPU µs", "submit, s", "grew, MiB")
    table = Table(title="what a node of a workflow costs")
    for title in titles:
        table.add_column(title, justify="left" if title == "on" else "right")
    for row in rows:
        table.add_row(*(str(row[name]) for name in names))
    return table


if __name__ == "__main__":
    raise SystemExit(main())
