"""How redis-py is told to connect."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Sentinel
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from bananas_brokers.redis.settings import Settings
from bananas_brokers.redis.wire import Connect


def connector(settings: Settings) -> Connect:
    """Makes unopened connections. Nothing is read here."""
    common: dict[str, Any] = {
        "db": settings.db,
        "username": settings.user,
        "password": settings.password,
        "socket_timeout": None,  # the wire watches over answers itself
        "socket_connect_timeout": settings.connect_timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    if settings.tls:
        common |= {
            "ssl_ca_certs": settings.ssl_ca_certs,
            "ssl_certfile": settings.ssl_certfile,
            "ssl_keyfile": settings.ssl_keyfile,
            "ssl_check_hostname": settings.ssl_check_hostname,
        }
    if settings.master:
        return _sentinel_connector(settings, common)
    if settings.socket:
        return lambda: UnixDomainSocketConnection(path=settings.socket, **common)
    host, port = settings.nodes[0]
    kind = SSLConnection if settings.tls else Connection
    return lambda: kind(host=host, port=port, **common)


def _sentinel_connector(settings: Settings, common: dict[str, Any]) -> Connect:
    kwargs: dict[str, Any] = {
        "socket_connect_timeout": settings.connect_timeout,
        "socket_timeout": settings.connect_timeout,
        "username": settings.sentinel_user,
        "password": settings.sentinel_password,
    }
    if settings.tls:
        tls = {key: value for key, value in common.items() if key.startswith("ssl_")}
        kwargs |= {"ssl": True, **tls}

    options = common | ({"ssl": True} if settings.tls else {})

    def connect() -> AbstractConnection:
        # Made anew each time: who is the master is asked at every connection.
        sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
            list(settings.nodes), sentinel_kwargs=kwargs
        )
        client = sentinel.master_for(settings.master, **options)
        connection: AbstractConnection = client.connection_pool.make_connection()
        return connection

    return connect
