"""Reading records: get, query, count, sessions. Each function runs in a snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from bananas_brokers.postgres import rows
from bananas_brokers.postgres.database import Tx
from bananas_brokers.sql.rows import NUMBERS, STATES
from bananas_core.errors import ResultBackendError
from bananas_core.job import Count, Job, Page, Query, Session, SessionRecord

_FROM: Final = f"SELECT {rows.COLUMNS}, jobs.message FROM {{schema}}.jobs"
GET: Final = f"{_FROM} WHERE ns + 0 = $1::int AND id = ANY($2::text[])"
ENDED: Final = f"{GET} AND state + 0 >= 4"
_GROUPS: Final = {"state", "name", "routing_key", "worker", "priority", "workflow"}

_session = msgspec.msgpack.Decoder(Session)


async def query(tx: Tx, ns: int, wish: Query) -> Page:
    """L26: by (created_at, id), newest first; the cursor is the last of them."""
    where, values = _conditions(ns, wish)
    if wish.cursor is not None:
        values += _cursor(wish.cursor)
        where += f" AND (created_at, id) < (${len(values) - 1}::float8, ${len(values)}::text)"
    limit = max(1, wish.limit)
    values.append(limit + 1)
    text = f"{_FROM} WHERE {where} ORDER BY created_at DESC, id DESC LIMIT ${len(values)}::int"
    found = await tx.query(text, *values)
    jobs = tuple(rows.job(row, whole=True) for row in found[:limit])
    cursor = f"{jobs[-1].created_at!r}|{jobs[-1].id}" if len(found) > limit else None
    return Page(jobs=jobs, cursor=cursor)


async def count(tx: Tx, ns: int, by: Sequence[str], wish: Query | None) -> list[Count]:
    """L27."""
    unknown = [name for name in by if name not in _GROUPS]
    if unknown:
        raise ResultBackendError(f"can't group by {unknown}; known: {sorted(_GROUPS)}")
    where, values = _conditions(ns, wish or Query())
    columns = ", ".join(by)
    select = f"{columns}, count(*)" if by else "count(*)"
    group = f" GROUP BY {columns}" if by else ""
    counts = []
    for row in await tx.query(
        f"SELECT {select} FROM {{schema}}.jobs WHERE {where}{group}", *values
    ):
        named = tuple(_name(field, value) for field, value in zip(by, row, strict=False))
        counts.append(Count(group=named, count=row[-1]))
    return counts


async def sessions(tx: Tx, ns: int, now: float | None) -> list[SessionRecord]:
    """L28."""
    found = await tx.query(
        "SELECT id, body, renewed_at, expires_at, (SELECT count(*) FROM {schema}.jobs AS j WHERE "
        "j.ns = s.ns AND j.worker = s.id AND j.state = 3) AS claims FROM {schema}.sessions AS s "
        "WHERE ns = $1::int AND expires_at > "
        "coalesce($2::float8, extract(epoch FROM clock_timestamp())::float8) ORDER BY id",
        ns,
        now,
    )
    return [
        SessionRecord(
            session=(
                Session(id=row["id"], name="")
                if row["body"] is None
                else _session.decode(row["body"])
            ),
            renewed_at=row["renewed_at"],
            expires_at=row["expires_at"],
            claims=row["claims"],
        )
        for row in found
    ]


def jobs_of(found: Sequence[Any]) -> list[Job]:
    """Records of rows that ``GET`` or ``ENDED`` found."""
    return [rows.job(row, whole=True) for row in found]


def _conditions(ns: int, wish: Query) -> tuple[str, list[Any]]:
    where, values = ["ns = $1::int"], [ns]  # type: tuple[list[str], list[Any]]
    states = [NUMBERS[state] for state in wish.states] or None
    for condition, value in (
        ("state = ANY(?::smallint[])", states),
        ("name = ?::text", wish.name),
        ("routing_key = ?::text", wish.routing_key),
        ("worker = ?::text", wish.worker),
        ("workflow = ?::text", wish.workflow),
        ("unique_key = ?::text", wish.unique),
        ("created_at >= ?::float8", wish.since),
        ("created_at < ?::float8", wish.until),
        ("state = 2 AND pending_at < ?::float8", wish.pending_before),
        ("tags @> ARRAY[?::text]", wish.tag),
    ):
        if value is not None:
            values.append(value)
            where.append(condition.replace("?", f"${len(values)}"))
    return " AND ".join(where), values


def _cursor(text: str) -> tuple[float, str]:
    created_at, _, job_id = text.partition("|")
    try:
        return float(created_at), job_id
    except ValueError as error:
        raise ResultBackendError(f"{text!r:.80} is not a cursor of this ledger") from error


def _name(field: str, value: Any) -> str:
    if field == "state":
        return str(STATES[value].value)
    return "" if value is None else str(value)
