"""Real servers as plain processes on loopback: for tests, faults and benchmarks alike."""

from integration.servers.base import Server, ServerFailed, ServerMissing
from integration.servers.postgres import PgBouncerServer, PostgresServer
from integration.servers.redis import RedisServer, SentinelServer, ValkeyServer

__all__ = [
    "PgBouncerServer",
    "PostgresServer",
    "RedisServer",
    "SentinelServer",
    "Server",
    "ServerFailed",
    "ServerMissing",
    "ValkeyServer",
]
