"""Fairness among processes: whoever wants to write passes here first."""

from __future__ import annotations

import fcntl
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Turnstile:
    """Held by the one process that is next at SQLite's write lock.

    The process that has just committed finds it taken by whoever waited, and so can't push in
    again. It protects nothing: if it can't be had in time, the caller goes on without it.
    """

    def __init__(self, path: str) -> None:
        self._path = f"{path}-turn"
        self._file = -1

    @contextmanager
    def take(self, deadline: float) -> Iterator[None]:
        held = self._acquire(deadline)
        try:
            yield
        finally:
            if held:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _acquire(self, deadline: float) -> bool:
        try:
            if self._file < 0:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            # Should a stopped process sit here, most of the time is left for the real lock.
            give_up = time.monotonic() + min(2.0, (deadline - time.monotonic()) / 2)
            while True:
                try:
                    fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() >= give_up:
                        return False
                    time.sleep(random.uniform(0.0002, 0.0008))
                else:
                    return True
        except OSError:
            return False
