"""What every subject's task and settings share. Standard library only: see the package.

All tasks do the same: they write the time of their start into a file that all processes of a run
have mapped, cell by job number. So starts are counted inside the process, by any number of
processes, and afterwards it is certain which of the jobs ran, and whether one ran twice.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import asdict, dataclass, fields
from time import monotonic

HOLD_SECONDS = 300.0
"""How long the held job sleeps: longer than any measure waits."""
_PREFIX = "BENCH_"


@dataclass(frozen=True, kw_only=True)
class Options:
    """One measure's settings, handed to all its processes in the environment."""

    url: str = ""
    tally: str = ""
    """Path of the file of starts."""
    results: bool = False
    """Keep results, for an hour."""
    blob: int = 0
    """Bytes of payload beyond the number."""
    keys: int = 1
    """Routing keys, taken in turn."""
    priorities: int = 1
    """Priorities, taken in turn."""
    processes: int = 1
    concurrency: int = 0
    """Jobs at once in a process; 0: what the subject is best at."""
    plain: bool = False
    """The task is a ``def``, run in threads."""
    defaults: bool = False
    """Leave concurrency and the like at the library's defaults."""

    def environment(self) -> dict[str, str]:
        return {
            _PREFIX + name.upper(): str(int(value) if isinstance(value, bool) else value)
            for name, value in asdict(self).items()
        }

    def payload(self) -> str:
        """The text that travels with each job."""
        return "x" * self.blob


def options() -> Options:
    """The settings of this process."""
    found: dict[str, object] = {}
    for item in fields(Options):
        value = os.environ.get(_PREFIX + item.name.upper())
        if value is not None:
            kind = type(item.default)
            found[item.name] = bool(int(value)) if kind is bool else kind(value)  # type: ignore
    return Options(**found)  # type: ignore[arg-type]


def open_cells(path: str) -> memoryview:
    """Cell 0 counts second starts, cell 1 + n is when job n started, 0.0 before that."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        return memoryview(mmap.mmap(descriptor, 0)).cast("d")
    finally:
        os.close(descriptor)


def make_cells(path: str, jobs: int) -> memoryview:
    with open(path, "wb") as file:
        file.truncate(8 * (jobs + 1))
    return open_cells(path)


_cells: memoryview | None = None


def started(number: int) -> None:
    """Job ``number`` starts now."""
    global _cells
    if _cells is None:
        _cells = open_cells(os.environ["BENCH_TALLY"])
    if _cells[number + 1]:
        _cells[0] += 1.0
    else:
        _cells[number + 1] = monotonic()


def started_again() -> None:
    """The held job starts: cell 1 is its first start, cell 2 its second."""
    global _cells
    if _cells is None:
        _cells = open_cells(os.environ["BENCH_TALLY"])
    _cells[2 if _cells[1] else 1] = monotonic()
