"""Removing a namespace removes all of it, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis
from typer.testing import CliRunner

from bananas_core.cli.commands import make_cli
from bananas_core.job import RenewMode, Session, Write
from bananas_core.pair import Pair
from bananas_core.testing.conformance.support import a_job, a_scope
from bananas_core.transport import Outgoing
from integration.redis.support import on_redis_only, pair_on, received, succeed


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as found:
        yield found


async def fill(client: redis.Redis, pair: Pair) -> None:
    """Something under every kind of key, and more keys than one look of a scan has."""
    backend = pair.backend
    await backend.put([a_job(priority=level) for level in range(50)])
    await backend.put([a_job(f"queue-{n}") for n in range(700)])
    await backend.put([a_job(delay=9.0), a_job(tags=("a",)), a_job(unique="k"), a_scope()])
    await backend.cas([Write(key="a/b", value=b"c"), Write(key="d", value=b"e", ttl=60.0)])
    await backend.renew(Session(id="s", name="erase"), [], mode=RenewMode.UPDATE)
    claims = await received(pair, "s", 10)
    await backend.finish([succeed(claim) for claim in claims[:5]])
    await pair.transport.send([Outgoing(body=b"foreign", queue="elsewhere", priority=1)])
    await pair.transport.receive(["elsewhere"], 1, 0.0)
    await pair.transport.send([Outgoing(body=b"foreign", queue="elsewhere", priority=2)])
    client.rpush(f"{{{pair.backend.namespace}}}:inbox", b"raw")  # type: ignore[attr-defined]


def keys_of(client: redis.Redis, namespace: str) -> set[bytes]:
    prefix = f"{{{namespace}}}:".encode()
    return {key for key in client.keys("*") if key.startswith(prefix)}


def contents(client: redis.Redis, namespace: str) -> dict[bytes, bytes | None]:
    """Every key of a namespace that does not go by itself, and its value."""
    return {key: client.dump(key) for key in keys_of(client, namespace) if b":wake:" not in key}


@pytest.mark.parametrize("side", ["transport", "backend"])
async def test_one_namespace_goes_and_others_stay(
    client: redis.Redis, redis_url: str, namespace: str, side: str
) -> None:
    # As patterns, the first matches the second, and both begin alike.
    names = {"gone": f"{namespace}?x", "kept": f"{namespace}-x", "longer": f"{namespace}?xy"}
    pairs = {which: pair_on(redis_url, name) for which, name in names.items()}
    try:
        for pair in pairs.values():
            await pair.open()
            await fill(client, pair)
        gone = getattr(pairs["gone"], side)
        before = {which: contents(client, names[which]) for which in ("kept", "longer")}
        assert all(len(keys) > 1000 for keys in before.values())
        await gone.erase()
        await gone.erase()
        assert keys_of(client, names["gone"]) == set()
        assert {which: contents(client, names[which]) for which in before} == before
        for pair in pairs.values():
            await pair.close()
        assert keys_of(client, names["gone"]) == set()
        again = pair_on(redis_url, names["gone"])
        await again.open()
        assert await again.backend.count(["state"]) == []
        await again.backend.put([put := a_job()])
        assert [claim.id for claim in await received(again, "s")] == [put.id]
        await again.close()
    finally:
        for name in names.values():
            for key in keys_of(client, name):
                client.delete(key)


@on_redis_only
def test_measuring_a_broker_leaves_nothing(client: redis.Redis, redis_url: str) -> None:
    client.set("mine", "stays")
    ran = CliRunner().invoke(make_cli(), ["bench", redis_url, "--seconds", "1", "--json"])
    assert ran.exit_code == 0, ran.output
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line["measure"] for line in lines] == ["submit", "bulk", "drain", "latency"]
    assert all(line["rate"] > 0 for line in lines)
    assert [key for key in client.keys("*") if key.startswith(b"{bench-")] == []
    assert client.getdel("mine") == b"stays"
