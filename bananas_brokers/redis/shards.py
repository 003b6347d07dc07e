"""Where things of a namespace with ``shards=n`` are: each shard is a namespace ``{name:k}``.

The rule is public, since plain clients read results by it: CRC-32 of the id, modulo n. It knows
nothing but the name of a thing, so that whoever has an id finds its record.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar
from zlib import crc32

from bananas_brokers.redis.settings import Settings
from bananas_core.errors import ConfigurationError

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


def shard_of(name: str, shards: int) -> int:
    """The shard of a job id, or of a queue's own messages."""
    return crc32(name.encode("utf-8", "surrogatepass")) % shards


def shard_of_doc(key: str, shards: int) -> int:
    """The shard of a document: that of the job it goes with, else of its key."""
    return shard_of(job_of(key) or key, shards)


def shard_of_prefix(prefix: str, shards: int) -> int | None:
    """The one shard of all documents that begin like this; None: they may be in any."""
    job = job_of(prefix)
    return shard_of(job, shards) if job else None


def job_of(key: str) -> str:
    """The job that a document goes with, or nothing."""
    parts = key.split("/", 2)
    return parts[1] if len(parts) == 3 and parts[0] == "job" else ""


def shard_namespace(settings: Settings, namespace: str, shard: int | None) -> str:
    """The namespace of one driver that has one group of keys.

    Raises:
        ConfigurationError: the URL says that there are several, and not which one this is.
    """
    if shard is not None:
        return f"{namespace}:{shard}"
    if settings.shards > 1:
        raise ConfigurationError(
            "this class has one shard only; use bananas_brokers.redis.drivers for shards="
        )
    return namespace


def grouped(items: Sequence[T], key: Callable[[T], K]) -> dict[K, list[int]]:
    """Places of items by key, in order."""
    groups: dict[K, list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault(key(item), []).append(place)
    return groups


def portions(limit: int, shards: int, first: int) -> list[int]:
    """A limit in parts that differ by one at most; the odd ones go to ``first`` and those after."""
    base, odd = divmod(max(0, limit), shards)
    return [base + ((shard - first) % shards < odd) for shard in range(shards)]
