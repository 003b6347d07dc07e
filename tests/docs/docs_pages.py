"""The documents of this project and what the tests need of their Markdown."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        ROOT / "SECURITY.md",
        *(ROOT / "docs").rglob("*.md"),
    ]
)

_FENCE = re.compile(
    r"(?:<!-- not run: (?P<why>[^\n]+?) -->\n+)?"
    r"^(?P<ticks>```+)(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=ticks)$",
    re.MULTILINE | re.DOTALL,
)
_FILE = re.compile(r"\A# (?P<file>\w+\.py)\n")


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """One fenced block. ``not_run``: the reason given in ``<!-- not run: … -->`` before it."""

    language: str
    code: str
    line: int
    not_run: str | None = None

    @property
    def file(self) -> str | None:
        """The file that a Python block is to be saved as: its first line, ``# name.py``."""
        match = _FILE.match(self.code)
        return match["file"] if match else None


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(text: str) -> list[Block]:
    """All fenced blocks of a document, in order."""
    return [
        Block(
            language=match["language"],
            code=match["code"],
            line=text[: match.start("ticks")].count("\n") + 1,
            not_run=match["why"],
        )
        for match in _FENCE.finditer(text)
    ]


def prose(text: str) -> str:
    """A document without its fenced blocks."""
    return _FENCE.sub("", text)
