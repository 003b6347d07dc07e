"""The primitives that a key-value store must have to carry the ledger.

K1. Each change applies atomically or not at all; nothing is promised across keys, and a call that
    fails or is cancelled may have applied any part of its list.
K2. A key's version differs after every write, also over deletes and restarts.
K3. ``get`` and ``scan`` see every write that was confirmed before they were called.
K4. Errors are ResultBackendError and ResultBackendUnavailable, as in ``results.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec


class StoreCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What the store does; data on the object."""

    max_value: int = 512 * 1024
    """Largest value in bytes."""
    clock_error: float = 0.0
    """Worst error of ``now``, seconds."""
    pushes: bool = False
    """``watch`` returns as soon as a key changed, rather than after a while."""
    durability: str = "memory"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A key with its value and version. Versions are positive."""

    key: str
    value: bytes
    version: int


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """``version`` 0: only if the key is absent; None: whatever is there; else only if it is the
    current one. ``value`` None deletes, without a trace. ``ttl``: seconds after which the key is
    absent."""

    key: str
    value: bytes | None
    version: int | None = None
    ttl: float | None = None


class KeyValueStore(Protocol):
    """One namespace of a store, or a connection to it. Keys are at most 400 characters of
    printable ASCII and sort by code point."""

    capabilities: StoreCapabilities

    async def open(self) -> None:
        """Connects. Safe to repeat."""
        ...

    async def close(self) -> None:
        """Ends watches. Safe to repeat."""
        ...

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """K5. In order of ``keys``."""
        ...

    async def write(self, changes: Sequence[Change]) -> list[int | None]:
        """K6. The new version (of a delete: any positive number) of each change that applied,
        None for each whose condition did not hold. Keys differ within one call."""
        ...

    async def scan(self, prefix: str, after: str, limit: int) -> list[Entry]:
        """K7. The first ``limit`` keys that start with ``prefix`` and are greater than
        ``after``, in order."""
        ...

    async def number(self, key: str) -> int:
        """K8. A counter: 1 at the first call, one more at each further call, never one twice."""
        ...

    async def watch(self, known: Mapping[str, int], timeout: float) -> None:
        """K9. Returns as soon as a key may have another version than the one that is known (0:
        absent), so that nothing is missed between a read and the watch; on close; or after
        ``timeout`` seconds. A store that doesn't push waits for a while, at most a second."""
        ...

    async def now(self) -> float:
        """K10. The store's clock, unix seconds, with ``clock_error``."""
        ...
