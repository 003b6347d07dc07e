"""What a ``postgresql://`` URL says."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from bananas_core.errors import ConfigurationError
from bananas_core.urls import boolean, parse_url, read_options, redact

SCHEMES: Final = ("postgresql", "postgres")
MODES: Final = ("disable", "prefer", "require", "verify-ca", "verify-full")
_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,39}")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One database, and how it is used."""

    hosts: tuple[tuple[str, int], ...]
    """Tried in order until one takes writes; a folder is that of a Unix socket."""
    database: str
    user: str | None = None
    """None: what PGUSER or the system says, as in other clients."""
    password: str | None = None
    """None: PGPASSWORD, or ~/.pgpass."""
    host: str | None = None
    """The folder of a Unix socket, such as /run/postgresql, for a URL without a host."""
    schema: str = "bananas"
    """The schema that the tables are in; it is made if it isn't there."""
    durable: bool = True
    """True: a call returns once the server has what it wrote on disk. False: a crash of the server
    may lose the last moments, and the same job may run twice (`synchronous_commit=off`)."""
    pooler: bool | None = None
    """Whether a pooler such as PgBouncer gives each transaction another connection; none: found
    out. True: no prepared statements, and waiting by polling."""
    pool_size: int = 5
    """Most connections of one process to this namespace, besides one to be woken over."""
    connect_timeout: float = 5.0
    """Seconds for connecting."""
    timeout: float = 10.0
    """Seconds after which a call without an answer fails and its connection is dropped."""
    sslmode: str = "prefer"
    """`disable`, `prefer`, `require`, `verify-ca` or `verify-full`, as in other clients."""
    sslrootcert: str | None = None
    """A file of trusted certificates; none: the system's."""
    sslcert: str | None = None
    """A certificate to show to the server."""
    sslkey: str | None = None
    """The key of that certificate."""

    @property
    def place(self) -> tuple[object, ...]:
        """What makes two URLs name the same data."""
        return (self.hosts, self.database, self.schema)

    @property
    def durability(self) -> str:
        """What a confirmed call survives, as capabilities name it."""
        return "disk" if self.durable else "memory"

    @property
    def local(self) -> bool:
        """Whether no network lies between."""
        return all(host[:1] == "/" or host in _LOOPBACK for host, _ in self.hosts)

    @property
    def label(self) -> str:
        """For people; no secret in it."""
        hosts = ",".join(host if host[:1] == "/" else f"{host}:{port}" for host, port in self.hosts)
        return f"postgresql://{hosts}/{self.database}"

    def __repr__(self) -> str:
        return f"Settings({self.label})"


_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def read_settings(url: str) -> Settings:
    """The settings of a URL.

    Raises:
        ConfigurationError: no database, an unknown option, a bad value, or options that
            contradict each other.
    """
    parsed = parse_url(url)
    if parsed.scheme not in SCHEMES:
        raise ConfigurationError(f"{parsed.scheme}:// is not postgresql://")
    if not parsed.path or "/" in parsed.path:
        raise ConfigurationError(
            f"{redact(url)} names no database; write postgresql://user@host:5432/database"
        )
    options: dict[str, Any] = read_options(
        parsed,
        {
            "host": _folder,
            "schema": _schema,
            "durable": boolean,
            "pooler": boolean,
            "pool_size": _count,
            "connect_timeout": _seconds,
            "timeout": _seconds,
            "sslmode": _mode,
            "sslrootcert": str,
            "sslcert": str,
            "sslkey": str,
        },
    )
    _check_tls(options)
    socket = options.get("host")
    if socket is not None and parsed.host:
        raise ConfigurationError(f"{redact(url)} names a host, and a socket by ?host=")
    named = [(host or "localhost", port or 5432) for host, port in parsed.hosts]
    hosts = tuple(named) if socket is None else ((socket, parsed.port or 5432),)
    return Settings(
        hosts=hosts,
        database=parsed.path,
        user=parsed.user or None,
        password=parsed.password or None,
        **options,
    )


def _check_tls(options: dict[str, Any]) -> None:
    mode = options.get("sslmode", "prefer")
    if mode in MODES[:2]:
        for name in ("sslrootcert", "sslcert", "sslkey"):
            if name in options:
                raise ConfigurationError(
                    f"postgresql:// option {name} needs sslmode=require, verify-ca or verify-full: "
                    f"with {mode} the connection may be open to others"
                )
    if "sslkey" in options and "sslcert" not in options:
        raise ConfigurationError("postgresql:// option sslkey belongs to an sslcert")


def _mode(text: str) -> str:
    if text not in MODES:
        raise ValueError(f"expected one of {', '.join(MODES)}")
    return text


def _folder(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("expected the folder of a socket, such as /run/postgresql")
    return text


def _schema(text: str) -> str:
    if not _SCHEMA.fullmatch(text) or text.startswith("pg_"):
        raise ValueError("expected at most 40 of a-z, 0-9 and _, not a digit first, nor pg_")
    return text


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 3600:
        raise ValueError("expected seconds, more than 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1000:
        raise ValueError("expected 1 or more")
    return value
