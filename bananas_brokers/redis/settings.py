"""What a ``redis://`` URL says."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from bananas_core.errors import ConfigurationError
from bananas_core.urls import boolean, parse_url, read_options, redact

SCHEMES: Final = (
    "redis",
    "rediss",
    "redis+unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)

_ONLY: Final = {"ssl_": "rediss", "sentinel_": "+sentinel", "db": "redis+unix"}
"""Options of some forms only, by how they begin."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One database of one server, and how it is used. Equal settings mean the same place."""

    scheme: str
    nodes: tuple[tuple[str, int], ...] = ()
    """The server; of Sentinel: the sentinels; of a cluster: nodes to ask first."""
    socket: str = ""
    master: str = ""
    """Of Sentinel: the name of the monitored master."""
    db: int = 0
    """The database; of `redis+unix` an option, else the path."""
    user: str | None = None
    password: str | None = None
    socket_timeout: float = 10.0
    """Seconds after which a call without an answer fails and its connection is dropped."""
    connect_timeout: float = 5.0
    """Seconds for connecting."""
    durable: bool = False
    """Open only if the server syncs every write to disk before it answers."""
    wait_replicas: int = 0
    """Replicas that must have a submitted job before it counts as accepted."""
    ssl_ca_certs: str | None = None
    """Of `rediss…`: a file of trusted certificates; none: the system's."""
    ssl_certfile: str | None = None
    """Of `rediss…`: a certificate to show to the server."""
    ssl_keyfile: str | None = None
    """Of `rediss…`: the key of that certificate."""
    ssl_check_hostname: bool = True
    """Of `rediss…`: whether the certificate must name the host."""
    sentinel_user: str | None = None
    """Of `…+sentinel`: the login at the sentinels."""
    sentinel_password: str | None = None
    """Of `…+sentinel`: its password."""

    @property
    def tls(self) -> bool:
        return self.scheme.startswith("rediss")

    @property
    def cluster(self) -> bool:
        return self.scheme.endswith("+cluster")

    @property
    def place(self) -> tuple[object, ...]:
        """What makes two URLs name the same data."""
        return (self.nodes, self.socket, self.master, self.db)

    @property
    def durability(self) -> str:
        """What a confirmed call survives, as capabilities name it."""
        if self.wait_replicas:
            return "replicated"
        return "disk" if self.durable else "memory"

    @property
    def label(self) -> str:
        """For people; no secret in it."""
        if self.socket:
            return f"{self.scheme}://{self.socket}"
        nodes = ",".join(f"{host}:{port}" for host, port in self.nodes)
        end = f"{self.master}/{self.db}" if self.master else str(self.db)
        return f"{self.scheme}://{nodes}/{end}"

    def __repr__(self) -> str:
        return f"Settings({self.label})"


def read_settings(url: str) -> Settings:
    """The settings of a URL.

    Raises:
        ConfigurationError: a form that is not built, an unknown option or a bad value.
    """
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        raise ConfigurationError(f"{scheme}:// is not one of {', '.join(SCHEMES)}")
    parsed = parse_url(url)
    options = read_options(
        parsed,
        {
            "socket_timeout": _seconds,
            "connect_timeout": _seconds,
            "durable": boolean,
            "wait_replicas": _count,
            "db": _count,
            "ssl_ca_certs": str,
            "ssl_certfile": str,
            "ssl_keyfile": str,
            "ssl_check_hostname": boolean,
            "sentinel_user": str,
            "sentinel_password": str,
        },
    )
    for name in options:
        form = next((form for start, form in _ONLY.items() if name.startswith(start)), None)
        if form is not None and form not in scheme:
            raise ConfigurationError(f"{scheme}:// has no option {name!r}; it is of {form}…://")
    common: dict[str, Any] = {
        "scheme": scheme,
        "user": parsed.user or None,
        "password": parsed.password or None,
    }
    if scheme == "redis+unix":
        if parsed.host or not parsed.path:
            raise ConfigurationError(
                "redis+unix:// needs the path of a socket: redis+unix:///run/redis.sock"
            )
        return Settings(socket="/" + parsed.path.lstrip("/"), **common, **options)
    if scheme.endswith("sentinel"):
        master, _, db = parsed.path.partition("/")
        if not master or not parsed.host:
            raise ConfigurationError(
                f"{redact(url)} names no master; write redis+sentinel://host:26379,host2:26379/"
                "mymaster/0"
            )
        nodes = tuple((host, port or 26379) for host, port in parsed.hosts)
        return Settings(nodes=nodes, master=master, db=_db(db, url), **common, **options)
    if scheme.endswith("cluster"):
        if not parsed.host or _db(parsed.path, url) != 0:
            raise ConfigurationError(
                f"{redact(url)}: a cluster has database 0 only; write redis+cluster://host:6379,"
                "host2:6379"
            )
        nodes = tuple((host, port or 6379) for host, port in parsed.hosts)
        return Settings(nodes=nodes, **common, **options)
    if len(parsed.hosts) > 1:
        raise ConfigurationError(f"{redact(url)} names several servers; {scheme}:// is one")
    node = (parsed.host or "localhost", parsed.port or 6379)
    return Settings(nodes=(node,), db=_db(parsed.path, url), **common, **options)


def _db(text: str, url: str) -> int:
    if text == "":
        return 0
    if not text.isdigit():
        raise ConfigurationError(f"{redact(url)}: the database is a number, as in redis://host/0")
    return int(text)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 3600:
        raise ValueError("expected seconds, more than 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError("expected 0 or more")
    return value
