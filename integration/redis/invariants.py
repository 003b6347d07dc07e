"""What must hold among the keys of a namespace at any moment when no call is under way."""

from __future__ import annotations

import struct
from collections import Counter

import redis

from bananas_brokers.redis import header
from bananas_brokers.redis.keys import Keys
from bananas_core.job import FINAL, Job, JobState


def check(client: redis.Redis, namespace: str) -> None:
    """Compare every index with the records. Raises AssertionError."""
    keys = Keys(namespace)
    heads = {key.decode(): value for key, value in client.hgetall(keys.heads).items()}
    extras = {key.decode(): value for key, value in client.hgetall(keys.extras).items()}
    jobs = {i: header.decode(i, head, extras.get(i)) for i, head in heads.items()}
    assert {key.decode() for key in client.hkeys(keys.messages)} == set(heads), "messages"
    assert {key.decode() for key in client.hkeys(keys.results)} <= set(heads), "results"
    assert set(extras) == {i for i, head in heads.items() if head[59:60] != header.NO}, "extras"
    due = {key.decode(): score for key, score in client.zrange(keys.due, 0, -1, withscores=True)}
    assert due == {i: job.due_at for i, job in jobs.items() if job.due_at is not None}, "due"
    _ready(client, keys, jobs, heads)
    _claims(client, keys, jobs)
    _finals(client, keys, jobs)
    made = [i for entry in client.zrange(keys.made, 0, -1) for i in entry.decode().split(" ")]
    assert set(heads) <= set(made), "made"
    leased = Counter(key for key in client.zrange(keys.leases, 0, -1))
    assert set(leased) == set(client.hkeys(keys.leased)), "leases"


def _ready(client: redis.Redis, keys: Keys, jobs: dict[str, Job], heads: dict[str, bytes]) -> None:
    stale = {key.decode(): int(value) for key, value in client.hgetall(keys.stale).items()}
    entries: Counter[str] = Counter()
    places: dict[tuple[str, int], set[tuple[str, int]]] = {}
    prefix = f"{keys.prefix}q:"
    for raw in client.scan_iter(match=f"{prefix}*".replace("{", "\\{"), count=1000):
        name = raw.decode().removeprefix(prefix)
        if client.type(raw) != b"list":
            continue
        queue, _, level = name.rpartition(":")
        found = places.setdefault((queue, int(level)), set())
        for entry in client.lrange(raw, 0, -1):
            if entry[:1] == b"@":
                continue
            job_id, _, gen = entry.decode().partition(" ")
            found.add((job_id, int(gen or 1)))
            entries[queue] += 1
        assert client.zscore(keys.levels(queue), level) == float(level), f"level {name}"
    pending = [job for job in jobs.values() if job.state is JobState.PENDING]
    listed = [job for job in pending if heads[job.id][62:63] == b"L"]
    for job in listed:
        where = places.get((job.routing_key, job.priority), set())
        assert (job.id, job.gen) in where, f"{job.id} is in no ready list"
    live = Counter(job.routing_key for job in listed)
    for queue in {*entries, *live, *stale}:
        left = entries[queue] - stale.get(queue, 0)
        assert left == live[queue], (
            f"{queue}: {entries[queue]} entries, {stale.get(queue, 0)} stale"
        )
    beside = [job for job in pending if heads[job.id][62:63] == b"Z"]
    for queue in {job.routing_key for job in jobs.values()}:
        wanted = {job.id for job in beside if job.routing_key == queue}
        assert {i.decode() for i in client.zrange(keys.pending(queue), 0, -1)} == wanted, "pending"


def _claims(client: redis.Redis, keys: Keys, jobs: dict[str, Job]) -> None:
    wanted: Counter[tuple[str, int]] = Counter(
        (job.worker or "", job.fence) for job in jobs.values() if job.state is JobState.PROCESSING
    )
    found: Counter[tuple[str, int]] = Counter()
    prefix = keys.claims("")
    for raw in client.scan_iter(match=f"{prefix}*".replace("{", "\\{"), count=1000):
        session = raw.decode().removeprefix(prefix)
        for field, value in client.hgetall(raw).items():
            if field.endswith(b"#"):
                found[(session, int(field[:-1]))] = int(value)
    assert found == wanted, "claims"


def _finals(client: redis.Redis, keys: Keys, jobs: dict[str, Job]) -> None:
    ended = {i: job for i, job in jobs.items() if job.state in FINAL}
    assert int(client.hget(keys.meta, "finals") or 0) == len(ended), "count of finals"
    listed: set[tuple[JobState, float, str]] = set()
    for state in FINAL:
        for entry in client.lrange(keys.finals(state), 0, -1):
            (at,) = struct.unpack_from(">d", entry)
            listed |= {(state, at, job_id) for job_id in entry[8:].decode().split(" ")}
    later = {key.decode() for key in client.zrange(keys.later, 0, -1)}
    for job_id, job in ended.items():
        place = (job.state, job.finished_at, job_id)
        assert job_id in later or place in listed, f"{job_id} would never be pruned"
    assert later <= set(ended), "later"
