"""Receiving from several queues at once; from records and messages together when fused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import merge
from itertools import islice
from typing import Any, Final, TypeVar

from bananas_brokers.sqlite import lifecycle, mailbox
from bananas_brokers.sqlite.records import Place, Records
from bananas_brokers.sqlite.tx import Tx
from bananas_core.job import VerdictKind
from bananas_core.transport import Delivery, Received

R = TypeVar("R")
Row = tuple[Any, ...]

_EVERY: Final = 8
"""One in so many places goes to the queues in turn, whatever their priorities."""


class Turns:
    """Which queue may go first, so that none starves behind another's higher priorities."""

    def __init__(self) -> None:
        self._served = 0
        self._turn = 0

    def next(self) -> int | None:
        """The number of the queue whose turn it is; None: strictly by priority."""
        if self._served < _EVERY:
            return None
        self._served = 0
        self._turn += 1
        return self._turn

    def served(self, count: int) -> None:
        self._served += count


def best(
    queues: Sequence[Sequence[R]],
    place: Callable[[R], tuple[int, int]],
    limit: int,
    turn: int | None,
) -> list[R]:
    """The first ``limit`` rows of several sorted queues, as if they were one. With a ``turn``
    the first row of that queue, or of the next that has any, goes before all."""
    if len(queues) == 1:
        return list(queues[0][:limit])
    found = list(islice(merge(*queues, key=place), limit))
    if turn is None or not found:
        return found
    count = len(queues)
    first = next(queue[0] for queue in (queues[(turn + i) % count] for i in range(count)) if queue)
    return [first, *(row for row in found if row is not first)][:limit]


def leased(
    tx: Tx, ns: int, now: float, queues: Sequence[str], limit: int, turn: int | None
) -> list[Delivery]:
    """T11-T13, of messages alone."""
    names = list(dict.fromkeys(queues))
    found = mailbox.ready(tx, ns, now, names, limit)
    return mailbox.lease(tx, now, best(found, mailbox.place, limit, turn))


def claimed(
    tx: Tx, place: Place, session: str, queues: Sequence[str], limit: int, turn: int | None
) -> list[Received]:
    """T21. Records past their time are ended on the way."""
    names = list(dict.fromkeys(queues))
    received: list[Received] = []
    while len(received) < limit:
        want = limit - len(received)
        records = Records(tx, place)
        jobs = [lifecycle.pending(records, name, want) for name in names]
        mail = mailbox.ready(tx, place.ns, place.now, names, want)
        chosen = _chosen(jobs, mail, want, turn)
        got = _taken(records, session, chosen)
        received += got
        if len(got) == len(chosen):
            break
    return received


def _chosen(
    jobs: list[list[Row]], mail: list[list[Row]], limit: int, turn: int | None
) -> list[tuple[Row, bool]]:
    """Rows, and whether each is a message."""
    if not any(mail):
        return [(row, False) for row in best(jobs, lifecycle.place, limit, turn)]
    both = [
        list(merge([(r, False) for r in records], [(r, True) for r in messages], key=_place))
        for records, messages in zip(jobs, mail, strict=True)
    ]
    return best(both, _place, limit, turn)


def _place(item: tuple[Row, bool]) -> tuple[int, int]:
    row, is_message = item
    return mailbox.place(row) if is_message else lifecycle.place(row)


def _taken(records: Records, session: str, chosen: list[tuple[Row, bool]]) -> list[Received]:
    """Claim the records and lease the messages, in their order."""
    messages = [row for row, is_message in chosen if is_message]
    deliveries = iter(mailbox.lease(records.tx, records.now, messages))
    verdicts = iter(
        lifecycle.claim_rows(
            records, session, [row for row, is_message in chosen if not is_message]
        )
    )
    received = []
    for _, is_message in chosen:
        if is_message:
            received.append(Received(delivery=next(deliveries)))
            continue
        verdict = next(verdicts)
        if verdict.kind is VerdictKind.RUN:
            received.append(Received(verdict=verdict))
    return received
