"""The small versioned documents of the memory ledger."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from typing import Final

from bananas_core.errors import ResultBackendError
from bananas_core.job import Doc, Write, WriteAnswer

LARGEST: Final = 256 << 10


class Documents:
    """L38-L40, L50. Keys are kept sorted, since they are listed by prefix."""

    def __init__(self) -> None:
        self._docs: dict[str, tuple[Doc, float | None]] = {}
        """Key → document and when it expires."""
        self._keys: list[str] = []
        self._version = 0

    def write(self, writes: Sequence[Write], now: float) -> list[WriteAnswer]:
        """Apply each write whose version matches.

        Raises:
            ResultBackendError: a value is too large; nothing is written.
        """
        for write in writes:
            if write.value is not None and len(write.value) > LARGEST:
                raise ResultBackendError(
                    f"document {write.key!r:.80} has {len(write.value)} bytes, over {LARGEST}"
                )
        return [self._write(write, now) for write in writes]

    def get(self, keys: Sequence[str], now: float) -> Sequence[Doc | None]:
        """Documents in order of ``keys``."""
        return [self._get(key, now) for key in keys]

    def list(self, prefix: str, after: str, limit: int, now: float) -> list[Doc]:
        """Documents whose key starts with ``prefix`` and is greater than ``after``."""
        found: list[Doc] = []
        start = max(bisect_left(self._keys, prefix), bisect_right(self._keys, after))
        for i in range(start, len(self._keys)):
            if len(found) >= limit or not self._keys[i].startswith(prefix):
                break
            doc = self._get(self._keys[i], now)
            if doc is not None:
                found.append(doc)
        return found

    def delete_prefix(self, prefix: str) -> None:
        """Delete all documents whose key starts with ``prefix``."""
        start = bisect_left(self._keys, prefix)
        stop = start
        while stop < len(self._keys) and self._keys[stop].startswith(prefix):
            del self._docs[self._keys[stop]]
            stop += 1
        del self._keys[start:stop]

    def drop_expired(self, now: float) -> None:
        """Free what nobody can read any more."""
        gone = [key for key, (_, end) in self._docs.items() if end is not None and end <= now]
        for key in gone:
            self._remove(key)

    def _get(self, key: str, now: float) -> Doc | None:
        doc, end = self._docs.get(key, (None, None))
        return None if end is not None and end <= now else doc

    def _write(self, write: Write, now: float) -> WriteAnswer:
        current = self._get(write.key, now)
        if write.version is not None and write.version != (current.version if current else 0):
            return WriteAnswer(done=False, doc=current)
        if write.value is None:
            self._remove(write.key)
            return WriteAnswer(done=True)
        self._version += 1
        doc = Doc(key=write.key, value=write.value, version=self._version)
        if write.key not in self._docs:
            insort(self._keys, write.key)
        self._docs[write.key] = (doc, None if write.ttl is None else now + write.ttl)
        return WriteAnswer(done=True, doc=doc)

    def _remove(self, key: str) -> None:
        if self._docs.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]
