"""``python -m examples.codestats [FOLDER]``: see README.md beside this file."""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bananas import Job, JobFailed
from examples.codestats.analyse import ModuleStats, module_name
from examples.codestats.report import build_report, print_report
from examples.codestats.tasks import analyse_file, app
from examples.codestats.worker_process import WorkerProcess, bananas_command

COLLECTORS = 16
"""Results awaited at once."""
SKIPPED = {"site-packages", "dist-packages", "__pycache__", "node_modules"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; the exit code is 0 when every file became a result or a dead letter."""
    parser = argparse.ArgumentParser(prog="codestats", description="Statistics of Python code.")
    parser.add_argument("folder", nargs="?", type=Path, default=None, metavar="FOLDER")
    parser.add_argument("--processes", type=int, default=2, help="worker processes")
    parser.add_argument("--database", type=Path, default=Path(".bananas/codestats.db"))
    options = parser.parse_args(arguments)
    folder = (options.folder or Path(sysconfig.get_path("stdlib"))).resolve()
    if not folder.is_dir():
        parser.error(f"{folder} is no folder")
    url = fresh_database(options.database)
    os.environ["BANANAS_BROKER_URL"] = url
    log = options.database.with_suffix(".worker.log")
    console = Console()
    worker = WorkerProcess(
        "examples.codestats.tasks:app", url, processes=options.processes, log=log
    )
    try:
        asyncio.run(run(folder, worker, console))
        show_jobs(console, "--limit", "5")
        show_jobs(console, "--state", "failed", "--limit", "20")
    finally:
        code = worker.stop()
    console.print(f"worker {worker.pid} stopped with exit code {code}")
    return code


async def run(folder: Path, worker: WorkerProcess, console: Console) -> None:
    """Submit one job a file, collect the results while they come, print the report."""
    files = sorted(python_files(folder))
    await worker.ready()
    console.print(f"{len(files):,} files in {folder}; worker {worker.pid} is ready", soft_wrap=True)
    begun = time.perf_counter()
    async with app:
        jobs = await analyse_file.submit_many(
            [{"path": str(f), "module": module_name(f.relative_to(folder))} for f in files]
        )
        submitted = time.perf_counter() - begun
        stats, dead = await collect(jobs, console)
    took = time.perf_counter() - begun
    print_report(build_report(stats), console)
    console.print(
        f"{len(jobs):,} jobs in {took:.1f} s ({len(jobs) / took:,.0f} a second, submitted in "
        f"{submitted:.2f} s): {len(stats):,} results, {dead} dead letters",
        soft_wrap=True,
    )


async def collect(
    jobs: Sequence[Job[ModuleStats]], console: Console
) -> tuple[list[ModuleStats], int]:
    """Wait for all jobs, with a bar that shows how far they are; results and failures."""
    stats: list[ModuleStats] = []
    dead = 0
    waiting = iter(jobs)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        bar = progress.add_task("analysing", total=len(jobs))

        async def collector() -> None:
            nonlocal dead
            for job in waiting:
                try:
                    stats.append(await job.result())
                except JobFailed:
                    dead += 1
                progress.update(bar, advance=1, description=f"analysing ({dead} failed)")

        await asyncio.gather(*(collector() for _ in range(COLLECTORS)))
    return stats, dead


def python_files(folder: Path) -> Iterator[Path]:
    """All Python files of a tree but installed packages and hidden folders."""
    for root, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if f not in SKIPPED and not f.startswith(".")]
        yield from (Path(root, file) for file in files if file.endswith(".py"))


def fresh_database(path: Path) -> str:
    """The URL of a new database at ``path``; what an earlier run left there is removed."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob(f"{path.name}*"):
        old.unlink()
    return f"sqlite:///{path.as_posix()}"


def show_jobs(console: Console, *options: str) -> None:
    """The command line's view of the same jobs."""
    console.print(f"\n$ bananas jobs {' '.join(options)}", highlight=False)
    command = [bananas_command(), "jobs", "--broker-url", os.environ["BANANAS_BROKER_URL"]]
    sys.stdout.flush()
    subprocess.run([*command, *options], check=True)


if __name__ == "__main__":
    sys.exit(main())
