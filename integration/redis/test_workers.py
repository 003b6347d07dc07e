"""Real workers on Redis that are killed, stopped and restarted: the scenarios of
``integration.faults`` that need nothing of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.faults import scenarios
from integration.faults.limits import limits
from integration.faults.stage import LEVELS, Stage
from integration.servers import RedisServer
from integration.servers.need import need

pytestmark = pytest.mark.timeout(240)

SCENARIOS = [
    scenarios.kill_child,
    scenarios.kill_random,
    scenarios.stop_group,
    scenarios.blocked,
    scenarios.graceful_stop,
    scenarios.poison,
    scenarios.skewed_clocks,
    limits,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_workers_keep_their_promises(tmp_path: Path, scenario: scenarios.Scenario) -> None:
    need(RedisServer)
    stage = Stage(tmp_path, LEVELS["ci"], seed=1)
    with RedisServer() as server:
        stage.url = server.url
        try:
            await scenario(stage)
        finally:
            stage.close()
