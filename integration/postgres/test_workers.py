"""Real workers on PostgreSQL that are killed, stopped and restarted: the scenarios of
``integration.faults`` that need nothing of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.faults import scenarios
from integration.faults.stage import LEVELS, Stage
from integration.servers import PostgresServer
from integration.servers.need import need

pytestmark = pytest.mark.timeout(240)

SCENARIOS = [
    scenarios.kill_random,
    scenarios.graceful_stop,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_workers_keep_their_promises(tmp_path: Path, scenario: scenarios.Scenario) -> None:
    need(PostgresServer)
    stage = Stage(tmp_path, LEVELS["ci"], seed=1)
    with PostgresServer() as server:
        stage.url = server.url
        try:
            await scenario(stage)
        finally:
            stage.close()
