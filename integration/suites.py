"""``python -m integration.suites [PAIR…] [--level core] [--write]``: the shipped conformance suite
by URL, as a user would run it, at level ``extended``. There it really waits, so the brokers are
tested at the same time. ``--write`` keeps the reports in ``docs/data``; the driver matrix and the
badges are drawn from them."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from integration.servers import (
    PostgresServer,
    RabbitServer,
    RedisServer,
    Server,
    ServerMissing,
    ValkeyServer,
)

PROCESSES: Final = 8
"""At once, for each pair. They hardly do anything but wait; but many that start at once take a
small machine so long that what has a time limit fails."""
WITHIN: Final = 400.0
DATA: Final = Path(__file__).resolve().parents[1] / "docs" / "data"
SERVERS: Final[dict[str, Callable[[], Server]]] = {
    "redis": lambda: RedisServer(appendonly=False),
    "valkey": lambda: ValkeyServer(appendonly=False),
    # Each of the processes has some apps with a few connections open.
    "postgres": lambda: PostgresServer(settings={"max_connections": "400"}),
    "rabbitmq": RabbitServer,
}
FILES: Final = {
    "memory": "memory://suite",
    "memory-split": "memory://suite?form=split",
    "sqlite": "sqlite:///{folder}/jobs.db",
}
"""URLs of what needs no server; ``{folder}`` is one that is removed."""
PAIRS: Final = (
    "memory",
    "memory-split",
    "sqlite",
    "redis",
    "valkey",
    "postgres",
    "rabbitmq+redis",
    "rabbitmq+postgres",
)
"""All that the matrix shows. A server that keeps no records is named with one that does:
``transport+ledger``."""
EACH_TIME: Final = ("sqlite", "redis", "postgres", "rabbitmq+redis", "rabbitmq+postgres")
"""What runs if nothing is named. The others differ from these by their server alone, or are tested
on a clock that is moved; with ``--write`` all run."""
TITLES: Final = {
    "memory": "memory",
    "memory-split": "memory (split)",
    "sqlite": "SQLite",
    "redis": "Redis",
    "valkey": "Valkey",
    "postgres": "PostgreSQL",
    "rabbitmq": "RabbitMQ",
}
"""What reports call them."""


def main(arguments: list[str]) -> int:
    """Run some; the number of pairs on which it failed."""
    parser = argparse.ArgumentParser(prog="integration.suites", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(PAIRS)}")
    parser.add_argument("--level", choices=("core", "extended", "stress"), default="extended")
    parser.add_argument("--processes", type=int, default=PROCESSES, help="for each pair")
    parser.add_argument("--write", action="store_true", help="keep the reports in docs/data")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in PAIRS]:
        parser.error(f"no pair {unknown[0]!r}")
    names = options.names or (PAIRS if options.write else EACH_TIME)
    begun, failed = time.monotonic(), 0
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bananas-suites-"))
        urls: dict[str, str] = {}
        there: list[str] = []
        for pair in names:  # all servers first: beside the suites their start takes a minute
            try:
                for part in pair.split("+"):
                    if part not in urls:
                        urls[part] = url_of(part, folder, stack)
            except ServerMissing as error:
                if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
                    raise
                print(f"{pair} is left out: {error}")
            else:
                there.append(pair)
        running: dict[str, subprocess.Popen[str]] = {}
        for pair in there:
            report = DATA / f"conformance-{pair}.json" if options.write else None
            said = command(pair, urls, options.level, options.processes, report)
            running[pair] = stack.enter_context(start(said))
        for name, process in running.items():
            try:
                said_last = process.communicate(timeout=begun + WITHIN - time.monotonic())[0]
            except subprocess.TimeoutExpired:
                process.terminate()  # then it ends its own workers
                said_last = process.communicate()[0] + f"not done after {WITHIN:g} s\n"
            lines = said_last.strip().splitlines() or ["it said nothing"]
            print(f"{name} after {time.monotonic() - begun:.0f} s: {lines[-1]}", flush=True)
            if process.returncode:
                failed += 1
                print(said_last, flush=True)
    return failed


def url_of(name: str, folder: str, stack: ExitStack) -> str:
    """Of a file, or of a server that is started for it."""
    if name in FILES:
        return FILES[name].format(folder=folder)
    return stack.enter_context(SERVERS[name]()).url


def command(
    pair: str, urls: dict[str, str], level: str, processes: int, report: Path | None
) -> list[str]:
    """The command line of the suite on one pair."""
    transport, _, ledger = pair.partition("+")
    words = [sys.executable, "-m", "bananas_core.testing.conformance", urls[transport], "-q"]
    words += ["--tb=short", "--bananas-level", level, "-n", str(processes), "--dist", "worksteal"]
    words += ["--bananas-name", " + ".join(TITLES[part] for part in pair.split("+"))]
    if ledger:
        words += ["--bananas-result-backend-url", urls[ledger]]
    if report is not None:
        words += ["--bananas-report", str(report)]
    return words


def start(command: list[str]) -> subprocess.Popen[str]:
    """The suite on one pair, in the background."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
