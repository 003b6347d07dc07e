"""A cluster of three masters, and what is done to one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import redis
from redis.crc import key_slot

from integration.redis.support import client_of
from integration.servers import RedisServer
from integration.servers.need import need


@contextmanager
def three_nodes(*, appendonly: bool = False) -> Iterator[list[RedisServer]]:
    """Three masters that share the slots."""
    need(RedisServer)
    settings = {
        "cluster-enabled": "yes",
        "cluster-node-timeout": "2000",
        "cluster-require-full-coverage": "no",
    }
    with ExitStack() as stack:
        found = [
            stack.enter_context(
                RedisServer(appendonly=appendonly, appendfsync="always", settings=settings)
            )
            for _ in range(3)
        ]
        for n, node in enumerate(found):
            first, last = n * 16384 // 3, (n + 1) * 16384 // 3 - 1
            client_of(node).execute_command("CLUSTER ADDSLOTSRANGE", first, last)
            # Else all have the same, and while they settle it a slot falls back at times.
            client_of(node).execute_command("CLUSTER SET-CONFIG-EPOCH", n + 1)
        for node in found[1:]:
            client_of(node).execute_command("CLUSTER MEET", "127.0.0.1", found[0].port)
        until = time.monotonic() + 20
        while not all(_whole(client_of(node)) for node in found):
            assert time.monotonic() < until, "the cluster does not come up"
            time.sleep(0.1)
        yield found


def cluster_url(nodes: Sequence[RedisServer]) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


def slot_of(namespace: str) -> int:
    """Of all keys of a namespace, or of one of its shards."""
    return key_slot(f"{{{namespace}}}:meta".encode())


def owner(nodes: Sequence[RedisServer], namespace: str) -> RedisServer:
    """Who has a namespace if nothing was moved."""
    return next(n for i, n in enumerate(nodes) if slot_of(namespace) < (i + 1) * 16384 // 3)


def move(nodes: Sequence[RedisServer], slot: int, source: RedisServer, target: RedisServer) -> None:
    """What resharding does to a slot."""
    with begun_to_move(nodes, slot, source, target):
        pass


@contextmanager
def begun_to_move(
    nodes: Sequence[RedisServer],
    slot: int,
    source: RedisServer,
    target: RedisServer,
    first: Sequence[str] = (),
) -> Iterator[None]:
    """Resharding halfway: the keys ``first`` have moved; the rest does when the block ends."""
    ids = {n: client_of(n).execute_command("CLUSTER MYID").decode() for n in nodes}
    client_of(target).execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[source])
    client_of(source).execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[target])
    client = client_of(source)
    place = ("127.0.0.1", target.port, "", 0, 5000)
    if first:
        client.execute_command("MIGRATE", *place, "KEYS", *first)
    yield
    while keys := client.execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
        client.execute_command("MIGRATE", *place, "KEYS", *keys)
    for node in (target, source, *nodes):
        client_of(node).execute_command("CLUSTER SETSLOT", slot, "NODE", ids[target])


def _whole(client: redis.Redis) -> bool:
    info = client.execute_command("CLUSTER INFO")
    known = client.execute_command("CLUSTER SLOTS")
    return info["cluster_state"] == "ok" and len(known) == 3
