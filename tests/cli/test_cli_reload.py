"""The worker starts anew when code changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bananas_core.cli.reload import changes, snapshot

WITHIN = 20.0
PROGRAM = """
import sys
from pathlib import Path
from bananas_core.cli.reload import Reloader
child = "import module; open('lives.txt', 'a').write(module.VALUE); import time; time.sleep(60)"
sys.exit(Reloader([sys.executable, "-c", child], Path.cwd()).run())
"""


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_snapshot_sees_python_files_but_no_hidden_or_generated_ones(tmp_path: Path) -> None:
    for name in ("a.py", "pkg/b.py", ".venv/c.py", "__pycache__/d.py", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere.py")
    assert {Path(p).name for p in snapshot(tmp_path)} == {"a.py", "b.py"}


def test_changes_tells_of_new_changed_and_deleted_files(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("")
    end = threading.Event()
    told: list[int] = []

    found = changes(tmp_path, end)

    def watch() -> None:
        for _ in found:
            told.append(1)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        for number, change in enumerate(
            (
                lambda: (tmp_path / "b.py").write_text("1"),
                lambda: os.utime(tmp_path / "a.py", (1, 1)),
                lambda: (tmp_path / "b.py").unlink(),
            )
        ):
            change()
            eventually(lambda least=number: len(told) > least)  # type: ignore[misc]
    finally:
        end.set()
        thread.join(WITHIN)
    assert not thread.is_alive()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_change_starts_the_command_anew_also_after_an_error(
    tmp_path: Path, number: signal.Signals
) -> None:
    module, lives = tmp_path / "module.py", tmp_path / "lives.txt"
    lives.touch()
    module.write_text("VALUE = 'a'")
    said = tmp_path / "stderr.txt"
    with said.open("wb") as stderr:
        parent = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=tmp_path, stderr=stderr)
    try:
        eventually(lambda: lives.read_text() == "a")
        module.write_text("VALUE = 'bb'")
        eventually(lambda: lives.read_text() == "abb")
        module.write_text("VALUE = ")
        eventually(lambda: "waiting for a change" in said.read_text())
        module.write_text("VALUE = 'ccc'")
        eventually(lambda: lives.read_text().endswith("ccc"))
        parent.send_signal(number)
        assert parent.wait(WITHIN) == -signal.SIGTERM % 256
        assert "SyntaxError" in said.read_text()
    finally:
        parent.kill()
        parent.wait(WITHIN)
