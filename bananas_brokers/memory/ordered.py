"""A set of items that gives out the one with the smallest key."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T", str, int)

_SLACK = 64


class Ordered(Generic[T]):
    """A heap with removal: entries whose item is gone, or has another key now, are skipped."""

    def __init__(self) -> None:
        self._keys: dict[T, Any] = {}
        self._heap: list[tuple[Any, T]] = []

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, item: T) -> bool:
        return item in self._keys

    def __iter__(self) -> Iterator[T]:
        return iter(self._keys)

    def add(self, item: T, key: Any) -> None:
        """Add an item, or give it another key."""
        if self._keys.get(item) == key:
            return
        self._keys[item] = key
        heapq.heappush(self._heap, (key, item))
        if len(self._heap) > 2 * len(self._keys) + _SLACK:
            self._compact()

    def discard(self, item: T) -> None:
        """Remove an item if it is there."""
        self._keys.pop(item, None)
        if len(self._heap) > 2 * len(self._keys) + _SLACK:
            self._compact()

    def first(self) -> tuple[Any, T] | None:
        """The smallest key and its item, or None."""
        while self._heap:
            key, item = self._heap[0]
            if self._keys.get(item) == key:
                return key, item
            heapq.heappop(self._heap)
        return None

    def pop(self) -> T | None:
        """Remove and return the item with the smallest key."""
        found = self.first()
        if found is None:
            return None
        heapq.heappop(self._heap)
        del self._keys[found[1]]
        return found[1]

    def take(self, upto: Any, limit: int) -> list[T]:
        """Remove and return up to ``limit`` items whose key is ``upto`` at most, in order."""
        taken: list[T] = []
        while len(taken) < limit and (found := self.first()) is not None and found[0] <= upto:
            heapq.heappop(self._heap)
            del self._keys[found[1]]
            taken.append(found[1])
        return taken

    def _compact(self) -> None:
        self._heap = [(key, item) for item, key in self._keys.items()]
        heapq.heapify(self._heap)
