"""One ``bananas worker`` that runs one job of ``light_app``, and what it must not import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bananas import Client
from tests.worker.group import until

HEAVY = (
    "_pytest",
    "annotated_types",
    "bananas_brokers.memory",
    "bananas_core.cli",
    "bananas_core.limits.book",
    "bananas_core.sources",
    "bananas_core.supervisor",
    "bananas_core.testing",
    "click",
    "dotenv",
    "http",
    "hypothesis",
    "markdown_it",
    "matplotlib",
    "multiprocessing",
    "numpy",
    "pydantic",
    "pydantic_core",
    "pydantic_settings",
    "pygments",
    "pytest",
    "rich",
    "sortedcontainers",
    "tomllib",
    "typer",
    "unittest",
    "xml",
)
"""Nothing in a worker process needs these."""


def ask(
    folder: Path,
    url: str,
    task: str,
    *arguments: str,
    namespace: str = "bananas",
    env: Mapping[str, str] | None = None,
) -> Any:
    """The result of a task of ``light_app`` in a worker that has just started."""
    log = folder / "worker.log"
    command = [sys.executable, "-m", "bananas_core.cli", "worker", "light_app:app", *arguments]
    surroundings = {
        **os.environ,
        "BANANAS_BROKER_URL": url,
        "BANANAS_NAMESPACE": namespace,
        "PYTHONPATH": str(Path(__file__).parent),
        **(env or {}),
    }
    with log.open("wb") as file:
        worker = subprocess.Popen(
            command, env=surroundings, cwd=folder, stdout=file, stderr=file, start_new_session=True
        )
    try:
        until(lambda: "ready" in log.read_text() or worker.poll() is not None, within=30)
        assert worker.poll() is None, log.read_text()
        # The process that was started is the supervisor now, which has its memory for itself.
        assert "pydantic_core" not in Path(f"/proc/{worker.pid}/maps").read_text()
        with Client(url, namespace=namespace) as client:
            answer = client.wait_for_result(client.submit_job(task), timeout=30)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0, log.read_text()
        return answer
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait(10)


def heavy(modules: list[str], *more: str) -> set[str]:
    """Which of the heavy modules are among these. Packages count with all that is in them."""
    return {
        name
        for name in modules
        if any(name == found or name.startswith(f"{found}.") for found in (*HEAVY, *more))
    }
