"""Tables at the widths that terminals have."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bananas_core.cli.output import Column, Output

COLUMNS = (
    Column("id"),
    Column("host", rank=2),
    Column("since", rank=1),
    Column("note", fold=True),
)
ID = "0123456789abcdef0123456789abcdef"


def printed(width: int, *rows: tuple[object, ...]) -> str:
    """A table on a terminal of this width."""
    out = Output(json=False)
    out.console = Console(file=io.StringIO(), width=width)
    out.table("things", COLUMNS, rows)
    text = out.console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= width for line in text.splitlines()), text
    return str(text)


def test_columns_of_the_highest_rank_are_left_out_first() -> None:
    row = (ID, "a-host", "2026-11-24", "word " * 10)
    wide, middle, narrow = (printed(width, row) for width in (90, 72, 60))
    assert all(name in wide for name in ("id", "host", "since", "note"))
    assert "host" not in middle
    assert "since" in middle
    assert "since" not in narrow
    assert "note" in narrow
    assert all(ID in text for text in (wide, middle, narrow))


def test_columns_without_values_are_left_out() -> None:
    text = printed(200, ("a", "", None, ""), ("b", "", None, ""))
    assert "host" not in text
    assert "note" not in text


def test_nothing_is_a_title_only() -> None:
    assert printed(80) == "things\n"


@pytest.mark.parametrize("width", [20, 30])
def test_an_id_is_never_cut(width: int) -> None:
    text = printed(width, (ID, "host", "since", ""))
    assert ID in "".join(text.split())
