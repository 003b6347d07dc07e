"""``python -m integration.suites``: the shipped conformance suite by URL, as a user would run it,
at level ``extended``. There it really waits, so the brokers are tested at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from integration.servers import PostgresServer, RabbitServer, RedisServer, Server, ServerMissing

PROCESSES: Final = 16
"""At once, for each broker. They hardly do anything but wait."""
WITHIN: Final = 400.0
SERVERS: Final[dict[str, Callable[[], Server]]] = {
    "redis": lambda: RedisServer(appendonly=False),
    # Of 16 processes each has some apps with a few connections open.
    "postgres": lambda: PostgresServer(settings={"max_connections": "400"}),
    "rabbitmq": RabbitServer,
}
LEDGERS: Final = {"rabbitmq": "redis"}
"""Where the records of a broker are that keeps none."""


def main() -> int:
    """Run all; the number of brokers on which it failed."""
    begun, failed = time.monotonic(), 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bananas-suites-")))
        urls = {"sqlite": f"sqlite:///{folder}/jobs.db"}
        for name, make in SERVERS.items():
            try:
                urls[name] = stack.enter_context(make()).url
            except ServerMissing as error:
                if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
                    raise
                print(f"{name} is left out: {error}")
        running = {
            name: stack.enter_context(start(url, urls.get(LEDGERS.get(name, ""))))
            for name, url in urls.items()
        }
        for name, process in running.items():
            try:
                said = process.communicate(timeout=begun + WITHIN - time.monotonic())[0]
            except subprocess.TimeoutExpired:
                process.terminate()  # then it ends its own workers
                said = process.communicate()[0] + f"not done after {WITHIN:g} s\n"
            lines = said.strip().splitlines() or ["it said nothing"]
            print(f"{name} after {time.monotonic() - begun:.0f} s: {lines[-1]}", flush=True)
            if process.returncode:
                failed += 1
                print(said, flush=True)
    return failed


def start(url: str, ledger_url: str | None) -> subprocess.Popen[str]:
    """The suite on one broker, with a ledger elsewhere or its own, in the background."""
    command = [sys.executable, "-m", "bananas_core.testing.conformance", url, "-q", "--tb=short"]
    command += ["--bananas-level", "extended", "-n", str(PROCESSES), "--dist", "worksteal"]
    if ledger_url is not None:
        command += ["--bananas-result-backend-url", ledger_url]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


if __name__ == "__main__":
    raise SystemExit(main())
