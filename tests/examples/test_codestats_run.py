"""The whole program on a small tree, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_small_tree_gives_a_report_and_dead_letters(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name, source in {
        "pkg/__init__.py": "from . import one\n",
        "pkg/one.py": "import other\ndef branchy(a):\n    return 1 if a else 2\n",
        "other.py": "class A:\n    def method(self): pass\n",
        "broken.py": "print 'old'\n",
        ".hidden/x.py": "",
        "site-packages/y.py": "",
    }.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    command = [sys.executable, "-m", "examples.codestats", str(tree), "--processes", "2"]
    database = tmp_path / "codestats.db"
    env = {name: value for name, value in os.environ.items() if not name.startswith("BANANAS_")}
    ran = subprocess.run(
        [*command, "--database", str(database)],
        cwd=ROOT,
        env={**env, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "4 jobs in" in ran.stdout
    assert "3 results, 1 dead letters" in ran.stdout
    assert "pkg.one.branchy" in ran.stdout
    assert "3 files, 6 lines, 2 functions, 1 classes" in ran.stdout
    failed = ran.stdout.split("$ bananas jobs --state failed")[1]
    assert "1 job" in failed
    assert "2/2" in failed
    assert "SyntaxError" in failed
    assert "stopped with exit code 0" in ran.stdout
