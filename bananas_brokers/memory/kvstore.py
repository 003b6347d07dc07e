"""A key-value store in memory: single-key compare-and-set and nothing more, so that
``KeyValueBackend`` is proven on the least that a store may offer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final
from weakref import WeakKeyDictionary

import msgspec
from sortedcontainers import SortedDict

from bananas_brokers.memory.bell import Bell, wait_for
from bananas_brokers.memory.connection import Connection
from bananas_brokers.memory.store import Store
from bananas_core.clock import Clock
from bananas_core.errors import ResultBackendUnavailable
from bananas_core.keyvalue.store import Change, Entry, StoreCapabilities

Hook = Callable[[str, str], Awaitable[None]]
"""Awaited with (``before`` or ``after``, primitive) around every call: where faults come in."""


class StoreFaults(msgspec.Struct, frozen=True, kw_only=True):
    """Chances, 0-1. ``conflict``: a conditional write is told that its version is old.
    ``lost_reply``: a write applies, wholly or in part, and the call fails."""

    conflict: float = 0.0
    lost_reply: float = 0.0


NO_FAULTS: Final = StoreFaults()


class _Value(msgspec.Struct):
    value: bytes
    version: int
    expires_at: float | None


class Shelf:
    """The data of one namespace."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.bell = Bell()
        self.values: SortedDict = SortedDict()  # key → _Value
        self.numbers: dict[str, int] = {}
        self._version = 0

    def get(self, key: str) -> _Value | None:
        found = self.look(key)
        if found is None:
            self.drop(key)
        return found

    def look(self, key: str) -> _Value | None:
        """The same, leaving one that has expired where it is."""
        found: _Value | None = self.values.get(key)
        if found is None or found.expires_at is None or found.expires_at > self.clock.now():
            return found
        return None

    def put(self, change: Change) -> int:
        self._version += 1
        if change.value is None:
            self.drop(change.key)
        else:
            expires_at = None if change.ttl is None else self.clock.now() + change.ttl
            self.values[change.key] = _Value(change.value, self._version, expires_at)
        self.bell.ring(change.key)
        return self._version

    def drop(self, key: str) -> None:
        self.values.pop(key, None)


_shelves: Final[WeakKeyDictionary[Store, Shelf]] = WeakKeyDictionary()


def shelf_of(store: Store) -> Shelf:
    """The shelf that all clients of a store share; it goes with the store."""
    if store not in _shelves:
        _shelves[store] = Shelf(store.clock)
    return _shelves[store]


class MemoryKeyValueStore:
    """One client. Its ``connection`` says which shelf, and keeps it alive."""

    def __init__(
        self,
        connection: Connection,
        *,
        rng: random.Random | None = None,
        faults: StoreFaults = NO_FAULTS,
        hook: Hook | None = None,
    ) -> None:
        self.capabilities = StoreCapabilities(pushes=True)
        self.faults = faults
        self.hook = hook
        self._connection = connection
        self._rng = rng or random.Random()

    @property
    def _shelf(self) -> Shelf:
        return shelf_of(self._connection.store())

    async def open(self) -> None:
        self._connection.open()

    async def close(self) -> None:
        if self._connection.is_open:
            bell = self._shelf.bell
            self._connection.close()
            bell.ring_all()

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        await self._before("get")
        found = [self._entry(key) for key in keys]
        await self._after("get")
        return found

    async def write(self, changes: Sequence[Change]) -> list[int | None]:
        await self._before("write")
        answers: list[int | None] = []
        for change in changes:
            if self._rng.random() < self.faults.lost_reply:
                raise ResultBackendUnavailable("simulated: a write was cut short")
            answers.append(self._write(change))
        await self._after("write")
        return answers

    async def scan(self, prefix: str, after: str, limit: int) -> list[Entry]:
        await self._before("scan")
        found: list[Entry] = []
        expired: list[str] = []
        shelf, first = self._shelf, max(prefix, after)
        for key in shelf.values.irange(first, inclusive=(first != after, True)):
            if len(found) == limit or not key.startswith(prefix):
                break
            entry = shelf.look(key)
            if entry is None:
                expired.append(key)
            else:
                found.append(Entry(key=key, value=entry.value, version=entry.version))
        for key in expired:
            shelf.drop(key)
        await self._after("scan")
        return found

    async def number(self, key: str) -> int:
        await self._before("number")
        value = self._shelf.numbers[key] = self._shelf.numbers.get(key, 0) + 1
        await self._after("number")
        return value

    async def watch(self, known: Mapping[str, int], timeout: float) -> None:
        await self._before("watch")
        with self._shelf.bell.listen(known) as event:
            if all(self._version(key) == version for key, version in known.items()):
                await wait_for(event, timeout)

    async def now(self) -> float:
        await self._before("now")
        return self._shelf.clock.now()

    def _version(self, key: str) -> int:
        found = self._shelf.get(key)
        return 0 if found is None else found.version

    def _entry(self, key: str) -> Entry | None:
        found = self._shelf.get(key)
        return None if found is None else Entry(key=key, value=found.value, version=found.version)

    def _write(self, change: Change) -> int | None:
        if change.version is not None:
            if self._rng.random() < self.faults.conflict:
                return None
            if self._version(change.key) != change.version:
                return None
        return self._shelf.put(change)

    async def _before(self, primitive: str) -> None:
        await asyncio.sleep(0)
        if self.hook is not None:
            await self.hook("before", primitive)
        self._connection.store()  # raises if it was closed

    async def _after(self, primitive: str) -> None:
        await asyncio.sleep(0)
        if self.hook is not None:
            await self.hook("after", primitive)
