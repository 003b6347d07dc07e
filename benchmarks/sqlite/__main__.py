"""``make bench-sqlite``: interleaved rounds, medians, ratios; a table, and JSON if asked for."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
from pathlib import Path

import msgspec
from rich.console import Console

from benchmarks.sqlite.measure import Summary, compare, table

SQLITE = {"bare sqlite3 loop": "benchmarks.sqlite.bare", "bananas": "benchmarks.sqlite.ours"}
MEASURES = {
    "sqlite bulk submit": ("submit", SQLITE, 0.40),
    "sqlite drain with results, one worker": ("drain", SQLITE, 0.30),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, list[Summary]] = {}
    short = []
    for title, (what, subjects, target) in MEASURES.items():
        found[title] = compare(what, options.jobs, options.rounds, subjects)
        Console().print(table(title, found[title], target))
        ratio = found[title][-1].ratio
        if ratio is not None and ratio < target:
            short.append(f"{title}: {ratio:.2f} of the bare loop, target {target:.2f}")
    if options.json:
        about = {
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
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
