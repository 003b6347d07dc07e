"""Whether a scope is over: all its members have ended, or enough of them.

Whoever marks a page looks here afterwards. Each writes its own part first (the page, then the
sums, or the seal) and reads that of all others after it, so of any number of racing callers the
last one to write sees everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from bananas_core.job import Signal, SignalKind
from bananas_core.workflow.node import PAGE, SUMS, Policy, page_key, sums_key
from bananas_core.workflow.pages import (
    ROUNDS,
    give_up,
    members_in,
    pages_in,
    summed,
    tally,
    total,
    write_round,
)
from bananas_core.workflow.rules import Counts, Ending, ending
from bananas_core.workflow.turn import Node, Turn


class Touched(msgspec.Struct, frozen=True, kw_only=True):
    """A started scope, and the pages of it as they were after they were written."""

    scope: Node
    pages: dict[int, bytes]


async def complete(turn: Turn, touched: Sequence[Touched]) -> None:
    """End those of the scopes that are over. Safe to repeat."""
    sizes = await turn.sizes([item.scope for item in touched])
    signals: list[Signal] = []
    large: list[Touched] = []
    for item in touched:
        size = sizes[item.scope.job.id]
        if size is not None and size <= PAGE:
            found = ending(item.scope.info, tally(item.pages.get(0)), size)
            if found is not None:
                signals.append(end_signal(item.scope, found))
        else:
            large.append(item)
    for item in large:
        size = sizes[item.scope.job.id]
        counts = await _counts(turn, item, size)
        found = None if counts is None else ending(item.scope.info, counts, size)
        if found is not None:
            signals.append(end_signal(item.scope, found))
    await turn.signal(signals)


def end_signal(scope: Node, found: Ending) -> Signal:
    """Ends a scope, unless it was reset since it was read."""
    return Signal(
        id=scope.job.id,
        kind=SignalKind.END,
        by="workflow",
        gen=scope.job.gen,
        state=found.state,
        error=found.error,
    )


async def _counts(turn: Turn, item: Touched, size: int | None) -> Counts | None:
    """How many members of a large scope have ended; None if that can't end it yet.

    Only full pages are in the sums, since a million members are then 8,000 changes of them and
    not a million; a quorum has to know at once.
    """
    at_once = item.scope.info.policy is Policy.QUORUM
    full = [
        number
        for number, page in item.pages.items()
        if at_once or tally(page).total == members_in(number, size)
    ]
    if not full and not (at_once or size == 0):
        return None
    sums = await write_sums(turn, item.scope, full)
    if not at_once and not _all_full(sums, size):
        return None
    known = pages_in(size) if size is not None else max(full, default=0) + 1
    return total(await _all_sums(turn, item.scope, known, sums, open_end=size is None))


async def write_sums(turn: Turn, scope: Node, numbers: Iterable[int]) -> dict[int, bytes]:
    """Bring the sums of some pages up to date; what the changed documents say then."""
    info, id = scope.info, scope.job.id
    by_doc: dict[int, list[int]] = {}
    for number in numbers:
        by_doc.setdefault(number // SUMS, []).append(number)
    todo = {sums_key(info.id, id, doc): doc for doc in by_doc}
    done: dict[int, bytes] = {}
    docs = await turn.docs(todo)
    for _ in range(ROUNDS):
        # Pages are read after the sums: were the sums written by somebody who saw more, this
        # write is refused.
        pages = await turn.values(
            page_key(info.id, id, number) for doc in todo.values() for number in by_doc[doc]
        )
        values = {}
        for key, doc in todo.items():
            old = docs.get(key)
            entries = {n: tally(pages.get(page_key(info.id, id, n))) for n in by_doc[doc]}
            values[key] = summed(None if old is None else old.value, entries)
        written = await write_round(turn.backend, docs, values)
        done.update({todo[key]: value for key, value in written.done.items()})
        todo = {key: todo[key] for key in written.lost}
        docs = written.lost
        if not todo:
            return done
    raise give_up(next(iter(todo)))


def _all_full(sums: dict[int, bytes], size: int | None) -> bool:
    """If one of them is not, somebody who fills it will look."""
    return size is not None and all(
        total([value]).total >= _members_in_sums(number, size) for number, value in sums.items()
    )


def _members_in_sums(number: int, size: int) -> int:
    most = SUMS * PAGE
    return max(0, min(most, size - number * most))


async def _all_sums(
    turn: Turn, scope: Node, pages: int, known: dict[int, bytes], *, open_end: bool
) -> list[bytes | None]:
    """All sums of a scope. ``known``: just written; they are all that there are, if there is one
    document only. ``open_end``: there may be more pages than ``pages``."""
    if pages <= SUMS and not open_end and 0 in known:
        return [known[0]]
    found: list[bytes | None] = []
    first, step = 0, 64
    count = -(-pages // SUMS)
    while first < count or open_end:
        numbers = range(first, first + step if open_end else min(first + step, count))
        keys = [sums_key(scope.info.id, scope.job.id, number) for number in numbers]
        values = await turn.values(keys)
        found += [values.get(key) for key in keys]
        if open_end and not values and numbers.stop >= count:
            break
        first = numbers.stop
    return found
