"""``make bench-sqlite``: interleaved rounds, medians, ratios; a table, and JSON if asked for."""

from __future__ import annotations

import sqlite3

from benchmarks.rounds import options, run

SUBJECTS = {"bare sqlite3 loop": "benchmarks.sqlite.bare", "bananas": "benchmarks.sqlite.ours"}
MEASURES = {
    "sqlite bulk submit": ("submit", 0.40),
    "sqlite drain with results, one worker": ("drain", 0.30),
}


def main() -> int:
    said = options("benchmarks.sqlite", __doc__, 20_000)
    return run(said, SUBJECTS, MEASURES, {"sqlite": sqlite3.sqlite_version})


if __name__ == "__main__":
    raise SystemExit(main())
