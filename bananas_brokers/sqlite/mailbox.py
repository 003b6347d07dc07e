"""The transport's own messages. Each function runs in a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from bananas_brokers.sql.rows import rank
from bananas_brokers.sqlite.tx import Tx, queue_topic
from bananas_core.transport import Delivery, Outgoing, QueueStats

LEASE: Final = 15.0
_BURIED: Final = 0
"""In ``messages.lease``: real leases start at 1."""
_MESSAGES: Final = ("messages", "sent_at", "ns = :ns AND queue = :queue AND lease IS NULL")
_RECORDS: Final = ("jobs", "pending_at", "ns = :ns AND routing_key = :queue AND state = 2")


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


def ready(
    tx: Tx, ns: int, now: float, queues: Sequence[str], limit: int
) -> list[list[tuple[Any, ...]]]:
    """The best messages of each queue, as rows in order. Brings those back whose lease is over."""
    _return_overdue(tx, ns, now, queues)
    sql = (
        "SELECT rank, ord, queue, body, redelivered FROM messages "
        "WHERE ns = ? AND queue = ? AND lease IS NULL ORDER BY rank, ord LIMIT ?"
    )
    return [tx.connection.execute(sql, (ns, queue, limit)).fetchall() for queue in queues]


def place(row: tuple[Any, ...]) -> tuple[int, int]:
    """What rows of ``ready`` are sorted by."""
    return row[0], row[1]


def lease(tx: Tx, now: float, chosen: Sequence[tuple[Any, ...]]) -> list[Delivery]:
    """T13: rows of ``ready``, leased for ``LEASE`` seconds. A delivery's token is (ord, lease)."""
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
    sql = f"UPDATE messages SET lease = {_BURIED}, leased_until = NULL, reason = :reason WHERE"
    return _each(tx, sql, tokens, now, reason=reason)


def stats(tx: Tx, ns: int, now: float, queues: Sequence[str], *, fused: bool) -> list[QueueStats]:
    """T18; with pending records as messages if ``fused``."""
    answers = []
    for queue in queues:
        ready, oldest = _depth(tx, _MESSAGES, ns, queue)
        if fused:
            pending, since = _depth(tx, _RECORDS, ns, queue)
            ready += pending
            oldest = min((at for at in (oldest, since) if at is not None), default=None)
        overdue, since = tx.connection.execute(
            "SELECT count(*), min(sent_at) FROM messages "
            "WHERE ns = ? AND queue = ? AND leased_until IS NOT NULL AND leased_until <= ?",
            (ns, queue, now),
        ).fetchone()
        if since is not None:
            oldest = since if oldest is None else min(oldest, since)
        leased, buried = tx.connection.execute(
            "SELECT (SELECT count(*) FROM messages WHERE ns = :ns AND queue = :queue "
            "AND leased_until IS NOT NULL AND leased_until > :now), "
            "(SELECT count(*) FROM messages WHERE ns = :ns AND queue = :queue AND lease = 0)",
            {"ns": ns, "queue": queue, "now": now},
        ).fetchone()
        answers.append(
            QueueStats(
                queue=queue, ready=ready + overdue, leased=leased, buried=buried, oldest=oldest
            )
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
    of_queue = "ns = :ns AND queue = :queue"
    for queue in queues:
        sql = (
            f"SELECT EXISTS (SELECT 1 FROM messages WHERE {of_queue} AND lease IS NULL) OR EXISTS "
            f"(SELECT 1 FROM messages WHERE {of_queue} AND leased_until IS NOT NULL "
            "AND leased_until <= :now)"
        )
        if records:
            sql += f" OR EXISTS (SELECT 1 FROM jobs WHERE {_RECORDS[2]})"
        if tx.connection.execute(sql, {"ns": ns, "queue": queue, "now": now}).fetchone()[0]:
            return True
    return False


def _return_overdue(tx: Tx, ns: int, now: float, queues: Sequence[str]) -> None:
    tx.connection.executemany(
        "UPDATE messages SET lease = NULL, leased_until = NULL, redelivered = 1, "
        "rank = rank & ~1 "
        "WHERE ns = ? AND queue = ? AND leased_until IS NOT NULL AND leased_until <= ?",
        [(ns, queue, now) for queue in queues],
    )


def _depth(tx: Tx, source: tuple[str, str, str], ns: int, queue: str) -> tuple[int, float | None]:
    """How many are ready, and since when the oldest is: that of each level is the first in its
    order, so a long queue costs no more than one look a level."""
    table, since, of_queue = source
    return tx.connection.execute(  # type: ignore[no-any-return]
        f"""
        WITH RECURSIVE levels (rank) AS (
            SELECT min(rank) FROM {table} WHERE {of_queue}
            UNION ALL
            SELECT (SELECT min(rank) FROM {table} WHERE {of_queue} AND rank > levels.rank)
            FROM levels WHERE levels.rank IS NOT NULL
        )
        SELECT (SELECT count(*) FROM {table} WHERE {of_queue}), min(
            (SELECT {since} FROM {table} AS t WHERE {of_queue} AND t.rank = levels.rank
             ORDER BY t.ord LIMIT 1)
        ) FROM levels
        """,
        {"ns": ns, "queue": queue},
    ).fetchone()


def _each(
    tx: Tx, sql: str, tokens: Sequence[tuple[int, int]], now: float, **more: str
) -> list[bool]:
    """Change the messages whose lease still holds; which of them did."""
    sql += " ord = :ord AND lease = :lease AND leased_until > :now"
    rest = {"now": now, **more}
    return [
        tx.connection.execute(sql, {"ord": order, "lease": lease, **rest}).rowcount > 0
        for order, lease in tokens
    ]
