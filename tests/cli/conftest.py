"""The command line run in this process, on an app and a database in a folder of the test's own."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bananas import Bananas
from bananas_core.cli.commands import make_cli
from bananas_core.embed import run_until_idle

SHOP = """
from bananas import Bananas, Backoff, current_job

app = Bananas()


@app.task
async def add(x: int, y: int = 1) -> int:
    current_job().log(f"adding {x}")
    return x + y


@app.task(max_attempts=1)
async def fail(text: str) -> None:
    raise ValueError(text)


@app.task(routing_key="media", max_attempts=2, retry=Backoff(delay=0))
async def flaky() -> str:
    if current_job().attempt == 1:
        raise ConnectionError("try again")
    return "done"
"""


class Ran:
    """How a command ended and what it printed."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code = code
        self.stdout = stdout
        self.stderr = stderr

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The objects of ``--json``."""
        return [json.loads(line) for line in self.stdout.splitlines()]


Cli = Callable[..., Ran]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with an app in ``shop.py``; nothing is set but the broker."""
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BANANAS_BROKER_URL", f"sqlite:///{tmp_path}/jobs.db")
    for name in ("BANANAS_APP", "BANANAS_RESULT_BACKEND_URL", "BANANAS_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def cli(folder: Path) -> Cli:
    def call(*arguments: str) -> Ran:
        result = CliRunner().invoke(make_cli(), list(arguments))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture
def work(folder: Path) -> Callable[[], None]:
    """Runs all pending jobs of the shop in this process."""

    def run() -> None:
        import shop  # type: ignore[import-not-found]

        async def until_idle(app: Bananas) -> None:
            async with app:
                await run_until_idle(app)

        asyncio.run(until_idle(shop.app))

    return run
