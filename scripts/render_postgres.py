"""The figures of docs/how-to/postgres.md, from the JSON of ``benchmarks.postgres``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from render_bench import BEGIN, END

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "how-to" / "postgres.md"
DATA: Final = ROOT / "docs" / "data" / "bench-postgres.json"


def postgres() -> str:
    """The page with its figures replaced by those of the JSON."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    data = json.loads(DATA.read_text("utf-8"))
    return before + BEGIN + "\n" + "\n".join(figures(data)) + "\n\n" + END + after


def figures(data: dict[str, Any]) -> Iterator[str]:
    """A note on the run and its table."""
    about = data["about"]
    yield (
        f"Medians of {about['rounds']} rounds of {about['jobs']:,} jobs on Python "
        f"{about['python']}, {about['server']}, {about['cores']} cores for all.\n"
    )
    yield "| measure | subject | jobs/s | range | CPU µs/job of the client | share of the loop |"
    yield "|---|---|--:|--:|--:|--:|"
    for measure, rows in data["measures"].items():
        for row in rows:
            share = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
            yield (
                f"| {measure} | {row['name']} | {row['rate']:,.0f} | "
                f"{row['low']:,.0f} – {row['high']:,.0f} | {row['cpu_us']:.1f} | {share} |"
            )
