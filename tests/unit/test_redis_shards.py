"""What is in which shard, and how several become one; needs no server."""

from __future__ import annotations

import random
import uuid
from collections import Counter

import pytest

from bananas_brokers.redis.allot import Level, allot, allot_all
from bananas_brokers.redis.feed import read
from bananas_brokers.redis.results import RedisResultBackend
from bananas_brokers.redis.sharded_results import ShardedResultBackend
from bananas_brokers.redis.sharded_transport import ShardedTransport
from bananas_brokers.redis.shards import portions, shard_of, shard_of_doc, shard_of_prefix
from bananas_brokers.redis.transport import RedisTransport
from bananas_core.errors import ConfigurationError, ResultBackendError
from bananas_core.job import Event, EventPage, JobState
from bananas_core.pair import load_pair


def test_the_public_rule_never_changes() -> None:
    """Records are found by it, and plain clients use it."""
    assert [shard_of(name, 3) for name in ("order-17", "", "é")] == [2, 0, 2]
    assert shard_of("00000000000040008000000000000001", 16) == 0


def test_ids_spread_evenly() -> None:
    rng = random.Random(1)
    found = Counter(shard_of(uuid.UUID(int=rng.getrandbits(128)).hex, 3) for _ in range(3000))
    family = uuid.UUID(int=rng.getrandbits(128)).hex[:24]
    members = Counter(shard_of(f"{family}{i:08x}", 3) for i in range(3000))
    assert all(900 < number < 1100 for number in [*found.values(), *members.values()])


def test_documents_are_with_their_job() -> None:
    home = shard_of("j", 7)
    assert shard_of_doc("job/j/page/0", 7) == shard_of_prefix("job/j/", 7) == home
    assert shard_of_doc("job/j", 7) == shard_of("job/j", 7)
    assert [shard_of_prefix(prefix, 7) for prefix in ("", "job/", "job/j", "limit/a/")] == [
        None
    ] * 4
    assert len({shard_of_doc(f"limit/api/{n}", 7) for n in range(100)}) == 7


def test_a_url_says_how_many() -> None:
    pair = load_pair("redis://h?shards=3", None, "ns")
    assert pair.fused
    assert isinstance(pair.transport, ShardedTransport)
    assert isinstance(pair.backend, ShardedResultBackend)
    assert [shard.namespace for shard in pair.backend.shards] == ["ns:0", "ns:1", "ns:2"]
    assert not load_pair("redis://h?shards=3", "redis://h?shards=2", "ns").fused
    assert isinstance(load_pair("redis://h?shards=1", None, "ns").transport, RedisTransport)
    for driver in (RedisTransport, RedisResultBackend):
        with pytest.raises(ConfigurationError, match="shards="):
            driver("redis://h?shards=3", "ns")


def test_portions_add_up() -> None:
    for limit in range(12):
        for first in range(5):
            parts = portions(limit, 3, first)
            assert (sum(parts), max(parts) - min(parts) <= 1) == (limit, True)
    assert [portions(1, 3, first).index(1) for first in range(3)] == [0, 1, 2]


def test_the_most_important_are_taken_first() -> None:
    looks = [
        [Level(90, 1, 5.0), Level(50, 10, 1.0)],
        [Level(50, 2, 0.0)],
        [Level(100, 1, 9.0), Level(10, 10, 0.0)],
    ]
    assert allot(looks, 1) == [0, 0, 1]
    assert allot(looks, 2) == [1, 0, 1]
    assert allot(looks, 3) == [1, 1, 1]  # of equals the head goes first
    assert allot(looks, 4) == [2, 1, 1]
    assert allot(looks, 14) == [11, 2, 1]
    assert allot(looks, 100) == [11, 2, 11]


def test_allotting_is_exact_whatever_there_is() -> None:
    rng = random.Random(2)
    for _ in range(300):
        looks = [
            [Level(p, rng.randint(1, 9), rng.random()) for p in sorted(levels, reverse=True)]
            for levels in (rng.sample(range(101), rng.randint(0, 4)) for _ in range(4))
        ]
        everything = [
            level.level for levels in looks for level in levels for _ in range(level.entries)
        ]
        limit = rng.randint(1, 60)
        taken: list[int] = []
        for share, levels in zip(allot(looks, limit), looks, strict=True):
            taken += [level.level for level in levels for _ in range(level.entries)][:share]
        assert sorted(taken) == sorted(sorted(everything, reverse=True)[:limit])


def test_no_queue_starves_another() -> None:
    busy, quiet = [Level(100, 50, 1.0)], [Level(0, 1, 1.0)]
    looks: list[list[list[Level]]] = [[busy, []], [busy, quiet]]
    for first in range(2):
        assert allot_all(looks, 5, first) == {0: [2, 2], 1: [0, 1]}
    assert allot_all(looks, 1, 0) == {0: [1, 0]}
    assert allot_all(looks, 1, 1) == {1: [0, 1]}
    assert allot_all([[[], []], [[], []]], 5, 0) == {}


def event(number: int, at: float) -> Event:
    return Event(
        id=str(number), name="t", routing_key="q", old=None, new=JobState.PENDING, at=at,
        attempt=1, fence=0,
    )  # fmt: skip


class Told:
    """A feed whose cursors look as those of Redis."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events

    async def __call__(self, after: str, *, limit: int = 1000) -> EventPage:
        assert limit > 0
        start = len(self.events) if after == "$" else int((after or "0-0").partition("-")[0])
        some = tuple(self.events[start : start + limit])
        return EventPage(events=some, cursor=f"{start + len(some)}-0")


async def test_a_feed_of_several_tells_everything_once() -> None:
    for limit in (1, 2, 3, 7, 100):
        feeds = [Told([event(n, n) for n in range(k, 60, 3 + k)]) for k in range(3)]
        wanted = sorted(e.id for feed in feeds for e in feed.events)
        found, cursor = list[Event](), ""
        while (page := await read(feeds, cursor, limit)).events:
            assert len(page.events) <= limit
            found, cursor = [*found, *page.events], page.cursor
        assert sorted(e.id for e in found) == wanted
        feeds[1].events.append(event(99, 99.0))
        assert [e.id for e in (await read(feeds, page.cursor, limit)).events] == ["99"]


async def test_from_now_on_means_every_feed() -> None:
    feeds = [Told([event(k, k)]) for k in range(3)]
    page = await read(feeds, "$", 1)
    assert page.events == ()
    feeds[2].events.append(event(7, 7.0))
    assert [e.id for e in (await read(feeds, page.cursor, 1)).events] == ["7"]
    with pytest.raises(ResultBackendError):
        await read(feeds, "1-0~1-0", 1)
