"""How redis-py is told to connect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from redis import exceptions
from redis.asyncio import Sentinel
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot

from bananas_brokers.redis.keys import Keys
from bananas_brokers.redis.settings import Settings

Connect = Callable[[], Awaitable[AbstractConnection]]
"""A new connection, logged in. Raises RedisError, OSError."""


def connector(settings: Settings, keys: Keys) -> Connect:
    """What makes connections to wherever ``keys`` are; nothing connects yet."""
    common: dict[str, Any] = {
        "db": settings.db,
        "username": settings.user,
        "password": settings.password,
        "socket_timeout": None,  # whoever uses the connection watches over answers
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
    kind = SSLConnection if settings.tls else Connection

    async def connect() -> AbstractConnection:
        if settings.socket:
            socket = UnixDomainSocketConnection(path=settings.socket, **common)
            return await _connected(socket, settings.connect_timeout)
        host, port = settings.nodes[0]
        if settings.master:
            host, port = await _master(settings)
        elif settings.cluster:
            host, port = await _owner(settings, keys, lambda h, p: kind(host=h, port=p, **common))
        made = kind(host=host, port=port, **common)
        return await _connected(made, settings.connect_timeout)

    return connect


async def _connected(connection: AbstractConnection, timeout: float) -> AbstractConnection:
    """Connected and logged in: a server that is stopped still lets the system accept connections,
    and never answers."""
    try:
        async with asyncio.timeout(timeout):
            await connection.connect()  # type: ignore[no-untyped-call]
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


async def _master(settings: Settings) -> tuple[str, int]:
    """Who is the master now, asked of the sentinels."""
    options: dict[str, Any] = {
        "socket_connect_timeout": settings.connect_timeout,
        "socket_timeout": settings.connect_timeout,
        "username": settings.sentinel_user,
        "password": settings.sentinel_password,
    }
    if settings.tls:
        options |= {"ssl": True, "ssl_ca_certs": settings.ssl_ca_certs}
        options["ssl_check_hostname"] = settings.ssl_check_hostname
    sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
        list(settings.nodes), sentinel_kwargs=options
    )
    try:
        host, port = await sentinel.discover_master(settings.master)
        return str(host), int(port)
    finally:
        for client in sentinel.sentinels:
            await client.aclose()


async def _owner(
    settings: Settings, keys: Keys, make: Callable[[str, int], AbstractConnection]
) -> tuple[str, int]:
    """Which node of a cluster has the slot of all our keys, asked of the first that answers."""
    slot = key_slot(keys.meta.encode())
    failure: Exception = exceptions.ClusterDownError(f"no node has slot {slot}")
    for host, port in settings.nodes:
        try:
            connection = await _connected(make(host, port), settings.connect_timeout)
            try:
                async with asyncio.timeout(settings.connect_timeout):
                    await connection.send_command("CLUSTER", "SLOTS")
                    slots = await connection.read_response(disable_decoding=True)
            finally:
                await connection.disconnect(nowait=True)
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            failure = error
            continue
        for first, last, master, *_ in slots:
            if first <= slot <= last:
                return (master[0] or b"").decode() or host, int(master[1])
    raise failure
