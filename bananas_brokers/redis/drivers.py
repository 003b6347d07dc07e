"""What the entry points name: the driver that a URL asks for, with one shard or with several."""

from __future__ import annotations

from bananas_brokers.redis.results import RedisResultBackend
from bananas_brokers.redis.settings import read_settings
from bananas_brokers.redis.sharded_results import ShardedResultBackend
from bananas_brokers.redis.sharded_transport import ShardedTransport
from bananas_brokers.redis.transport import RedisTransport
from bananas_core.clock import Clock
from bananas_core.results import ResultBackend
from bananas_core.transport import Transport


def transport(url: str, namespace: str, *, clock: Clock | None = None) -> Transport:
    """Raises ConfigurationError for a bad URL; nothing connects yet."""
    if read_settings(url).shards > 1:
        return ShardedTransport(url, namespace, clock=clock)
    return RedisTransport(url, namespace, clock=clock)


def result_backend(url: str, namespace: str, *, clock: Clock | None = None) -> ResultBackend:
    """Raises ConfigurationError for a bad URL; nothing connects yet."""
    if read_settings(url).shards > 1:
        return ShardedResultBackend(url, namespace, clock=clock)
    return RedisResultBackend(url, namespace, clock=clock)
