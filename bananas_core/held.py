"""Which claims a worker process holds, and which of them have started: what is renewed, and what
counts as a death when the process ends.

``ClaimTable`` knows claims by their keys. ``NumberedClaims`` is the supervisor's: the child numbers
its claims in the order in which it holds them and then speaks of runs of numbers only, so that the
supervisor never even decodes the keys of jobs that end before the next renewal.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import groupby
from math import inf
from operator import itemgetter
from typing import Final, Protocol

import msgspec

ClaimKey = tuple[str, int]
"""(job id, fence)"""
Start = tuple[str, int, float | None]
"""(job id, fence, deadline in monotonic seconds)"""
NumberRun = tuple[int, int]
"""(first number, how many)"""
StartRun = tuple[int, int, float | None]
"""(first number, how many, deadline in monotonic seconds of each)"""

_HELD: Final = b"\0"
_RUNS: Final = b"\1"
_GONE: Final = b"\2"
_encode = msgspec.msgpack.Encoder().encode
_keys: Final = msgspec.msgpack.Decoder(list[ClaimKey]).decode
_deadline_of = itemgetter(2)


class Held(Protocol):
    """What a renewal asks of either table."""

    def claims(self) -> list[ClaimKey]:
        """All that is held, in the order in which it was claimed."""
        ...

    def running(self) -> list[ClaimKey]:
        """Claims whose bodies have started."""
        ...

    def overdue(self, now: float) -> list[ClaimKey]:
        """Running claims past their deadline (monotonic seconds)."""
        ...

    def drop(self, keys: Iterable[ClaimKey]) -> None:
        """These are not ours any more. Safe to repeat."""
        ...


class ClaimTable:
    """Claims by key, with the deadlines of those that started; infinity if they have none."""

    def __init__(self) -> None:
        self._claims: dict[ClaimKey, float | None] = {}

    def hold(self, keys: Iterable[ClaimKey]) -> None:
        for key in keys:
            self._claims[key] = None

    def started(self, starts: Iterable[Start]) -> None:
        claims = self._claims
        for id, fence, deadline in starts:
            key = (id, fence)
            if key in claims:
                claims[key] = inf if deadline is None else deadline

    def drop(self, keys: Iterable[ClaimKey]) -> None:
        for key in keys:
            self._claims.pop(key, None)

    def claims(self) -> list[ClaimKey]:
        return list(self._claims)

    def running(self) -> list[ClaimKey]:
        return [key for key, deadline in self._claims.items() if deadline is not None]

    def overdue(self, now: float) -> list[ClaimKey]:
        return [key for key, end in self._claims.items() if end is not None and end <= now]


class Numbering:
    """The child's side: claims to numbers, numbers to runs."""

    def __init__(self) -> None:
        self._numbers: dict[ClaimKey, int] = {}
        self._next = 0

    def hold(self, keys: list[ClaimKey]) -> int:
        """Number these; returns the first one's."""
        first, self._next = self._next, self._next + len(keys)
        self._numbers.update(zip(keys, range(first, self._next), strict=True))
        return first

    def started(self, starts: Iterable[Start]) -> list[StartRun]:
        """Starts of claims that are held, as runs of equal deadlines."""
        find = self._numbers.get
        return [
            (first, count, deadline)
            for deadline, some in groupby(starts, _deadline_of)
            for first, count in _runs(find((id, fence)) for id, fence, _ in some)
        ]

    def drop(self, keys: Iterable[ClaimKey]) -> list[NumberRun]:
        """Forget claims; those that were not held are left out."""
        pop = self._numbers.pop
        return _runs(pop(key, None) for key in keys)


def _runs(numbers: Iterable[int | None]) -> list[NumberRun]:
    """Numbers in their order as (first, how many) of successive ones."""
    runs: list[NumberRun] = []
    first = end = -1
    for number in numbers:
        if number == end:
            end += 1
        elif number is not None:
            if first >= 0:
                runs.append((first, end - first))
            first, end = number, number + 1
    if first >= 0:
        runs.append((first, end - first))
    return runs


