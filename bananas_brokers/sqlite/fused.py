"""Receiving from several queues at once; from records and messages together when fused."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import merge
from typing import Any

from bananas_brokers.sql.turns import best
from bananas_brokers.sqlite import lifecycle, mailbox
from bananas_brokers.sqlite.records import Place, Records
from bananas_brokers.sqlite.tx import Tx
from bananas_core.job import VerdictKind
from bananas_core.transport import Delivery, Received

Row = tuple[Any, ...]


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
