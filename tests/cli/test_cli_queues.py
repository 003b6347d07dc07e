"""Commands on routing keys and workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from bananas import Bananas
from bananas_brokers.sqlite.results import SQLiteResultBackend
from bananas_core.clock import SystemClock
from bananas_core.due import PauseWatch
from bananas_core.job import Hint, JobPut, Outcome, OutcomeKind, Session

Cli = Callable[..., Any]


def _submit(cli: Cli, *options: str, name: str = "add", payload: str = '{"x": 1}') -> None:
    assert cli("submit", "shop:app", name, "--payload", payload, *options).code == 0


def test_queues_counts_messages_and_states(cli: Cli) -> None:
    for _ in range(3):
        _submit(cli)
    lines = {line["routing_key"]: line for line in cli("queues", "shop:app", "--json").lines}
    assert set(lines) == {"default", "media"}  # a task's key is listed before it has jobs
    assert lines["default"]["ready"] == 3
    assert lines["default"]["states"]["pending"] == 3
    assert lines["default"]["paused"] is None
    assert lines["media"]["states"]["pending"] == 0
    assert "default" in cli("queues", "shop:app").stdout


def test_pause_writes_the_flag_that_workers_read_and_resume_removes_it(cli: Cli) -> None:
    async def paused() -> frozenset[str]:
        seen: list[frozenset[str]] = [frozenset()]
        async with Bananas() as app:
            assert app.pair is not None
            await PauseWatch(app.pair, seen.append).once()
        return seen[-1]

    async def flag() -> dict[str, Any]:
        async with Bananas() as app:
            (doc,) = await app.backend.docs("pause/")
        assert doc.key == "pause/media"
        fields: dict[str, Any] = msgspec.json.decode(doc.value)
        return fields

    first = cli("pause", "media", "--reason", "disk full", "--json").lines[0]
    assert first["changed"] is True
    assert first["paused"]["reason"] == "disk full"
    assert asyncio.run(paused()) == {"media"}
    stored = asyncio.run(flag())
    assert set(stored) == {"by", "at", "reason"}
    assert stored["reason"] == "disk full"

    again = cli("pause", "media", "--json").lines[0]
    assert again["changed"] is False
    assert again["paused"]["reason"] == "disk full"
    assert "disk full" in cli("queues").stdout

    assert cli("resume", "media", "--json").lines[0]["changed"] is True
    assert cli("resume", "media", "--json").lines[0]["changed"] is False
    assert asyncio.run(paused()) == frozenset()


def test_pausing_one_key_leaves_a_longer_one_alone(cli: Cli) -> None:
    cli("pause", "media.large")
    assert cli("resume", "media", "--json").lines[0]["changed"] is False
    assert [q["routing_key"] for q in cli("queues", "--json").lines if q["paused"]] == [
        "media.large"
    ]


@pytest.mark.parametrize("command", ["pause", "resume", "purge"])
def test_an_impossible_routing_key_is_a_usage_error(cli: Cli, command: str) -> None:
    refused = cli(command, "shop:app", "a b")
    assert refused.code == 2
    assert "routing_key" in refused.stderr


def test_purge_cancels_what_waits_on_that_key_only(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bananas_core.cli.queues.PAGE", 2)

    async def later() -> None:
        async with Bananas() as app:
            await app.submit_job("add", {"x": 9}, delay=3600)

    for _ in range(4):
        _submit(cli)
    asyncio.run(later())
    _submit(cli, name="flaky", payload="{}")
    (purged,) = cli("purge", "shop:app", "default", "--json").lines
    assert purged["routing_key"] == "default"
    assert purged["cancelled"] == 5
    states = {q["routing_key"]: q["states"] for q in cli("queues", "shop:app", "--json").lines}
    assert (states["default"]["cancelled"], states["default"]["pending"]) == (5, 0)
    assert states["media"]["pending"] == 1
    assert [q["ready"] for q in cli("queues", "shop:app", "--json").lines] == [0, 1]
    assert cli("purge", "default", "--json").lines[0]["cancelled"] == 0


def test_purge_deletes_dead_letters_that_are_old_enough(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(age: float) -> None:
        """A job that failed so many seconds ago."""
        clock = SystemClock()
        monkeypatch.setattr(clock, "now", lambda: time.time() - age)
        backend = SQLiteResultBackend(Bananas().settings.broker_url, "bananas", clock=clock)
        await backend.open(guard=False)
        job = JobPut(id=f"failed-{age:g}", name="add", message=b"{}")
        await backend.put([job])
        (verdict,) = await backend.claim("s", [Hint(id=job.id, gen=1)])
        assert verdict.claim is not None
        fence = verdict.claim.fence
        await backend.finish([Outcome(id=job.id, fence=fence, kind=OutcomeKind.FAILED)])
        await backend.close()

    for age in (0.0, 1_000.0, 100_000.0):
        asyncio.run(fail(age))
    assert cli("purge", "--dead-letters", "--before", "1d", "--json").lines == [{"deleted": 1}]
    assert cli("purge", "--dead-letters", "--before", "0s", "--json").lines == [{"deleted": 1}]
    (left,) = cli("jobs", "--json").lines
    assert left["id"] == "failed-0"


def test_workers_lists_live_sessions(cli: Cli) -> None:
    async def session() -> None:
        async with Bananas() as app:
            await app.backend.renew(
                Session(
                    id="host-1-abc",
                    name="worker",
                    host="host",
                    pid=4711,
                    routing_keys=("media",),
                    slots=4,
                    free=1,
                    started_at=1.0,
                ),
                [],
            )

    assert cli("workers", "--json").lines == []
    asyncio.run(session())
    (line,) = cli("workers", "--json").lines
    assert (line["id"], line["pid"], line["slots"], line["free"]) == ("host-1-abc", 4711, 4, 1)
    assert set(line) >= {"routing_keys", "renewed_at", "expires_at", "claims", "done", "memory"}
    table = cli("workers").stdout
    assert "host-1-abc" in table
    assert "3/4" in table
