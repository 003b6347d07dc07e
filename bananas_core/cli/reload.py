"""``bananas worker --reload``: for development, starts the worker anew when code changes."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

log = logging.getLogger("bananas.reload")

POLL: Final = 0.5
"""Seconds between two looks at the files."""
LOOK: Final = 0.1
"""Seconds between two looks at the worker."""
_SKIP: Final = frozenset({"__pycache__", "node_modules", "build", "dist"})


class Reloader:
    """Runs a command in a folder and starts it anew when one of the folder's modules changes.

    A worker that ends by itself, by a syntax error say, is started at the next change.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._command = list(command)
        self._folder = folder
        self._changed = threading.Event()
        self._end = threading.Event()
        self._stops = 0

    def run(self) -> int:
        """Until SIGINT, SIGTERM or a closed terminal, which end the worker; its exit code."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)
        found = changes(self._folder, self._end)
        watcher = threading.Thread(
            target=self._watch, args=(found,), name="bananas-reload", daemon=True
        )
        watcher.start()
        while True:
            self._changed.clear()
            code = self._run_once()
            if self._stopped():
                self._end.set()
                return code
            while not self._changed.wait(LOOK):
                if self._stopped():
                    return code
            log.warning("code has changed: the worker starts anew")

    def _run_once(self) -> int:
        """One life of the worker; ended gracefully by a change, and by our own end."""
        # A session of its own: Ctrl-C reaches this process only, which passes it on once.
        worker = subprocess.Popen(self._command, start_new_session=True)
        passed_on = 0
        told = False
        try:
            while worker.poll() is None:
                if self._stops > passed_on:
                    passed_on += 1
                    worker.terminate()
                elif self._changed.is_set() and not told and not passed_on:
                    told = True
                    worker.terminate()
                try:
                    worker.wait(LOOK)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if worker.poll() is None:
                worker.terminate()
        if not told and not passed_on:
            log.warning("the worker ended with code %s; waiting for a change", worker.returncode)
        return worker.returncode

    def _watch(self, found: Iterator[None]) -> None:
        for _ in found:
            self._changed.set()

    def _stopped(self) -> bool:
        return self._stops > 0

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stops += 1


def changes(folder: Path, end: threading.Event) -> Iterator[None]:
    """Yields whenever Python files under ``folder`` changed after this call, until ``end`` is
    set. By watchfiles if that is installed, else by looking at all times of change now and then."""
    if importlib.util.find_spec("watchfiles") is None:
        return _polled(folder, snapshot(folder), end)
    watchfiles = importlib.import_module("watchfiles")
    python_only = watchfiles.PythonFilter()
    found = watchfiles.watch(
        folder, watch_filter=python_only, stop_event=end, raise_interrupt=False
    )
    return (None for _ in found)


def _polled(folder: Path, before: dict[str, int], end: threading.Event) -> Iterator[None]:
    while not end.wait(POLL):
        now = snapshot(folder)
        if now != before:
            before = now
            yield


def snapshot(folder: Path) -> dict[str, int]:
    """When each Python file was last changed; hidden and generated folders are left out."""
    found: dict[str, int] = {}
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _SKIP]
        for name in files:
            if name.endswith(".py"):
                path = os.path.join(root, name)
                try:
                    found[path] = os.stat(path).st_mtime_ns
                except OSError:
                    continue  # deleted meanwhile, or a dangling link
    return found
