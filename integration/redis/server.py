"""A Redis for tests: the one of ``BANANAS_TEST_REDIS_URL``, or one of our own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import redis

URL = os.environ.get("BANANAS_TEST_REDIS_URL")


class Server:
    """One ``redis-server`` (or ``valkey-server``) process on loopback; ``folder`` is its own."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        program: str | None = None,
        config: Path | None = None,
        sentinel: bool = False,
    ) -> None:
        self.port = free_port()
        self.folder = folder
        self._program = program or program_path()
        self._config = config
        self._options = ("--sentinel", *options) if sentinel else ("--save", "", *options)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """A plain blocking client, for looking and for doing harm."""
        return redis.Redis(port=self.port)

    def start(self) -> None:
        """Returns once it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [str(self._program), *([] if self._config is None else [str(self._config)])]
        command += ["--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self.folder), *self._options]
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + 10
        while True:
            try:
                if self.client().ping():
                    return
            except redis.RedisError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)

    def kill(self) -> None:
        """As a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)


def program_path() -> str | None:
    """The server program, if there is one on this machine."""
    return os.environ.get("BANANAS_TEST_REDIS_SERVER") or shutil.which("redis-server")


def free_port() -> int:
    """A port that nobody uses; 10,000 above it there is room for a cluster's bus."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port < 55_000:
            return port
