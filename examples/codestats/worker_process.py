"""A worker of its own for the time of the demo."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sysconfig
from pathlib import Path

READY_WITHIN = 30.0
STOP_WITHIN = 40.0


class WorkerProcess:
    """``bananas worker`` as a child process: started, awaited, stopped gracefully."""

    def __init__(self, app: str, broker_url: str, *, processes: int, log: Path) -> None:
        command = [bananas_command(), "worker", app, "--processes", str(processes)]
        # Counting keeps a core busy, so more threads in a process would only wait for each other.
        command += ["--concurrency", "1"]
        # Old code has escapes that newer Pythons warn of on every parse.
        quiet = "ignore::SyntaxWarning,ignore::DeprecationWarning"
        env = {**os.environ, "BANANAS_BROKER_URL": broker_url, "PYTHONWARNINGS": quiet}
        self._log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(command, env=env, stdout=file, stderr=file)

    @property
    def pid(self) -> int:
        """The process that supervises the others."""
        return self._process.pid

    async def ready(self) -> None:
        """Wait until it consumes. Raises RuntimeError with what it said if it doesn't."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READY_WITHIN
        while loop.time() < deadline and self._process.poll() is None:
            if "ready" in self.said():
                return
            await asyncio.sleep(0.05)
        raise RuntimeError(f"the worker did not become ready:\n{self.said()}")

    def said(self) -> str:
        """All that it wrote to stdout and stderr."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> int:
        """Ask it to finish and leave (SIGTERM); its exit code. Safe to repeat."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self._process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def bananas_command() -> str:
    """The ``bananas`` command of this Python's environment."""
    return str(Path(sysconfig.get_path("scripts")) / "bananas")
