"""Small versioned documents, and the event feed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from bananas_brokers.postgres.database import Tx
from bananas_brokers.postgres.schema import LOCK
from bananas_brokers.postgres.store import Store
from bananas_brokers.sql.rows import STATES
from bananas_core.errors import CursorExpired, ResultBackendError
from bananas_core.job import Doc, Event, EventPage, Write, WriteAnswer

LARGEST: Final = 256 << 10
_LIVES: Final = (
    "(expires_at IS NULL OR expires_at > "
    "coalesce($2::float8, extract(epoch FROM clock_timestamp())::float8))"
)
DOCS: Final = (
    "SELECT key, value, version FROM {schema}.docs WHERE ns = $1::int AND key > $3::text "
    f"AND key >= $4::text AND starts_with(key, $4::text) AND key < $5::text AND {_LIVES} "
    "ORDER BY key LIMIT $6::int"
)
GET: Final = (
    "SELECT key, value, version FROM {schema}.docs WHERE ns = $1::int "
    f"AND key = ANY($3::text[]) AND {_LIVES}"
)
_LAST: Final = "SELECT last_value FROM {schema}.event"
_HELD: Final = f"""
SELECT min($1::bigint - ($1::bigint - objid::bigint) % 2147483648) AS held FROM pg_locks
WHERE locktype = 'advisory' AND classid = {LOCK} AND objsubid = 2
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def check(writes: Sequence[Write]) -> None:
    """L38. Raises ResultBackendError for a value that is too large."""
    for write in writes:
        if write.value is not None and len(write.value) > LARGEST:
            raise ResultBackendError(
                f"document {write.key!r:.80} has {len(write.value)} bytes, over {LARGEST}"
            )


async def cas(store: Store, writes: Sequence[Write]) -> list[WriteAnswer]:
    """L38, L39. After ``check``; one trip unless a key comes twice, or into being meanwhile."""
    answers: dict[int, WriteAnswer] = {}
    left = list(range(len(writes)))
    while left:
        now_: dict[str, int] = {}
        for i in left:
            now_.setdefault(writes[i].key, i)
        some = [writes[i] for i in now_.values()]
        found = await store.run(
            "cas",
            store.ns,
            store.now(),
            [w.key for w in some],
            [w.version for w in some],
            [w.value for w in some],
            [w.ttl for w in some],
        )
        for row in found:
            if row["done"] is not None:
                i = now_[row["key"]]
                answers[i] = _answer(writes[i], row)
        left = [i for i in left if i not in answers]
    return [answers[i] for i in range(len(writes))]


def _answer(write: Write, row: Any) -> WriteAnswer:
    if row["done"]:
        if write.value is None:
            return WriteAnswer(done=True)
        doc = Doc(key=write.key, value=write.value, version=row["version"])
        return WriteAnswer(done=True, doc=doc)
    if row["old_version"] is None:
        return WriteAnswer(done=False)
    doc = Doc(key=write.key, value=row["old_value"], version=row["old_version"])
    return WriteAnswer(done=False, doc=doc)


def docs_of(found: Sequence[Any]) -> list[Doc]:
    """Documents of rows that ``DOCS`` or ``GET`` found."""
    return [Doc(key=row["key"], value=row["value"], version=row["version"]) for row in found]


def behind(prefix: str) -> str:
    """A text after all that begin with ``prefix``."""
    return prefix + "\U0010ffff"


async def events(tx: Tx, ns: int, after: str, limit: int) -> EventPage:
    """L41. A cursor is a row's number, and how many of the row's events were seen if not all.

    Not in a snapshot: what is safe to read is found out first, and read after that.
    """
    (row,) = await tx.query(_LAST)
    safe = row["last_value"]
    (row,) = await tx.query(_HELD, safe)
    safe = safe if row["held"] is None else min(safe, row["held"])
    (row,) = await tx.query("SELECT events_from FROM {schema}.namespaces WHERE ns = $1::int", ns)
    start = row["events_from"]
    if after == "$":
        return EventPage(events=(), cursor=str(max(safe, start)))
    seq, seen = (start, 0) if after == "" else _cursor(after)
    if seq < start:
        raise CursorExpired(f"events after {after} are gone; start again from the oldest")
    cursor = f"{seq}.{seen}" if seen else str(seq)
    found: list[Event] = []
    while len(found) < limit:
        rows = await tx.query(
            "SELECT * FROM {schema}.events WHERE ns = $1::int AND seq >= $2::bigint "
            "AND seq <= $3::bigint ORDER BY seq LIMIT 100",
            ns,
            seq if seen else seq + 1,
            safe,
        )
        for row in rows:
            if len(found) >= limit:
                break
            batch = _events(row)
            skip = seen if row["seq"] == seq else 0
            taken = batch[skip : skip + limit - len(found)]
            found += taken
            upto = skip + len(taken)
            whole = upto >= len(batch)
            cursor = str(row["seq"]) if whole else f"{row['seq']}.{upto}"
            seq, seen = row["seq"], 0 if whole else upto
        if len(rows) < 100:
            break
    return EventPage(events=tuple(found), cursor=cursor)


def _events(row: Any) -> list[Event]:
    count = len(row["ids"])
    olds = row["olds"] or [row["old"]] * count
    news = row["news"] or [row["new"]] * count
    return [
        Event(
            id=row["ids"][i],
            name=row["names"][i],
            routing_key=row["queues"][i],
            old=None if olds[i] is None else STATES[olds[i]],
            new=STATES[news[i]],
            at=row["at"],
            attempt=row["attempts"][i],
            fence=row["fences"][i],
            workflow=row["workflows"][i],
        )
        for i in range(count)
    ]


def _cursor(text: str) -> tuple[int, int]:
    number, _, seen = text.partition(".")
    try:
        return int(number), int(seen or 0)
    except ValueError as error:
        raise ResultBackendError(f"{text!r:.80} is not an event cursor of this ledger") from error
