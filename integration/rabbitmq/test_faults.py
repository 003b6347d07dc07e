"""Real workers on RabbitMQ and Redis while the broker is killed or the network is bad."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.faults import brokers
from integration.faults.stage import LEVELS, Stage
from integration.rabbitmq.support import full
from integration.servers import Network, Proxy, RabbitServer, RedisServer
from integration.servers.need import need

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """Scenarios find the ledger in the environment; the broker is set by the test."""
    need(RedisServer)
    with RedisServer() as ledger:
        monkeypatch.setenv("BANANAS_RESULT_BACKEND_URL", ledger.url)
        stage = Stage(tmp_path, LEVELS["ci"], seed=1)
        try:
            yield stage
        finally:
            stage.close()


async def test_the_broker_is_killed_and_comes_back(stage: Stage) -> None:
    need(RabbitServer)
    with RabbitServer() as server:
        stage.url = server.url
        await brokers.under_load(stage, brokers.killed(server, 3.0))


@pytest.mark.parametrize(
    "trouble",
    [Network.HELD, pytest.param(Network.GONE, marks=full), pytest.param(Network.DEAF, marks=full)],
)
async def test_the_network_is_bad(stage: Stage, rabbit: RabbitServer, trouble: Network) -> None:
    with Proxy(rabbit.port) as proxy:
        stage.url = rabbit.url.replace(str(rabbit.port), str(proxy.port)) + "?socket_timeout=3"
        await brokers.under_load(stage, brokers.network(proxy, trouble, 6.0))
