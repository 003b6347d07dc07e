"""``python -m integration.containers``: servers as containers, on an engine of our own where that
can be had, with images that are built from packages.

Runs the tests of containers, and the conformance suite by URL at level ``core`` on each server.
Where no engine can run (not root, no support by the kernel) it says so, and the suite runs on the
same servers as processes; one that can't be had in that form either fails it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from integration.servers import ServerMissing
from integration.servers.engine import ALREADY, Engine

PROCESSES: Final = 4
PAIRS: Final = ("redis", "valkey", "postgres", "rabbitmq+redis", "rabbitmq+postgres")
SUITES: Final = ("integration.suites", *PAIRS, "--level", "core", "--processes", str(PROCESSES))
TESTS: Final = ("pytest", "-q", "-p", "no:cacheprovider", "integration/test_containers.py")
ROOT: Final = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run all; 0 if everything passed, on whatever form."""
    begun = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a time-out must not leave it behind
    with tempfile.TemporaryDirectory(prefix="bananas-engine-") as folder:
        engine = Engine(Path(folder, "engine"))
        try:
            engine.start()
            made = engine.build(ALREADY)
        except ServerMissing as error:
            engine.stop()
            print(f"NO CONTAINERS HERE: {error}\nThe servers run as processes instead.", flush=True)
            return python(SUITES, {"BANANAS_SERVERS": "process", "CI": "true"})
        except BaseException:
            engine.stop()
            raise
        try:
            print(f"engine and images after {time.monotonic() - begun:.0f} s", flush=True)
            settings = {**engine.environment(), **made, "CI": "true"}
            # Each is run, whatever became of the other.
            results = [python(words, settings) for words in (TESTS, SUITES)]
        finally:
            engine.stop()
        if left := engine.traces():
            print(f"the engine left behind: {', '.join(left)}", flush=True)
            return 1
    print(f"containers: {time.monotonic() - begun:.0f} s", flush=True)
    return max(results)


def python(words: tuple[str, ...], settings: Mapping[str, str]) -> int:
    """Run a module; its exit code."""
    environment = {**os.environ, **settings}
    command = [sys.executable, "-m", *words]
    return abs(subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode)


if __name__ == "__main__":
    raise SystemExit(main())
