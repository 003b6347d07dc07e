"""What commands print: JSON lines for programs, tables for people."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDE: Final = 200
"""Columns when the output is no terminal, so that pipes and files get whole ids."""

_STYLES: Final = {
    "completed": "green",
    "failed": "red",
    "quarantined": "magenta",
    "cancelled": "yellow",
    "processing": "cyan",
}


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
            self.console.print(Text(text))

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """A table for people. What jobs brought along is shown as it is, never as markup."""
        table = Table(title=title, title_justify="left", header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(cell(value) for value in row))
        self.console.print(table)

    def facts(self, title: str, rows: Iterable[tuple[str, object]]) -> None:
        """Names and values below each other."""
        table = Table(title=title, title_justify="left", show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(name, cell(value))
        self.console.print(table)


def cell(value: object) -> Text:
    """A value as a cell's text."""
    if value is None:
        return Text("")
    if isinstance(value, datetime):
        return Text(value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S"))
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
