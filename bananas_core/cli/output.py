"""What commands print: JSON lines for programs, tables for people."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDE: Final = 200
"""Columns when the output is no terminal, so that pipes and files get whole ids."""

GAP: Final = 3
"""Spaces between two columns of a table."""
FOLDED: Final = 20
"""Least width of a column whose cells may be folded."""

_STYLES: Final = {
    "completed": "green",
    "failed": "red",
    "quarantined": "magenta",
    "cancelled": "yellow",
    "processing": "cyan",
}


class Column(msgspec.Struct, frozen=True):
    """A column of a table. Where the terminal is too narrow, those of the highest ``rank`` are
    left out first, and those of rank 0 never; ``fold``: its cells may go over several lines."""

    name: str
    rank: int = 0
    fold: bool = False


class Output:
    """Where one command prints to. With ``json`` each value is one object a line on stdout."""

    def __init__(self, *, json: bool) -> None:
        self.json = json
        self.console = Console(
            file=sys.stdout,
            width=None if sys.stdout.isatty() else WIDE,
            highlight=False,
            markup=False,
            emoji=False,
        )

    def line(self, value: object) -> None:
        """One JSON object."""
        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")

    def say(self, text: str) -> None:
        """One line for people; left out with ``json``."""
        if not self.json:
            self.console.print(Text(text), soft_wrap=True)

    def table(
        self, title: str, columns: Sequence[Column], rows: Iterable[Sequence[object]]
    ) -> None:
        """A table for people, without columns that are empty or don't fit. What jobs brought
        along is shown as it is, never as markup."""
        cells = [[cell(value) for value in row] for row in rows]
        self.console.print(Text(title, style="italic"), soft_wrap=True)
        if not cells:
            return
        shown, fits = fitting(columns, cells, self.console.width)
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
        for index in shown:
            column = columns[index]
            table.add_column(column.name, overflow="fold", no_wrap=fits and not column.fold)
        for row in cells:
            table.add_row(*(row[index] for index in shown))
        self.console.print(table)

    def facts(self, title: str, rows: Iterable[tuple[str, object]]) -> None:
        """Names and values below each other."""
        if title:
            self.console.print(Text(title, style="italic"), soft_wrap=True)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(name, cell(value))
        self.console.print(table)


def fitting(
    columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int
) -> tuple[list[int], bool]:
    """Indexes of the columns to show in ``width``, and whether even these fit without folding
    ids and the like."""
    needed: dict[int, int] = {}
    for index, column in enumerate(columns):
        widest = max(row[index].cell_len for row in rows)
        if widest:
            if column.fold:
                widest = min(widest, FOLDED)
            needed[index] = max(widest, len(column.name)) + GAP
    while sum(needed.values()) - GAP > width:
        last = max(needed, key=lambda index: columns[index].rank)
        if not columns[last].rank:
            break
        del needed[last]
    return list(needed), sum(needed.values()) - GAP <= width


def count(number: int, word: str) -> str:
    """``1 job``, ``2 jobs``."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def cell(value: object) -> Text:
    """A value as a cell's text."""
    if value is None:
        return Text("")
    if isinstance(value, datetime):
        return Text(value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ"))
    text = plain(str(value))
    return Text(text, style=_STYLES.get(text, ""))


def plain(text: str) -> str:
    """``text`` without characters that a terminal would obey; line breaks and tabs stay."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode()
        for char in text
    )


def escaped(raw: bytes) -> str:
    """Any bytes as readable ASCII on one line, so that they can be told apart exactly."""
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in raw
    )


def short(text: str | None, length: int = 100) -> str:
    """The first line of a text, cut."""
    first = (text or "").strip().split("\n", 1)[0]
    return first if len(first) <= length else first[: length - 1] + "…"


def seconds_text(value: float | None) -> str:
    """A duration for people."""
    if value is None:
        return ""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 120:
        return f"{value:.1f} s"
    minutes, _ = divmod(int(value), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
