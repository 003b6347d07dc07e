"""Real servers on loopback, as plain processes or containers: for tests, faults and benchmarks
alike."""

from integration.servers.base import Server, ServerFailed, ServerMissing
from integration.servers.redis import RedisServer, SentinelServer, ValkeyServer

__all__ = [
    "RedisServer",
    "SentinelServer",
    "Server",
    "ServerFailed",
    "ServerMissing",
    "ValkeyServer",
]
