"""Worker groups as real processes: a supervisor with its children in a session of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

READY_WITHIN = 30.0


class WorkerGroup:
    """``bananas worker`` on the faults app. Everything it started ends with ``kill``."""

    def __init__(
        self,
        folder: Path,
        broker_url: str,
        name: str = "group",
        *,
        ledger_url: str | None = None,
        skew: float = 0.0,
        **options: object,
    ) -> None:
        """``ledger_url``: of a ledger that is elsewhere; ``skew``: seconds that its clock is
        ahead; ``options``: flags of ``bananas worker``."""
        self.folder = folder
        self.name = name
        self._env = {
            **os.environ,
            "BANANAS_BROKER_URL": broker_url,
            "FAULTS_RUNS": str(folder / "runs.jsonl"),
            "FAULTS_SKEW": str(skew),
        }
        if ledger_url is not None:
            self._env["BANANAS_RESULT_BACKEND_URL"] = ledger_url
        self._options = options
        self._log_path = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> WorkerGroup:
        """Start and wait until it consumes."""
        command = [sys.executable, "-m", "bananas_core.cli", "worker", "integration.faults.app:app"]
        for key, value in self._options.items():
            command += [f"--{key.replace('_', '-')}", str(value)]
        if (setpriv := shutil.which("setpriv")) is not None:
            # A test run that is killed can't end what it started; its children end with it.
            command = [setpriv, "--pdeathsig", "KILL", *command]
        with self._log_path.open("ab") as log:
            begun = log.tell()
            self._process = subprocess.Popen(
                command, env=self._env, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline:
            if b"ready" in self._log_path.read_bytes()[begun:]:
                return self
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        raise RuntimeError(f"the worker group did not become ready:\n{self.log()}")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        return self._log_path.read_text(errors="replace")[-5000:]

    def children(self) -> list[int]:
        """Pids of the supervisor's child processes that run jobs."""
        text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in text.split()]

    def signal_all(self, number: signal.Signals) -> None:
        """To the supervisor and all its descendants."""
        os.killpg(self.pid, number)

    def terminate(self) -> None:
        """Ask the supervisor to stop."""
        os.kill(self.pid, signal.SIGTERM)

    def wait(self, timeout: float) -> int:
        """Its exit code."""
        assert self._process is not None
        return self._process.wait(timeout)

    def kill(self) -> None:
        """End all of it for sure."""
        if self._process is None:
            return
        for number in (signal.SIGCONT, signal.SIGKILL):
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                break
        self._process.wait(10)
