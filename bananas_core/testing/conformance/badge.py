"""A badge for a README, drawn from a report: how many promises were kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape

from bananas_core.testing.conformance.report import Document, Promise

LABEL: Final = "Bananas conformance"
WIDTH: Final = 6.6
"""Of a character, on average, in units of the picture."""
PAD: Final = 6
GOOD: Final = "#2b7a3f"
BAD: Final = "#b3261e"

PICTURE: Final = """<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" \
role="img" aria-label="{label}: {text}">
<title>{label}: {text}</title>
<rect width="{left}" height="20" fill="#444"/>
<rect x="{left}" width="{right}" height="20" fill="{colour}"/>
<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
<text x="{left_middle:g}" y="14">{label}</text>
<text x="{right_middle:g}" y="14">{text}</text>
</g>
</svg>
"""


def badge(document: Document) -> str:
    """The picture as SVG text; red when a promise was broken."""
    text = f"{document.subject}: {score(document.promises)}"
    left, right = (round(len(part) * WIDTH) + 2 * PAD for part in (LABEL, text))
    broken = any(promise.outcome == "failed" for promise in document.promises)
    return PICTURE.format(
        width=left + right,
        left=left,
        right=right,
        left_middle=left / 2,
        right_middle=left + right / 2,
        label=LABEL,
        text=escape(text, {'"': "&quot;"}),
        colour=BAD if broken else GOOD,
    )


def score(promises: Sequence[Promise]) -> str:
    """Kept ones of those that were tried; what was skipped is in neither number."""
    tried = [promise for promise in promises if promise.outcome != "skipped"]
    kept = sum(promise.outcome == "passed" for promise in tried)
    return f"{kept}/{len(tried)}"
