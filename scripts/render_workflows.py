"""The figures of docs/explanation/workflows.md, from the JSON of ``benchmarks.workflows``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from render_bench import BEGIN, END

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "explanation" / "workflows.md"
DATA: Final = ROOT / "docs" / "data" / "workflows.json"


def workflows() -> str:
    """The page with its figures replaced by those of the JSON."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    data = json.loads(DATA.read_text("utf-8"))
    return before + BEGIN + "\n" + "\n".join(figures(data)) + "\n\n" + END + after


def figures(data: dict[str, Any]) -> Iterator[str]:
    """A note on the run and its table."""
    about = data["about"]
    yield (
        f"Measured with {about['nodes']:,} nodes on Python {about['python']}, SQLite "
        f"{about['sqlite']}, {about['cores']} cores.\n"
    )
    yield "| on | nodes a group | submit, µs | run, µs | submit in all, s | submitter grew, MiB |"
    yield "|---|--:|--:|--:|--:|--:|"
    for row in data["rows"]:
        grew = "" if row["on"].startswith("memory") else row["submitter_grew_mib"]
        yield (
            f"| `{row['on']}` | {row['size']:,} | {row['submit_us']} | {row['run_us']} "
            f"| {row['submit_s']} | {grew} |"
        )
