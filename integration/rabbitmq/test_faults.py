"""Real workers on RabbitMQ and Redis while one of these is killed, or the network is bad."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from integration.faults import brokers
from integration.faults.stage import LEVELS, Scenario, Stage
from integration.servers import RabbitServer, RedisServer
from integration.servers.need import need

pytestmark = pytest.mark.timeout(240)

LEVEL = msgspec.structs.replace(LEVELS["ci"], broker_jobs=6_000, broker_kills=2)
SCENARIOS = [brokers.broker_kills, brokers.ledger_kills, brokers.bad_network]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_workers_outlive_outages(tmp_path: Path, scenario: Scenario) -> None:
    need(RabbitServer)
    need(RedisServer)
    with RabbitServer() as server, RedisServer(appendfsync="always") as ledger:
        stage = Stage(tmp_path, LEVEL, 1, server, ledger)
        try:
            await scenario(stage)
        finally:
            stage.close()
