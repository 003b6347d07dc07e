"""Tasks keep their signature for type checkers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("api.py")


@pytest.mark.timeout(120)
def test_right_calls_pass_and_each_wrong_one_is_an_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context",
            "--cache-dir", str(tmp_path), str(FILE),
        ],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )  # fmt: skip
    found = {
        (int(line), code)
        for line, code in re.findall(rf"{FILE.name}:(\d+): error: .*\[([\w-]+)\]", done.stdout)
    }
    lines = FILE.read_text(encoding="utf-8").splitlines()
    expected = {
        (number, match[1])
        for number, line in enumerate(lines, 1)
        if (match := re.search(r"# E: ([\w-]+)", line))
    }
    assert expected
    assert found == expected, done.stdout + done.stderr
