"""The transport's own messages. Each function runs in a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import merge
from itertools import islice
from typing import Any, Final

from bananas_brokers.sqlite.rows import rank
from bananas_brokers.sqlite.tx import Tx, queue_topic
from bananas_core.transport import Delivery, Outgoing, QueueStats

LEASE: Final = 15.0
_BURIED: Final = 0
"""In ``messages.lease``: real leases start at 1."""


def send(tx: Tx, ns: int, now: float, messages: Sequence[Outgoing]) -> None:
    """T8, T10."""
    if not messages:
        return
    first = tx.take("ord", len(messages))
    tx.connection.executemany(
        "INSERT INTO messages (ord, ns, queue, rank, body, sent_at) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (first + i, ns, m.queue, rank(m.priority, m.head), m.body, now)
            for i, m in enumerate(messages)
        ],
    )
    tx.topics.update(queue_topic(ns, message.queue) for message in messages)


def peek(tx: Tx, ns: int, now: float, queues: Sequence[str], limit: int) -> list[tuple[Any, ...]]:
    """The best messages of several queues, as if they were one: rows of (rank, ord, …). Brings
    those back whose lease is over."""
    names = list(dict.fromkeys(queues))
    _return_overdue(tx, ns, now, names)
    found = [_ready(tx, ns, name, limit) for name in names]
    return list(islice(merge(*found, key=_place), limit))


def lease(tx: Tx, now: float, chosen: Sequence[tuple[Any, ...]]) -> list[Delivery]:
    """T13: rows of ``peek``, leased for ``LEASE`` seconds. A delivery's token is (ord, lease)."""
    if not chosen:
        return []
    number = tx.take("lease")
    tx.connection.executemany(
        "UPDATE messages SET lease = ?, leased_until = ? WHERE ord = ?",
        [(number, now + LEASE, row[1]) for row in chosen],
    )
    return [
        Delivery(body=body, queue=queue, token=(order, number), redelivered=bool(redelivered))
        for _, order, queue, body, redelivered in chosen
    ]


def ack(tx: Tx, now: float, tokens: Sequence[tuple[int, int]]) -> list[bool]:
    """T15."""
    return _each(tx, "DELETE FROM messages WHERE", tokens, now)


def release(tx: Tx, ns: int, now: float, deliveries: Sequence[Delivery]) -> list[bool]:
    """T16: to the head of its level."""
    sql = (
        "UPDATE messages SET lease = NULL, leased_until = NULL, redelivered = 1, "
        "rank = rank & ~1 WHERE"
    )
    done = _each(tx, sql, [delivery.token for delivery in deliveries], now)
    tx.topics.update(
        queue_topic(ns, delivery.queue)
        for delivery, released in zip(deliveries, done, strict=True)
        if released
    )
    return done


def bury(tx: Tx, now: float, tokens: Sequence[tuple[int, int]], reason: str) -> list[bool]:
    """T17."""
    sql = f"UPDATE messages SET lease = {_BURIED}, leased_until = NULL, reason = ?3 WHERE"
    return _each(tx, sql, tokens, now, reason)


def stats(tx: Tx, ns: int, now: float, queues: Sequence[str], *, fused: bool) -> list[QueueStats]:
    """T18; with pending records as messages if ``fused``."""
    answers = []
    for queue in queues:
        ready, leased, buried, oldest = tx.connection.execute(
            "SELECT count(*) FILTER (WHERE lease IS NULL OR leased_until <= ?1), "
            "count(*) FILTER (WHERE leased_until > ?1), "
            f"count(*) FILTER (WHERE lease = {_BURIED}), "
            "min(sent_at) FILTER (WHERE lease IS NULL OR leased_until <= ?1) "
            "FROM messages WHERE ns = ?2 AND queue = ?3",
            (now, ns, queue),
        ).fetchone()
        if fused:
            pending, since = tx.connection.execute(
                "SELECT count(*), min(pending_at) FROM jobs "
                "WHERE ns = ? AND routing_key = ? AND state = 2",
                (ns, queue),
            ).fetchone()
            ready += pending
            oldest = min((at for at in (oldest, since) if at is not None), default=None)
        answers.append(
            QueueStats(queue=queue, ready=ready, leased=leased, buried=buried, oldest=oldest)
        )
    return answers


def purge(tx: Tx, ns: int, now: float, queue: str) -> int:
    """T19."""
    return tx.connection.execute(
        "DELETE FROM messages WHERE ns = ? AND queue = ? "
        f"AND (lease IS NULL OR lease = {_BURIED} OR leased_until <= ?)",
        (ns, queue, now),
    ).rowcount


def waiting(tx: Tx, ns: int, now: float, queues: Sequence[str], *, records: bool) -> bool:
    """Whether a receive would get anything; cheap, and changes nothing."""
    for queue in queues:
        sql = (
            "SELECT EXISTS (SELECT 1 FROM messages WHERE ns = ?1 AND queue = ?2 AND lease IS NULL)"
            " OR EXISTS (SELECT 1 FROM messages WHERE ns = ?1 AND queue = ?2 "
            "AND lease IS NOT NULL AND leased_until <= ?3)"
        )
        if records:
            sql += (
                " OR EXISTS (SELECT 1 FROM jobs WHERE ns = ?1 AND routing_key = ?2 AND state = 2)"
            )
        if tx.connection.execute(sql, (ns, queue, now)).fetchone()[0]:
            return True
    return False


def _return_overdue(tx: Tx, ns: int, now: float, queues: Sequence[str]) -> None:
    tx.connection.executemany(
        "UPDATE messages SET lease = NULL, leased_until = NULL, redelivered = 1, "
        "rank = rank & ~1 WHERE ns = ? AND queue = ? AND lease IS NOT NULL AND leased_until <= ?",
        [(ns, queue, now) for queue in queues],
    )


def _ready(tx: Tx, ns: int, queue: str, limit: int) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = tx.connection.execute(
        "SELECT rank, ord, queue, body, redelivered FROM messages "
        "WHERE ns = ? AND queue = ? AND lease IS NULL ORDER BY rank, ord LIMIT ?",
        (ns, queue, limit),
    ).fetchall()
    return found


def _place(row: tuple[Any, ...]) -> tuple[int, int]:
    return row[0], row[1]


def _each(
    tx: Tx, sql: str, tokens: Sequence[tuple[int, int]], now: float, *more: str
) -> list[bool]:
    """Change the messages whose lease still holds; which of them did."""
    sql = f"{sql} ord = ?1 AND lease = ?2 AND leased_until > {now!r}"
    return [
        tx.connection.execute(sql, (order, lease, *more)).rowcount > 0 for order, lease in tokens
    ]
