"""A supervisor with its children as real processes, in a session of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

HERE = Path(__file__).parent
PROGRAM = """
import json, sys
from bananas_core.supervisor import Supervisor, SupervisorConfig
app, flags = sys.argv[1:]
sys.exit(Supervisor(SupervisorConfig(app=app, flags=json.loads(flags))).run())
"""


def environment(folder: Path) -> dict[str, str]:
    """What processes of ``process_app`` need."""
    return {
        "BANANAS_BROKER_URL": f"sqlite:///{folder / 'jobs.db'}",
        "RUNS": str(folder / "runs"),
        "PYTHONPATH": str(HERE),
    }


def until(condition: Callable[[], object], *, within: float = 10.0, what: str = "") -> None:
    """Wait, blocking. Raises AssertionError when it takes longer."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, f"not within {within} s: {what}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


class Group:
    """``start`` waits until it consumes; ``kill`` ends all of it."""

    def __init__(
        self,
        folder: Path,
        app: str = "process_app:app",
        flags: Mapping[str, object] | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self._folder = folder
        self._log = folder / "worker.log"
        self._app = app
        self._flags = flags or {}
        self._stdin = stdin
        self._env = {**os.environ, **environment(folder), **(env or {})}
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> Group:
        """Start without waiting."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, self._app, json.dumps(self._flags)],
                env=self._env,
                cwd=self._folder,
                stdin=self._stdin,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def start(self) -> Group:
        process = self.launch()._running
        until(lambda: "ready" in self.log() or process.poll() is not None, within=20, what="ready")
        assert "ready" in self.log(), self.log()
        return self

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None
        return self.process

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def children(self) -> list[int]:
        pid = self._running.pid
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def send(self, number: signal.Signals) -> None:
        """A signal to the supervisor."""
        self._running.send_signal(number)

    def send_all(self, number: signal.Signals) -> None:
        """A signal to the supervisor and its children."""
        os.killpg(self._running.pid, number)

    def wait(self, timeout: float) -> int:
        """The exit code."""
        return self._running.wait(timeout)

    def kill(self) -> None:
        """Safe to repeat."""
        if self.process is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait(10)

    def runs(self) -> list[tuple[float, str, int]]:
        """(when, job id, pid) of every start of a body."""
        found = [line.split(" ", 3) for line in self._lines()]
        return [(float(at), id, int(pid)) for at, id, pid, said in found if said != "end"]

    def said(self, what: str) -> list[str]:
        """All notes that begin so."""
        notes = [line.split(" ", 3)[3] for line in self._lines()]
        return [said for said in notes if said.startswith(what)]

    def _lines(self) -> list[str]:
        path = self._folder / "runs"
        return path.read_text().splitlines() if path.exists() else []
