"""Which members of a scope have ended: pages of status bytes, and sums over the pages.

A page has a byte for each of ``PAGE`` members. Sums have four bytes for each of ``SUMS`` pages: how
many of its members completed, failed, were cancelled, were skipped. Both are sets in their effect,
never counters: a page says the same however often it is written, and sums are computed from pages.
Nothing grows with the scope: the largest value has 512 bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from bananas_core.errors import ResultBackendUnavailable
from bananas_core.job import Doc, Write
from bananas_core.results import ResultBackend
from bananas_core.workflow.node import PAGE, SUMS, End
from bananas_core.workflow.rules import Counts

ROUNDS: Final = 500
"""Lost races for one page before a call gives up; its follow-up comes again."""
ENTRY: Final = 4

_ENDS: Final = {ord(end.value): end for end in End}
_EMPTY: Final = End.OPEN.value.encode() * PAGE


def end_at(page: bytes | None, i: int) -> End:
    """How the ``i``-th member of the scope ended, from the page that it is in."""
    return End.OPEN if page is None else _ENDS[page[i % PAGE]]


def marked(page: bytes | None, ends: Mapping[int, End]) -> bytes:
    """The page with the ends of some members, numbered as in the scope."""
    value = bytearray(_EMPTY if page is None else page)
    for i, end in ends.items():
        value[i % PAGE] = ord(end.value)
    return bytes(value)


def tally(page: bytes | None) -> Counts:
    """How many members of a page have ended."""
    if page is None:
        return Counts()
    return Counts(
        completed=page.count(End.COMPLETED.value.encode()),
        failed=page.count(End.FAILED.value.encode()),
        cancelled=page.count(End.CANCELLED.value.encode()),
        skipped=page.count(End.SKIPPED.value.encode()),
    )


def members_in(number: int, size: int | None) -> int:
    """How many members of a scope of ``size`` are in a page; all it can hold, if not known."""
    return PAGE if size is None else max(0, min(PAGE, size - number * PAGE))


def pages_in(size: int) -> int:
    return -(-size // PAGE)


def summed(sums: bytes | None, entries: Mapping[int, Counts]) -> bytes:
    """The sums with the entries of some pages, numbered as in the scope."""
    value = bytearray(sums or b"")
    for number, counts in entries.items():
        at = number % SUMS * ENTRY
        value.extend(bytes(max(0, at + ENTRY - len(value))))
        value[at : at + ENTRY] = bytes(
            (counts.completed, counts.failed, counts.cancelled, counts.skipped)
        )
    return bytes(value)


def total(sums: Iterable[bytes | None]) -> Counts:
    """How many members of a scope have ended, from its sums."""
    found = [0] * ENTRY
    for value in sums:
        for n in range(ENTRY):
            found[n] += sum((value or b"")[n::ENTRY])
    return Counts(completed=found[0], failed=found[1], cancelled=found[2], skipped=found[3])


class Writing(msgspec.Struct, kw_only=True):
    """What became of one round of conditional writes."""

    done: dict[str, bytes]
    """Key → the value that is there now."""
    lost: dict[str, Doc | None]
    """Key → the document that somebody else wrote meanwhile."""


async def write_round(
    backend: ResultBackend, docs: Mapping[str, Doc | None], values: Mapping[str, bytes]
) -> Writing:
    """Try once to write ``values`` over the documents that were read. What is there already is
    not written again."""
    result = Writing(done={}, lost={})
    writes = []
    for key, value in values.items():
        old = docs.get(key)
        if old is not None and old.value == value:
            result.done[key] = value
        else:
            writes.append(Write(key=key, value=value, version=0 if old is None else old.version))
    if not writes:
        return result
    for write, answer in zip(writes, await backend.cas(writes), strict=True):
        if answer.done:
            result.done[write.key] = values[write.key]
        else:
            result.lost[write.key] = answer.doc
    return result


def give_up(key: str) -> ResultBackendUnavailable:
    """The error of a write that lost every race."""
    return ResultBackendUnavailable(f"{key} was written by others {ROUNDS} times in a row")
