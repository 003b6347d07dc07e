"""The transport's own messages: foreign ones, or all when the ledger is elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import merge
from typing import Any, Final

from bananas_brokers.postgres.database import Rows, Tx
from bananas_brokers.postgres.lifecycle import claim_loaded, know
from bananas_brokers.postgres.records import Records
from bananas_brokers.postgres.store import Store
from bananas_brokers.sql.rows import rank
from bananas_brokers.sql.turns import best
from bananas_core.job import Hint, Job, VerdictKind
from bananas_core.transport import Delivery, Outgoing, QueueStats, Received

LEASE: Final = 15.0
_READY: Final = (
    "SELECT rank, ord, queue, body, redelivered FROM {schema}.messages "
    "WHERE ns = $1::int AND queue = $2::text AND lease IS NULL "
    "ORDER BY ns, queue, rank, ord LIMIT $3::int FOR UPDATE SKIP LOCKED"
)
_OVERDUE: Final = (
    "UPDATE {schema}.messages AS m SET lease = NULL, leased_until = NULL, redelivered = true, "
    "rank = m.rank - m.rank % 2 WHERE ord IN (SELECT ord FROM {schema}.messages "
    "WHERE ns = $1::int AND queue = $2::text AND leased_until IS NOT NULL "
    "AND leased_until <= $3::float8 FOR UPDATE SKIP LOCKED)"
)
_LEASE: Final = (
    "UPDATE {schema}.messages SET lease = t.lease, leased_until = $2::float8 FROM "
    "(SELECT nextval('{schema}.lease') AS lease) AS t WHERE ord = ANY($1::bigint[]) "
    "RETURNING ord, t.lease"
)
_PENDING: Final = (
    "routing_key = $3::text AND state = 2 ORDER BY ns, routing_key, rank, ord LIMIT $4::int"
)
Token = tuple[int, int]
"""Number and lease."""


async def send(store: Store, messages: Sequence[Outgoing]) -> None:
    """T8, T10."""
    for start in range(0, len(messages), 500):
        part = messages[start : start + 500]
        await store.run(
            "send",
            store.ns,
            store.now(),
            [m.queue for m in part],
            [rank(m.priority, m.head) for m in part],
            [m.body for m in part],
        )
    store.database.bell.tell({f"q{message.queue}" for message in messages})


async def settle(
    store: Store, what: str, deliveries: Sequence[Delivery], reason: str = ""
) -> list[bool]:
    """T15-T17: whether each lease still held."""
    if not deliveries:
        return []
    tokens: list[Token] = [delivery.token for delivery in deliveries]
    found = await store.run(
        "settle_mail",
        store.ns,
        store.now(),
        [order for order, _ in tokens],
        [lease for _, lease in tokens],
        what,
        reason,
    )
    held = {row["ord"] for row in found}
    if what == "release":
        store.database.bell.tell({f"q{d.queue}" for d in deliveries if d.token[0] in held})
    return [order in held for order, _ in tokens]


async def stats(store: Store, queues: Sequence[str], *, fused: bool) -> list[QueueStats]:
    """T18; with pending records as messages if ``fused``."""
    found = await store.run("stats", store.ns, store.now(), list(queues), fused)
    return [
        QueueStats(
            queue=row["name"],
            ready=row["ready"] + row["pending"] + row["overdue"],
            leased=row["leased"],
            buried=row["buried"],
            oldest=row["oldest"],
        )
        for row in found
    ]


async def purge(store: Store, queue: str) -> int:
    """T19."""

    async def work(tx: Tx) -> int:
        rows = await tx.query(
            "WITH gone AS (DELETE FROM {schema}.messages WHERE ns = $1::int AND queue = $2::text "
            "AND (lease IS NULL OR lease = 0 OR leased_until <= "
            "coalesce($3::float8, extract(epoch FROM clock_timestamp())::float8)) RETURNING 1) "
            "SELECT count(*) FROM gone",
            store.ns,
            queue,
            store.now(),
        )
        return int(rows[0][0])

    return await store.transact(work)


async def leased(
    records: Records, queues: Sequence[str], limit: int, turn: int | None
) -> list[Delivery]:
    """T11-T13, of messages alone."""
    names = list(dict.fromkeys(queues))
    found = await _ready(records, names, limit)
    return await _lease(records, best(found, _place, limit, turn))


async def mixed(
    records: Records, session: str, queues: Sequence[str], limit: int, turn: int | None
) -> list[Received]:
    """T21, where there are messages beside the records."""
    names = list(dict.fromkeys(queues))
    mail = await _ready(records, names, limit)
    both: list[list[tuple[tuple[int, int], Any]]] = []
    for name, messages in zip(names, mail, strict=True):
        jobs = await records.find(_PENDING, name, limit, whole=True, skip=True)
        both.append(
            list(
                merge(
                    [((rank(job.priority, job.head), records.order(job.id)), job) for job in jobs],
                    [(_place(row), row) for row in messages],
                    key=lambda item: item[0],
                )
            )
        )
    chosen = [item for _, item in best(both, lambda item: item[0], limit, turn)]
    jobs = [item for item in chosen if isinstance(item, Job)]
    deliveries = iter(await _lease(records, [i for i in chosen if not isinstance(i, Job)]))
    verdicts = iter(claim_loaded(records, session, [Hint(id=job.id, gen=job.gen) for job in jobs]))
    await records.flush()
    if jobs:
        await know(records, session)
    received = []
    for item in chosen:
        if not isinstance(item, Job):
            received.append(Received(delivery=next(deliveries)))
            continue
        verdict = next(verdicts)
        if verdict.kind is VerdictKind.RUN:
            received.append(Received(verdict=verdict))
    return received


async def _ready(records: Records, queues: Sequence[str], limit: int) -> list[Rows]:
    """The best messages of each queue. Brings those back whose lease is over."""
    tx, ns = records.tx, records.ns
    (row,) = await tx.run("now", records.clock)
    records.now = row["now"]
    found = []
    for queue in queues:
        await tx.query(_OVERDUE, ns, queue, records.now)
        found.append(await tx.query(_READY, ns, queue, limit))
    return found


async def _lease(records: Records, chosen: Sequence[Any]) -> list[Delivery]:
    """Lease rows of ``_ready`` for ``LEASE`` seconds."""
    if not chosen:
        return []
    leases = await records.tx.query(_LEASE, [row["ord"] for row in chosen], records.now + LEASE)
    tokens = {row["ord"]: row["lease"] for row in leases}
    return [
        Delivery(
            body=row["body"],
            queue=row["queue"],
            token=(row["ord"], tokens[row["ord"]]),
            redelivered=row["redelivered"],
        )
        for row in chosen
    ]


def _place(row: Any) -> tuple[int, int]:
    return row["rank"], row["ord"]
