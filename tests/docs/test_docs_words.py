"""The documents describe; they don't praise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docs_pages import PAGES, name_of, prose

PRAISE = re.compile(
    r"\b(amazing|awesome|battle[- ]tested|beautiful|best[- ]in[- ]class|blazing\w*|bulletproof|"
    r"cutting[- ]edge|delightful|effortless\w*|elegant\w*|enterprise[- ]grade|game[- ]chang\w+|"
    r"incredibl[ey]|industry[- ]leading|lightning|magical\w*|next[- ]gen\w*|powerful|"
    r"production[- ]ready|revolutionary|rock[- ]solid|seamless\w*|state[- ]of[- ]the[- ]art|"
    r"super[- ]?fast|unparalleled|world[- ]class)\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_praise(page: Path) -> None:
    found = PRAISE.search(prose(page.read_text("utf-8")))
    assert found is None, f"{found[0]!r}: say what it does instead"
