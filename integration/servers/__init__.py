"""Real servers on loopback, as plain processes or containers: for tests, faults and benchmarks
alike."""

from integration.servers.base import Server, ServerFailed, ServerMissing
from integration.servers.postgres import PgBouncerServer, PostgresServer
from integration.servers.proxy import Network, Proxy
from integration.servers.rabbit import RabbitServer
from integration.servers.redis import RedisServer, SentinelServer, ValkeyServer

__all__ = [
    "Network",
    "PgBouncerServer",
    "PostgresServer",
    "Proxy",
    "RabbitServer",
    "RedisServer",
    "SentinelServer",
    "Server",
    "ServerFailed",
    "ServerMissing",
    "ValkeyServer",
]