UNHELD: Final = msgspec.Raw(_encode([]))
"""No keys, packed."""


def pack(keys: list[ClaimKey]) -> msgspec.Raw:
    """Keys as they are told to the supervisor."""
    return msgspec.Raw(_encode(keys))


class _Batch:
    """Claims that were told of together: numbers ``first`` and following."""

    __slots__ = ("_keys", "_packed", "first", "marks")

    def __init__(self, first: int, count: int, keys: msgspec.Raw) -> None:
        self.first = first
        self.marks = bytearray(count)
        self._packed: msgspec.Raw | None = keys
        self._keys: dict[int, ClaimKey] = {}

    def live(self) -> dict[int, ClaimKey]:
        """Those that are not gone, by their place. What is gone is forgotten."""
        keys: Iterable[tuple[int, ClaimKey]] = self._keys.items()
        if self._packed is not None:
            keys, self._packed = enumerate(_keys(self._packed)), None
        marks = self.marks
        self._keys = {at: key for at, key in keys if marks[at] != _GONE[0]}
        return self._keys


class NumberedClaims:
    """The supervisor's side: a mark for each number, keys only for those who ask."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._batches: list[_Batch] = []
        self._deadlines: dict[int, float] = {}

    def hold(self, first: int, count: int, keys: msgspec.Raw) -> None:
        """``keys``: so many, as ``pack`` wrote them; numbered from ``first``, above all before."""
        if count:
            self._firsts.append(first)
            self._batches.append(_Batch(first, count, keys))

    def started(self, first: int, count: int, deadline: float | None) -> None:
        """Their bodies are about to run, each for the first time; nothing changes for those that
        are gone."""
        for batch, begin, end in self._parts(first, count):
            marks = batch.marks
            marks[begin:end] = marks[begin:end].replace(_HELD, _RUNS)
            if deadline is not None:
                running = (at for at in range(begin, end) if marks[at] == _RUNS[0])
                self._deadlines.update((batch.first + at, deadline) for at in running)

    def dropped(self, first: int, count: int) -> None:
        """The ledger has their outcome, or they were lost. Safe to repeat."""
        for batch, begin, end in self._parts(first, count):
            batch.marks[begin:end] = _GONE * (end - begin)
            self._tidy(batch)
        if self._deadlines:
            for number in range(first, first + count):
                self._deadlines.pop(number, None)

    def drop(self, keys: Iterable[ClaimKey]) -> None:
        gone = set(keys)
        if gone:
            numbers = [n for n, key, _ in self._all() if key in gone]
            for number in numbers:
                self.dropped(number, 1)

    def claims(self) -> list[ClaimKey]:
        return [key for _, key, _ in self._all()]

    def running(self) -> list[ClaimKey]:
        return [key for _, key, mark in self._all() if mark == _RUNS[0]]

    def overdue(self, now: float) -> list[ClaimKey]:
        if not any(end <= now for end in self._deadlines.values()):
            return []
        ends = self._deadlines
        return [key for n, key, mark in self._all() if mark == _RUNS[0] and ends.get(n, inf) <= now]

    def _all(self) -> Iterator[tuple[int, ClaimKey, int]]:
        """(number, key, mark) of all that is not gone."""
        for batch in self._batches:
            for at, key in batch.live().items():
                yield batch.first + at, key, batch.marks[at]

    def _parts(self, first: int, count: int) -> list[tuple[_Batch, int, int]]:
        """The batches of a run of numbers, and from where to where in each."""
        end = first + count
        parts: list[tuple[_Batch, int, int]] = []
        for at in range(max(0, bisect_right(self._firsts, first) - 1), len(self._batches)):
            batch = self._batches[at]
            if batch.first >= end:
                break
            begin = max(0, first - batch.first)
            stop = min(len(batch.marks), end - batch.first)
            if begin < stop:
                parts.append((batch, begin, stop))
        return parts

    def _tidy(self, batch: _Batch) -> None:
        if batch.marks.count(_GONE) == len(batch.marks):
            at = bisect_right(self._firsts, batch.first) - 1
            del self._firsts[at], self._batches[at]
