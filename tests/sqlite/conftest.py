"""A file of its own for each test, and helpers to fill it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from bananas_brokers.sqlite.results import SQLiteResultBackend
from bananas_brokers.sqlite.transport import SQLiteTransport
from bananas_core.job import JobPut
from bananas_core.pair import Pair


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture
async def pair(url: str) -> AsyncIterator[Pair]:
    opened = Pair(SQLiteTransport(url, "test"), SQLiteResultBackend(url, "test"))
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def puts() -> Callable[[Sequence[str]], list[JobPut]]:
    return lambda ids: [JobPut(id=i, name="task", message=b'{"v":1}') for i in ids]
