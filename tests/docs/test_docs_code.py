"""The code in the documents runs as a reader would run it.

Each document is followed from top to bottom in a folder of its own, with the default SQLite
broker. A ```python block that begins with ``# name.py`` is saved and imported; another one is run
as a script. In a ```console block each ``$ bananas …``, ``$ python …`` and ``$ pytest …`` is run
and must exit with 0; a worker goes on in the background until another one is started or the
document ends. The output shown must be the output, where ``…`` stands for anything. A block after
``<!-- not run: why -->`` is left out.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs_pages import PAGES, Block, blocks, name_of

SCRIPTS = Path(sys.executable).parent
SECONDS = 30.0
"""Until a command that hangs fails the test."""


def runnable(page: Path) -> list[Block]:
    kinds = ("python", "console")
    return [b for b in blocks(page.read_text("utf-8")) if b.language in kinds and not b.not_run]


class Reader:
    """Somebody who follows a document in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workers: list[subprocess.Popen[str]] = []
        self._logs = 0
        self._env = {k: v for k, v in os.environ.items() if not k.startswith("BANANAS_")}
        self._env |= {
            "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": "",
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }

    def follow(self, block: Block) -> None:
        if block.language == "console":
            for command, shown in commands(block.code):
                self.type(command, shown)
        elif block.file is not None:
            (self.folder / block.file).write_text(block.code, "utf-8")
            self.run([sys.executable, "-c", f"import {block.file.removesuffix('.py')}"])
        else:
            script = self.folder / "snippet.py"
            script.write_text(block.code, "utf-8")
            self.run([sys.executable, script.name])

    def type(self, command: str, shown: str) -> None:
        words = shlex.split(command, comments=True)
        if words[0] not in ("bananas", "python", "pytest"):
            return
        words[0] = str(SCRIPTS / words[0])
        if words[1:2] == ["worker"]:
            self.stop_workers()
            self.start_worker(words)
            return
        output = self.run(words)
        if shown:
            pattern = re.escape(shown.strip()).replace("…", ".*?")
            assert re.fullmatch(pattern, output.strip(), re.DOTALL), (
                f"$ {command}\nprinted\n{output}\nand not\n{shown}"
            )

    def run(self, words: list[str]) -> str:
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start_worker(self, words: list[str]) -> None:
        self._logs += 1
        log = self.folder / f"worker-{self._logs}.log"
        with log.open("w") as file:
            worker = subprocess.Popen(
                words,
                cwd=self.folder,
                env=self._env,
                stdout=subprocess.DEVNULL,
                stderr=file,
                text=True,
                start_new_session=True,
            )
        self.workers.append(worker)
        deadline = time.monotonic() + SECONDS
        while "ready" not in log.read_text():
            assert worker.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)

    def stop_workers(self) -> None:
        while self.workers:
            worker = self.workers.pop()
            worker.send_signal(signal.SIGTERM)
            try:
                assert worker.wait(SECONDS) == 0
            finally:
                if worker.poll() is None:
                    os.killpg(worker.pid, signal.SIGKILL)
                    worker.wait()


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Each ``$ command`` of a console block, and the output that is shown below it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.split("\n")
        command = lines.pop(0)
        while command.endswith("\\"):
            command = command[:-1] + lines.pop(0)
        yield command, "\n".join(lines)


@pytest.mark.parametrize("page", [p for p in PAGES if runnable(p)], ids=name_of)
def test_following_the_document_works(page: Path, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    try:
        for block in runnable(page):
            try:
                reader.follow(block)
            except AssertionError as error:
                raise AssertionError(f"{name_of(page)}:{block.line}: {error}") from error
    finally:
        reader.stop_workers()
