"""Real workers on RabbitMQ and Redis that are killed, stopped and restarted."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from integration.faults import scenarios, workflows
from integration.faults.stage import LEVELS, Scenario, Stage
from integration.servers import RabbitServer, RedisServer
from integration.servers.need import need

pytestmark = pytest.mark.timeout(120)

LEVEL = msgspec.structs.replace(
    LEVELS["ci"], kill_jobs=1_000, restarts=3, chords=20, members=250, chords_kill_every=0.7
)
SCENARIOS = [scenarios.kill_child, scenarios.graceful_stop, scenarios.restarts, workflows.chords]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_workers_keep_their_promises(
    tmp_path: Path, rabbit: RabbitServer, monkeypatch: pytest.MonkeyPatch, namespace: str,
    scenario: Scenario,
) -> None:  # fmt: skip
    need(RedisServer)
    monkeypatch.setenv("BANANAS_NAMESPACE", namespace)
    with RedisServer(appendfsync="always") as ledger:
        stage = Stage(tmp_path, LEVEL, 1, rabbit, ledger)
        try:
            await scenario(stage)
        finally:
            stage.close()
