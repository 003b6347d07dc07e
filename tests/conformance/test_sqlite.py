"""The SQLite drivers against the suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bananas_brokers.sqlite.results import SQLiteResultBackend
from bananas_brokers.sqlite.transport import SQLiteTransport
from bananas_core.pair import Pair
from bananas_core.testing.clock import ManualClock
from bananas_core.testing.conformance import (
    Harness,
    ResultBackendConformance,
    TransportConformance,
)


class TestSQLite(TransportConformance, ResultBackendConformance):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[Harness]:
        url, clock = f"sqlite:///{tmp_path / 'jobs.db'}", ManualClock()

        async def reopen() -> None:
            """With its last connection the database is closed; what follows reads the file."""
            await harness.aclose()

        harness = Harness(
            lambda: Pair(
                SQLiteTransport(url, "conformance", clock=clock),
                SQLiteResultBackend(url, "conformance", clock=clock),
            ),
            clock=clock,
            restart=reopen,
        )
        yield harness
        await harness.aclose()
