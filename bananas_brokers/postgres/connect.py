"""How asyncpg is told to connect, and what it connected to."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import asyncpg
import msgspec

from bananas_brokers.postgres.settings import Settings

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]

_PLANS: Final = (
    "jit = off, plan_cache_mode = force_generic_plan, enable_seqscan = off, "
    "enable_bitmapscan = off, enable_nestloop = off, enable_mergejoin = off"
)
"""Every statement names the rows that it wants from an index, and joins only these. A plan that was
made while the tables were small would otherwise be kept when they are large."""
_LIMITS: Final = "lock_timeout = '5s', idle_in_transaction_session_timeout = '5s'"
"""A process that was stopped in the middle of a transaction keeps its locks no longer."""

FACTS: Final = """
SELECT pg_backend_pid() AS pid,
    current_setting('server_version_num')::int AS version,
    current_setting('server_version') AS version_name,
    current_setting('server_encoding') AS encoding,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes,
    current_setting('synchronous_standby_names', true) AS standbys,
    pg_is_in_recovery() AS standby,
    coalesce((SELECT s.ssl FROM pg_stat_ssl AS s WHERE s.pid = pg_backend_pid()), false) AS tls
"""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the server says of itself."""

    version: int = 0
    version_name: str = ""
    encoding: str = "UTF8"
    synchronous_commit: str = "on"
    fsync: str = "on"
    full_page_writes: str = "on"
    standbys: str | None = None
    standby: bool = False
    tls: bool = False
    pooled: bool = False
    """Something between hands connections on, so that nothing may be left behind on one."""


def session_settings(settings: Settings, facts: Facts, *, reading: bool = False) -> str:
    """What a connection is told once, or each transaction behind a pooler."""
    local = "SET LOCAL " if facts.pooled or reading else "SET "
    words = "" if reading else f"{_PLANS}, {_LIMITS}"
    if reading:
        words = (
            "plan_cache_mode = force_custom_plan, enable_bitmapscan = on, enable_nestloop = on, "
            "jit = off"
        )
    elif not settings.durable:
        words += ", synchronous_commit = off"
    elif facts.synchronous_commit == "off":
        words += ", synchronous_commit = on"
    return ";".join(local + word for word in words.split(", "))


async def connect(settings: Settings, *, plain: bool) -> Connection:
    """A new connection, logged in. ``plain``: nothing that a pooler can't pass on.

    Raises:
        PostgresError, InterfaceError, OSError, TimeoutError: as asyncpg does.
    """
    return await asyncpg.connect(
        host=[host for host, _ in settings.hosts],
        port=[port for _, port in settings.hosts],
        user=settings.user,
        password=settings.password,
        database=settings.database,
        timeout=settings.connect_timeout,
        ssl=_tls(settings),
        statement_cache_size=0 if plain else 200,
        max_cached_statement_lifetime=0,
        server_settings={"application_name": "bananas"},
        target_session_attrs="read-write" if len(settings.hosts) > 1 else "any",
    )


async def look(connection: Connection, settings: Settings) -> Facts:
    """Ask the server, leaving nothing on the connection."""
    await connection.execute("BEGIN READ ONLY")
    statement = await connection.prepare(FACTS, name="")
    row: Any = await statement.fetchrow()
    await connection.execute("COMMIT")
    found = dict(row)
    # A pooler makes up the number that it tells its clients.
    other = found.pop("pid") != connection.get_server_pid()
    pooled = other if settings.pooler is None else settings.pooler
    return Facts(pooled=pooled, **found)


def _tls(settings: Settings) -> Any:
    mode = settings.sslmode
    if mode in ("disable", "prefer"):
        return False if mode == "disable" else "prefer"
    context = ssl.create_default_context(cafile=settings.sslrootcert)
    context.check_hostname = mode == "verify-full"
    if mode == "require" and settings.sslrootcert is None:
        context.verify_mode = ssl.CERT_NONE
    if settings.sslcert is not None:
        context.load_cert_chain(settings.sslcert, settings.sslkey)
    return context
