"""The app and its one task. A worker runs it: ``bananas worker examples.codestats.tasks:app``."""

from __future__ import annotations

from pathlib import Path

from bananas import Backoff, Bananas
from examples.codestats.analyse import ModuleStats, analyse

app = Bananas()  # where it connects to is in BANANAS_BROKER_URL


@app.task(max_attempts=2, timeout=60, retry=Backoff(delay=0.2, jitter=0))
def analyse_file(path: str, module: str) -> ModuleStats:
    """Read and count one file. What is no Python fails, and after the second try stays failed:
    a dead letter that says why."""
    file = Path(path)
    return analyse(file.read_bytes(), module, is_package=file.name == "__init__.py")
