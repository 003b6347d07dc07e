"""Statements in a caller's own transaction, on whatever kind of connection they have.

None of the libraries is imported here: a connection can only be one of a library that the caller
has imported. Nothing is committed or rolled back, and an error leaves the transaction to them.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from bananas_brokers.postgres.database import Fetch, Rows
from bananas_core.errors import (
    BananasError,
    ConfigurationError,
    ResultBackendError,
    UnsupportedCapability,
)

T = TypeVar("T")

KINDS: Final = ("asyncpg", "psycopg", "sqlalchemy", "django")

_NUMBER: Final = re.compile(r"\$(\d+)")
_NONE_OPEN: Final = "there is no transaction on the connection given as tx=, so it would protect"


class Row(tuple[Any, ...]):
    """A row that also knows its columns by name, as asyncpg's do."""

    names: dict[str, int]

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self.names[key] if isinstance(key, str) else key)


def fetch_on(connection: Any) -> Fetch:
    """How to run a statement on a connection of any of ``KINDS``.

    Raises:
        UnsupportedCapability: it is none of these.
        ConfigurationError: it is not in a transaction.
    """
    for kind in (_asyncpg, _psycopg, _sqlalchemy, _django):
        fetch = kind(connection)
        if fetch is not None:
            return fetch
    raise UnsupportedCapability(
        f"tx= takes a connection of asyncpg, psycopg 3, SQLAlchemy or Django, not "
        f"{type(connection).__module__}.{type(connection).__qualname__}"
    )


def after_commit(connection: Any, call: Callable[[], None]) -> None:
    """Have ``call`` called once the transaction is committed, on any thread, where the library
    can tell; else never."""
    if _is(connection, "django.db.backends.base.base", "BaseDatabaseWrapper"):
        connection.on_commit(call, robust=True)


def _asyncpg(connection: Any) -> Fetch | None:
    if not _is(connection, "asyncpg.connection", "Connection") and not _is(
        connection, "asyncpg.pool", "PoolConnectionProxy"
    ):
        return None
    if not connection.is_in_transaction():
        raise ConfigurationError(f"{_NONE_OPEN} nothing; use `async with connection.transaction()`")

    async def fetch(text: str, values: tuple[Any, ...]) -> Rows:
        found: Rows = await connection.fetch(text, *values)
        return found

    return fetch


def _psycopg(connection: Any) -> Fetch | None:
    waits = _is(connection, "psycopg", "AsyncConnection")
    if not waits and not _is(connection, "psycopg", "Connection"):
        return None
    idle = connection.info.transaction_status == 0
    if connection.autocommit and idle:
        raise ConfigurationError(f"{_NONE_OPEN} nothing; use `with connection.transaction()`")

    async def fetch(text: str, values: tuple[Any, ...]) -> Rows:
        cursor = connection.cursor(row_factory=_tuples())
        if not waits:
            return await asyncio.to_thread(_run_on, cursor, text, values)
        await cursor.execute(*_formatted(text, values))
        if cursor.description is None:
            return []
        return _rows([column[0] for column in cursor.description], await cursor.fetchall())

    return fetch


def _sqlalchemy(connection: Any) -> Fetch | None:
    waits = _is(connection, "sqlalchemy.ext.asyncio", "AsyncConnection")
    session_waits = _is(connection, "sqlalchemy.ext.asyncio", "AsyncSession")
    session = _is(connection, "sqlalchemy.orm", "Session")
    if not (waits or session_waits or session or _is(connection, "sqlalchemy", "Connection")):
        return None

    async def fetch(text: str, values: tuple[Any, ...]) -> Rows:
        if waits or session_waits:
            one = await connection.connection() if session_waits else connection
            _check_alchemy(one.sync_connection)
            result = await one.exec_driver_sql(*_in_style_of(one.dialect, text, values))
        else:
            one = connection.connection() if session else connection
            _check_alchemy(one)
            said = _in_style_of(one.dialect, text, values)
            result = await asyncio.to_thread(one.exec_driver_sql, *said)
        return _rows(list(result.keys()), result.fetchall()) if result.returns_rows else []

    return fetch


def _check_alchemy(connection: Any) -> None:
    if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        raise ConfigurationError(f"{_NONE_OPEN} nothing: its isolation level is AUTOCOMMIT")


def _django(connection: Any) -> Fetch | None:
    if not _is(connection, "django.db.backends.base.base", "BaseDatabaseWrapper"):
        return None
    if connection.vendor != "postgresql":
        raise UnsupportedCapability(f"tx= is a connection to {connection.vendor}, not PostgreSQL")
    if not connection.in_atomic_block:
        raise ConfigurationError(f"{_NONE_OPEN} nothing; use `with transaction.atomic()`")

    def run(text: str, values: tuple[Any, ...]) -> Rows:
        # Whoever owns the connection waits meanwhile, so nobody else uses it.
        connection.inc_thread_sharing()
        try:
            with connection.cursor() as cursor:
                return _run_on(cursor, text, values)
        finally:
            connection.dec_thread_sharing()

    async def fetch(text: str, values: tuple[Any, ...]) -> Rows:
        return await asyncio.to_thread(run, text, values)

    return fetch


def _run_on(cursor: Any, text: str, values: tuple[Any, ...]) -> Rows:
    """A statement on a blocking cursor, as all such libraries have it."""
    cursor.execute(*_formatted(text, values))
    if cursor.description is None:
        return []
    return _rows([column[0] for column in cursor.description], cursor.fetchall())


def _in_style_of(dialect: Any, text: str, values: tuple[Any, ...]) -> tuple[str, Any]:
    if dialect.name != "postgresql":
        raise UnsupportedCapability(f"tx= is a connection to {dialect.name}, not PostgreSQL")
    if dialect.paramstyle == "numeric_dollar":
        return text, values
    if dialect.paramstyle == "pyformat":
        return _formatted(text, values)
    raise UnsupportedCapability(
        f"tx= takes SQLAlchemy's dialects asyncpg and psycopg, not {dialect.driver}"
    )


def _formatted(text: str, values: tuple[Any, ...]) -> tuple[str, dict[str, Any]]:
    """For libraries whose parameters are named."""
    named = _NUMBER.sub(r"%(p\1)s", text.replace("%", "%%"))
    return named, {f"p{i}": _plain(value) for i, value in enumerate(values, 1)}


def _plain(value: Any) -> Any:
    """Whole numbers as such: these libraries send truth values as another type."""
    if isinstance(value, list):
        return [int(item) if isinstance(item, bool) else item for item in value]
    return value


def _rows(names: Sequence[str], found: Sequence[Any]) -> Rows:
    kind = type("NamedRow", (Row,), {"names": {name: i for i, name in enumerate(names)}})
    return [kind(row) for row in found]


def _tuples() -> Any:
    return sys.modules["psycopg.rows"].tuple_row


def _is(value: Any, module: str, name: str) -> bool:
    """Whether it is of a class that is imported already."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(value, kind)


async def translated(call: Awaitable[T]) -> T:
    """Errors of the caller's library as ours, with the cause kept."""
    try:
        return await call
    except BananasError:
        raise
    except Exception as error:
        raise ResultBackendError(
            f"the jobs could not be put in your transaction, which has to be rolled back "
            f"({type(error).__name__}: {error})"
        ) from error
