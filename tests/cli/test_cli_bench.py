"""The command that measures a broker."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bananas import Bananas
from bananas_brokers.memory.results import FusedResultBackend
from bananas_brokers.memory.transport import FusedTransport
from bananas_core.cli import bench_run
from bananas_core.cli.bench_run import Bench
from bananas_core.errors import BananasError

Cli = Callable[..., Any]
PARTS = ["submit", "bulk", "drain", "latency"]


def rows_of(path: Path) -> dict[str, int]:
    """How many rows each table has, but for those that belong to the file."""
    with sqlite3.connect(path) as connection:
        tables = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
        counts = {
            name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
            for (name,) in tables
        }
    return {name: rows for name, rows in counts.items() if rows and name not in FILE}


FILE = ("meta", "counters")


def test_it_measures_all_parts_and_leaves_nothing(cli: Cli, folder: Path) -> None:
    ran = cli("bench", "sqlite:///bench.db", "--seconds", "1", "--json")
    assert ran.code == 0, ran.stderr
    assert [line["measure"] for line in ran.lines] == PARTS
    assert all(line["rate"] > 0 and line["jobs"] >= 2 for line in ran.lines)
    submit, bulk, drain, latency = ran.lines
    assert drain["jobs"] <= submit["jobs"] + bulk["jobs"]
    for line in (submit, latency):
        assert 0 < line["p50"] <= line["p99"]
    assert rows_of(folder / "bench.db") == {}


def test_what_others_have_there_stays(cli: Cli, folder: Path) -> None:
    assert cli("submit", "shop:app", "add", "--payload", '{"x": 1}').code == 0
    before = rows_of(folder / "jobs.db")
    assert before["jobs"] == 1
    assert cli("bench", f"sqlite:///{folder}/jobs.db", "--seconds", "1").code == 0
    assert rows_of(folder / "jobs.db") == before


def test_the_table_names_what_was_measured(cli: Cli) -> None:
    ran = cli("bench", "memory://bench", "--seconds", "1")
    assert ran.code == 0, ran.stderr
    for words in ("one after another", "in bulk", "drain with results", "idle worker", "µs"):
        assert words in ran.stdout


@pytest.mark.parametrize("url", ["nonsense", "carrier-pigeon://x", "amqp://x"])
def test_an_impossible_url_exits_2(cli: Cli, url: str) -> None:
    assert cli("bench", url, "--seconds", "1").code == 2


def test_an_interrupted_run_cleans_up_too(folder: Path) -> None:
    command = [sys.executable, "-m", "bananas_core.cli", "bench", "sqlite:///bench.db"]
    process = subprocess.Popen(
        [*command, "--seconds", "20", "--json"],
        stdout=subprocess.PIPE,
        cwd=folder,
        # Whoever starts the tests in the background of a shell has it ignored, and all below too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()  # the first part is over, the second one runs
        assert rows_of(folder / "bench.db")["jobs"] > 0
        os.kill(process.pid, signal.SIGINT)
        process.wait(20)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode not in (0, None)
    assert rows_of(folder / "bench.db") == {}


def test_a_driver_that_can_t_remove_a_namespace_is_named(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(FusedTransport, "erase")
    monkeypatch.delattr(FusedResultBackend, "erase")
    ran = cli("bench", "memory://bench", "--seconds", "1", "--json")
    assert ran.code == 0
    assert "stay at the broker" in ran.stderr


async def test_a_worker_that_starts_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_run, "STALL", 0.2)
    async with (
        Bananas("memory://stall", namespace="one") as producer,
        Bananas("memory://stall", namespace="another") as consumer,
    ):
        bench = Bench(producer, consumer, seconds=0.4, concurrency=1, tell=lambda *_: None)
        with pytest.raises(BananasError, match="started no job"):
            async with asyncio.timeout(20):
                assert [figure async for figure in bench.run()]
