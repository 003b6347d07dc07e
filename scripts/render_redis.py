"""The figures of docs/how-to/redis.md, from the JSON of ``benchmarks.redis_memory``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from render_bench import BEGIN, END

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "how-to" / "redis.md"
DATA: Final = ROOT / "docs" / "data" / "redis-memory.json"


def redis_memory() -> str:
    """The page with its figures replaced by those of the JSON."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    data = json.loads(DATA.read_text("utf-8"))
    return before + BEGIN + "\n" + "\n".join(figures(data)) + "\n\n" + END + after


def figures(data: dict[str, Any]) -> Iterator[str]:
    """A note on the run and its table."""
    about, rows = data["about"], data["rows"]
    yield (
        f"Measured with {about['jobs']:,} jobs whose messages have {rows[0]['message_bytes']} "
        "bytes, and whose results are numbers.\n"
    )
    yield "| server | bytes a pending job | bytes a kept record | of these, events |"
    yield "|---|--:|--:|--:|"
    for row in rows:
        yield (
            f"| {row['server'].capitalize()} {row['version']}, {row['allocator']} | "
            f"{row['pending']} | {row['kept']} | {row['events']} |"
        )
