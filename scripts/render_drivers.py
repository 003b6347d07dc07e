"""docs/reference/drivers.md, the matrix of drivers and promises, and its badges; see
render_docs.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from bananas_core.testing.conformance.badge import badge, score
from bananas_core.testing.conformance.marks import CONTRACTS
from bananas_core.testing.conformance.report import Document, Promise
from bananas_core.testing.conformance.subject import Side

DATA = Path(__file__).resolve().parents[1] / "docs" / "data"
ORDER = ("memory", "memory-split", "sqlite", "redis", "valkey")
"""The first columns; others follow by name."""
FEWEST, WORDS = 4, 10
"""Of a promise's text, in a row."""

HEAD = """# Drivers

What each driver keeps of the contracts, as the [conformance suite](../how-to/write-a-driver.md)
found it when it was run on the pair by its URL:

- **yes**: tested, and the driver keeps it natively.
- **core**: tested, and it means the same, but the core makes up for what the driver declares not
  to have; how is said below the table.
- **not here**: not tested in this run, because of what the driver declares or because a test by
  URL can neither move clocks nor restart the broker; the reasons are below the table. The tests of
  this project's drivers move the clock as well, and need to leave out fewer.
- **FAILED**: broken.

Only what has a column, and a version in the first table, was run. **Untested**:
{untested}.

"""

UNTESTED = (
    "Redis 7.2 and later",
    "Valkey 8",
    "managed Redis and Valkey services",
    "RabbitMQ 4.x",
    "PostgreSQL of another version than 15",
)
"""What the drivers are written for, or may be tried with, and nobody has run the suite on."""


def reports() -> dict[str, Document]:
    """The kept reports by pair, in the order of the columns."""
    names = {path.stem.removeprefix("conformance-"): path for path in DATA.glob("conformance-*")}
    known = [name for name in ORDER if name in names]
    order = known + sorted(names.keys() - set(known))
    return {n: msgspec.json.decode(names[n].read_bytes(), type=Document) for n in order}


def drivers(promises: list[tuple[str, str]]) -> str:
    """The page. ``promises``: (id, text) of all there are, in order."""
    found = reports()
    text = HEAD.format(untested=", ".join(UNTESTED))
    text += "## What was run\n\n" + run_on(found) + "\n## What the drivers declare\n\n"
    text += declared(found)
    for letter, (_, title) in CONTRACTS.items():
        text += f"\n## {title}\n\n" + matrix(found, [p for p in promises if p[0][0] == letter])
    return text


def run_on(found: dict[str, Document]) -> str:
    """A row for each pair: versions, level, and how many promises were kept."""
    text = "| pair | suite, level | client | server | Python | promises kept |\n"
    text += "|---|---|---|---|---|---|\n"
    for name, report in found.items():
        client, server = (versions(report, key) for key in ("client", "server"))
        image = f"![{report.subject}](../data/badge-{name}.svg)"
        text += f"| {report.subject} | {report.suite}, {report.level} | {client} | {server} | "
        text += f"{report.python} | {score(report.promises)} {image} |\n"
    return text


def versions(report: Document, key: str) -> str:
    """Of both sides, once where they are the same."""
    sides = [side for side in (report.transport, report.ledger) if side is not None]
    said = [text for side in sides if (text := getattr(side, key))]
    return "; ".join(dict.fromkeys(said)) or "in the process"


def declared(found: dict[str, Document]) -> str:
    """The capabilities of both sides: names of the contracts' fields, values of the drivers."""
    text = header(found, "capability", "of")
    for kind in ("transport", "ledger"):
        sides = [getattr(report, kind) for report in found.values()]
        for name in dict.fromkeys(key for side in sides if side for key in side.capabilities):
            text += f"| `{name}` | {kind} | " + " | ".join(value(s, name) for s in sides) + " |\n"
    return text


def value(side: Side | None, name: str) -> str:
    """One declared value for people."""
    if side is None or name not in side.capabilities:
        return "unknown"
    found = side.capabilities[name]
    if isinstance(found, bool):
        return "yes" if found else "no"
    if isinstance(found, list):
        return ", ".join(found) or "none"
    return f"{found:g}" if isinstance(found, float) else str(found)


def matrix(found: dict[str, Document], rows: list[tuple[str, str]]) -> str:
    """The promises of one contract by pair; below it, how and why."""
    text = header(found, "id", "promise")
    notes: dict[str, dict[str, list[str]]] = {}
    for number, words in rows:
        text += f"| {number} | {beginning(words)} | "
        for report in found.values():
            promise = next((p for p in report.promises if p.promise == number), None)
            text += f"{outcome(promise)} | "
            for note in notes_of(promise):
                notes.setdefault(note, {}).setdefault(report.subject, []).append(number)
        text = text.rstrip() + "\n"
    lines = [f"- {note}: " + everywhere(of, len(found)) for note, of in sorted(notes.items())]
    return text + ("\n" + "\n".join(lines) + "\n" if lines else "")


def everywhere(of: dict[str, list[str]], pairs: int) -> str:
    """Which promises, by pair; once, where that is the same on all."""
    first = next(iter(of.values()))
    if len(of) == pairs and all(numbers == first for numbers in of.values()):
        return f"{', '.join(first)} on all"
    return "; ".join(f"{', '.join(numbers)} on {who}" for who, numbers in of.items())


def header(found: dict[str, Document], *first: str) -> str:
    names = [*first, *(report.subject for report in found.values())]
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}\n"


def outcome(promise: Promise | None) -> str:
    """A cell of the matrix."""
    if promise is None:
        return "not run"
    if promise.outcome == "skipped":
        return "not here"
    if promise.outcome == "failed":
        return "**FAILED**"
    return "core" if promise.emulated else "yes"


def notes_of(promise: Promise | None) -> set[str]:
    """How it is emulated, or why nothing of it was tested."""
    if promise is None:
        return set()
    if promise.outcome == "skipped":
        reasons = {test.reason.replace("<", "&lt;") for test in promise.tests}
        return {f"*not here*: {reason}" for reason in reasons}
    return {f"*core*: {promise.emulated}"} if promise.emulated else set()


def beginning(text: str) -> str:
    """The first words of a promise, up to the end of its first sentence unless that is short."""
    plain = " ".join(text.split()).replace("``", "`").replace("|", "\\|")
    sentence = re.split(r"[.;](?: |$)", plain)[0]
    words = (sentence if len(sentence.split()) >= FEWEST else plain).split()
    short = " ".join(words[:WORDS])
    if short.count("`") % 2:
        short += "`"
    return short + (" …" if len(words) > WORDS else "")


def badges() -> dict[str, Callable[[], str]]:
    """File names, as seen from docs/reference, and what draws them."""
    return {
        f"../data/badge-{name}.svg": lambda report=report: badge(report)
        for name, report in reports().items()
    }
