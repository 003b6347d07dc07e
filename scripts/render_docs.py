"""Render the reference pages that are lists of what the code says.

    python scripts/render_docs.py           writes docs/reference/{guarantees,hooks,settings,cli}.md
    python scripts/render_docs.py --check   exits 1 and names the pages that are stale

The words come from docstrings, field descriptions and help texts: change them there.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
CORE = ROOT / "bananas_core"
NOTE = "<!-- Rendered by scripts/render_docs.py from {}; don't edit this page. -->\n\n"
PROMISE = re.compile(r"^([TL]\d+)\. ", re.MULTILINE)

GUARANTEES = """# Guarantees

What you may count on, in plain words, then every promise of the two contracts by its number.

- **A job is not lost.** Once `submit` has returned, the job ends as completed, failed, cancelled
  or quarantined, as long as the ledger keeps what it confirmed.
- **A body runs at least once.** If a worker dies after the work and before its outcome is
  recorded, the work is done again. Make bodies safe to repeat: `current_job().id` is the same on
  every run of a job, so it can serve as an idempotency key.
- **An outcome is recorded once.** A worker whose claim was taken away can still be running, but
  what it reports is refused.
- **A crash is noticed.** A claim lasts {ttl:g} s unless it is renewed. A job whose process died is
  run elsewhere; when {deaths} processes have died running it, it is quarantined instead.
- **An outage ends nothing.** When the ledger could not be reached for more than {gap:g} s, no claim
  ends for another {ttl:g} s.

How this is done: [at least once, and the fence](../explanation/at-least-once-and-the-fence.md).
What each capability of a driver means is in the contracts themselves,
`bananas_core/transport.py` and `bananas_core/results.py`.

"""


def main(arguments: list[str]) -> int:
    """Write all pages, or compare them; the number of stale ones decides the exit status."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    stale = []
    for name, render in PAGES.items():
        path = REFERENCE / name
        text = render()
        if not path.exists() or path.read_text("utf-8") != text:
            stale.append(name)
            if not arguments:
                path.write_text(text, "utf-8")
    if arguments and stale:
        print(f"stale: {', '.join(stale)}; run python scripts/render_docs.py", file=sys.stderr)
        return 1
    return 0


def guarantees() -> str:
    """The promises of both contracts, by number."""
    from bananas_core.state import CLAIM_TTL, DUE_GAP, MAX_DEATHS

    text = NOTE.format("bananas_core/transport.py and bananas_core/results.py")
    text += GUARANTEES.format(ttl=CLAIM_TTL, gap=DUE_GAP, deaths=MAX_DEATHS)
    for title, file in (("Transport", "transport.py"), ("ResultBackend", "results.py")):
        text += f"## {title}\n\n| id | call | promise |\n|---|---|---|\n"
        for call, number, promise in promises(CORE / file, title):
            text += f"| {number} | {call} | {cell(promise)} |\n"
        text += "\n"
    return text.rstrip("\n") + "\n"


def promises(path: Path, contract: str) -> Iterator[tuple[str, str, str]]:
    """(call, id, text) of each promise in a contract's docstrings, in the order of the file."""
    tree = ast.parse(path.read_text("utf-8"))
    yield from numbered("every call", ast.get_docstring(tree))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == contract:
            for method in node.body:
                if isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    yield from numbered(f"`{method.name}`", ast.get_docstring(method))


def numbered(call: str, docstring: str | None) -> Iterator[tuple[str, str, str]]:
    """The paragraphs of a docstring that begin with a promise's id."""
    parts = PROMISE.split(docstring or "")
    for number, text in zip(parts[1::2], parts[2::2], strict=True):
        yield call, number, text.split("\n\n")[0]


def cell(text: str) -> str:
    """Docstring text on one line of a Markdown table."""
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


PAGES: dict[str, Callable[[], str]] = {
    "guarantees.md": guarantees,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
