"""Real workers on PostgreSQL that are killed, and that outlive a crash of the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bananas import Bananas
from bananas_core.testing.conformance.harness import eventually
from integration.faults import scenarios
from integration.faults.stage import LEVELS, Stage
from integration.servers import PostgresServer
from integration.servers.need import need

pytestmark = pytest.mark.timeout(240)

BACK_WITHIN = 15.0
"""Seconds after which workers must run jobs again."""


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    need(PostgresServer)
    with PostgresServer() as found:
        yield found


@pytest.fixture
def stage(tmp_path: Path, own_server: PostgresServer) -> Iterator[Stage]:
    found = Stage(tmp_path, LEVELS["ci"], seed=1)
    found.url = own_server.url
    yield found
    found.close()


async def test_killed_workers_lose_nothing(stage: Stage) -> None:
    await scenarios.kill_random(stage)


async def test_workers_go_on_after_a_crash_of_the_server(
    stage: Stage, own_server: PostgresServer
) -> None:
    stage.group("a", processes=2)
    async with Bananas(stage.url) as app:
        ids = await stage.submit(app, "short", [{"number": n} for n in range(2000)])
        await stage.started(ids[100])
        await asyncio.to_thread(own_server.kill)
        await asyncio.sleep(2.0)
        await asyncio.to_thread(own_server.start)
        back = time.time()
        await eventually(lambda: any(run.at > back for run in stage.oracle.runs()), BACK_WITHIN)
        await stage.drained(app.backend, 60)
        verdict = await stage.judged(app.backend)
        stage.check(verdict.states == {"completed": 2000}, "some did not complete")
