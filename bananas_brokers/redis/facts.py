"""What the server says of itself, and what of it a user should know."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import msgspec
from redis import exceptions

from bananas_brokers.redis.wire import Wire

OLDEST: tuple[int, ...] = (7, 0)
WAITAOF: tuple[int, ...] = (7, 2)
"""The first with this command; Valkey tells a version of Redis that it is compatible with."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """None: the server doesn't tell."""

    version: str = "0"
    kind: str = "Redis"
    server: str = "Redis"
    """Its name with its own version."""
    mode: str = "standalone"
    loading: bool = False
    """It reads its data from disk; until it has, it says nothing else about that."""
    policy: str | None = None
    """What it does at ``maxmemory``."""
    max_memory: int = 0
    append_only: bool = False
    fsync: str | None = None
    snapshots: bool = False

    @property
    def durable(self) -> bool:
        """Whether what it has confirmed is on its disk."""
        return self.append_only and self.fsync == "always"

    @property
    def syncs(self) -> bool:
        """Whether it can be waited for that something is on its disk."""
        return self.durable or (self.append_only and self.fsync != "no" and self.has_waitaof)

    @property
    def has_waitaof(self) -> bool:
        return self._version >= WAITAOF

    @property
    def too_old(self) -> bool:
        return self._version < OLDEST

    @property
    def _version(self) -> tuple[int, ...]:
        return tuple(int(part) for part in (*self.version.split("."), "0")[:2])


async def read_facts(wire: Wire) -> Facts:
    """Ask the server. Raises what the client raises, but not for commands that are forbidden."""
    raw = (await wire.call("INFO")).decode()
    fields = dict(line.split(":", 1) for line in raw.splitlines() if ":" in line)
    settings: dict[str, str] = {}
    try:
        found = await wire.call("CONFIG", "GET", "appendfsync", "save", "maxmemory-policy")
        settings = {
            key.decode(): value.decode() for key, value in zip(found[::2], found[1::2], strict=True)
        }
    except exceptions.ResponseError:
        pass  # managed services forbid CONFIG
    valkey = fields.get("valkey_version")
    return Facts(
        version=fields.get("redis_version", "0"),
        kind="Redis" if valkey is None else f"Valkey {valkey}, compatible with Redis",
        server=f"Redis {fields.get('redis_version')}" if valkey is None else f"Valkey {valkey}",
        mode=fields.get("redis_mode") or fields.get("server_mode") or "standalone",
        loading=fields.get("loading", "0") == "1",
        policy=settings.get("maxmemory-policy") or fields.get("maxmemory_policy"),
        max_memory=int(fields.get("maxmemory", 0)),
        append_only=fields.get("aof_enabled") == "1",
        fsync=settings.get("appendfsync"),
        snapshots=bool(settings.get("save")),
    )


def versions_of(facts: Facts) -> dict[str, str]:
    """Of the client library, and of the server as it was when it was opened."""
    libraries = [f"redis-py {version('redis')}"]
    try:
        libraries.append(f"hiredis {version('hiredis')}")
    except PackageNotFoundError:
        pass
    return {"client": ", ".join(libraries), "server": facts.server}


def warnings_of(facts: Facts, *, replicas: int) -> list[str]:
    """For ``doctor``: what may lose jobs, and what to set."""
    found = []
    if facts.policy is not None and facts.policy != "noeviction":
        found.append(
            f"maxmemory-policy is {facts.policy}: a full server throws keys of Bananas away, and "
            "jobs with them; set it to noeviction"
        )
    if not facts.max_memory:
        found.append(
            "maxmemory is not set: a server that runs out of memory is killed by the system; set "
            "it, and submitting fails clearly instead while workers go on"
        )
    if replicas:
        after = f"what {replicas} replicas confirmed survives a fail-over to one of them"
    else:
        after = "and a fail-over loses what the replica had not got yet (see ?wait_replicas=)"
    if not facts.append_only:
        keeps = "only its last snapshot is left" if facts.snapshots else "everything is lost"
        found.append(
            f"appendonly is off: when the server ends, {keeps}; set appendonly yes; {after}"
        )
    elif facts.fsync != "always":
        found.append(
            f"appendfsync is {facts.fsync or 'unknown'}: a crash of the machine loses about the "
            f"last second, of the server's process nothing; {after}"
        )
    return found
