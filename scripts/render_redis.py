"""The figures of docs/how-to/redis.md and docs/explanation/where-the-time-goes.md, from the JSON of
``benchmarks.redis_memory`` and ``benchmarks.redis_stages``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from render_bench import BEGIN, END

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "how-to" / "redis.md"
DATA: Final = ROOT / "docs" / "data" / "redis-memory.json"
STAGES_PAGE: Final = ROOT / "docs" / "explanation" / "where-the-time-goes.md"
STAGES: Final = ROOT / "docs" / "data" / "redis-stages.json"


def redis_memory() -> str:
    """The page with its figures replaced by those of the JSON."""
    return _with(PAGE, memory(json.loads(DATA.read_text("utf-8"))))


def redis_stages() -> str:
    """The page with its figures replaced by those of the JSON."""
    return _with(STAGES_PAGE, stages(json.loads(STAGES.read_text("utf-8"))))


def _with(page: Path, lines: Iterator[str]) -> str:
    before, _, rest = page.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    return before + BEGIN + "\n" + "\n".join(lines) + "\n\n" + END + after


def stages(data: dict[str, Any]) -> Iterator[str]:
    """A note on the run and its table."""
    about = data["about"]
    yield (
        f"The least of {about['rounds']} rounds of {about['jobs']:,} jobs in batches of 100, "
        f"Python {about['python']}, {about['cores']} cores, {about['processor']}.\n"
    )
    yield "| stage | µs a job |"
    yield "|---|--:|"
    for name, value in data["stages"].items():
        yield f"| {name} | {value:.2f} |"


def memory(data: dict[str, Any]) -> Iterator[str]:
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
