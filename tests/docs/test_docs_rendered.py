"""The rendered reference pages say what the code says."""

from __future__ import annotations

import subprocess
import sys

from docs_pages import ROOT


def test_rendered_pages_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/render_docs.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
