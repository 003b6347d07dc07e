"""Removing a namespace removes all of it, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from bananas_core.cli.commands import make_cli
from bananas_core.job import RenewMode, Session, Write
from bananas_core.pair import Pair
from bananas_core.testing.conformance.support import a_job, a_scope
from bananas_core.transport import Outgoing
from integration.postgres.support import client_of, pair_on, received, succeed
from integration.servers import PostgresServer

TABLES = ("jobs", "messages", "events", "docs", "sessions", "lapses", "namespaces")


async def fill(pair: Pair) -> None:
    """Something in every table."""
    backend = pair.backend
    await backend.put([a_job() for _ in range(20)])
    await backend.put([a_job(delay=9.0), a_job(tags=("a",)), a_job(unique="k"), a_scope()])
    await backend.cas([Write(key="a/b", value=b"c"), Write(key="d", value=b"e", ttl=60.0)])
    await backend.renew(Session(id="s", name="erase"), [], mode=RenewMode.UPDATE)
    claims = await received(pair, "s", 10)
    await backend.finish([succeed(claim) for claim in claims[:5]])
    await pair.transport.send([Outgoing(body=b"foreign", queue="elsewhere", priority=1)])
    await pair.transport.receive(["elsewhere"], 1, 0.0)


def contents(server: PostgresServer, ns: int) -> dict[str, list[Any]]:
    with client_of(server) as client:
        return {
            table: client.execute(
                f"SELECT t::text FROM bananas.{table} AS t WHERE ns = %s ORDER BY 1",  # type: ignore[arg-type]
                [ns],
            ).fetchall()
            for table in TABLES
        }


@pytest.mark.parametrize("side", ["transport", "backend"])
async def test_one_namespace_goes_and_others_stay(
    server: PostgresServer, namespace: str, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bananas_brokers.postgres.erase.BATCH", 7)
    pairs: dict[str, Any] = {name: pair_on(server.url, namespace + name) for name in ("", "x")}
    for pair in pairs.values():
        await pair.open()
        await fill(pair)
    gone, kept = (pair.backend._store.ns for pair in pairs.values())
    before = contents(server, kept)
    assert all(before[table] for table in TABLES if table != "lapses")
    await getattr(pairs[""], side).erase()
    await getattr(pairs[""], side).erase()
    assert contents(server, gone) == {table: [] for table in TABLES}
    assert contents(server, kept) == before
    await pairs[""].close()
    again = pair_on(server.url, namespace)
    await again.open()
    assert await again.backend.count(["state"]) == []
    await again.close()
    await pairs["x"].backend.erase()
    await pairs["x"].close()


def test_measuring_a_broker_leaves_nothing(server: PostgresServer) -> None:
    ran = CliRunner().invoke(make_cli(), ["bench", server.url, "--seconds", "1", "--json"])
    assert ran.exit_code == 0, ran.output
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line["measure"] for line in lines] == ["submit", "bulk", "drain", "latency"]
    assert all(line["rate"] > 0 for line in lines)
    with client_of(server) as client:
        left = client.execute("SELECT 1 FROM bananas.namespaces WHERE name LIKE 'bench-%'")
        assert left.fetchall() == []
