"""``make bench-postgres``: interleaved rounds, medians, ratios; a table, and JSON if asked for.

All run on one server with its defaults (each commit is synced), each in a database of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psycopg
from rich.console import Console

from benchmarks.sqlite.measure import Summary, compare, table
from integration.servers import PostgresServer

SUBJECTS = {"bare asyncpg loop": "benchmarks.postgres.bare", "bananas": "benchmarks.postgres.ours"}
MEASURES = {
    "postgres bulk submit": ("submit", 0.35),
    "postgres drain with results, one worker": ("drain", 0.35),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.postgres", description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, list[Summary]] = {}
    short = []
    with PostgresServer(fsync=True, settings={"shared_buffers": "128MB"}) as server:

        @contextmanager
        def database() -> Iterator[str]:
            name = f"bench_{uuid.uuid4().hex[:12]}"
            with psycopg.connect(server.url, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
                yield f"{server.url.rpartition('/')[0]}/{name}"
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[call-overload]
                connection.execute("CHECKPOINT")

        for title, (what, target) in MEASURES.items():
            found[title] = compare(what, options.jobs, options.rounds, SUBJECTS, database)
            Console().print(table(title, found[title], target))
            ratio = found[title][-1].ratio
            if ratio is not None and ratio < target:
                short.append(f"{title}: {ratio:.2f} of the bare loop, target {target:.2f}")
        binary = server.find_binary()
    if options.json:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
        about = {
            "python": platform.python_version(),
            "server": said.stdout.strip(),
            "cores": os.cpu_count(),
            "jobs": options.jobs,
            "rounds": options.rounds,
        }
        data = {"about": about, "measures": msgspec.to_builtins(found)}
        options.json.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")
    for line in short:
        print(f"below target: {line}", file=sys.stderr)
    return 1 if short else 0


if __name__ == "__main__":
    raise SystemExit(main())
