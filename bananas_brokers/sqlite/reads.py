"""Reading records: get, query, count, sessions. Each function runs in a snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from bananas_brokers.sql import rows
from bananas_brokers.sqlite.tx import Tx, marks, padded
from bananas_core.errors import ResultBackendError
from bananas_core.job import Count, Job, Page, Query, Session, SessionRecord

_FROM: Final = f"SELECT {rows.COLUMNS}, bodies.message FROM jobs JOIN bodies USING (seq)"
_GROUPS: Final = {"state", "name", "routing_key", "worker", "priority", "workflow"}
_CHUNK: Final = 1000

_session = msgspec.msgpack.Decoder(Session)


def get(tx: Tx, ns: int, ids: Sequence[str], *, final: bool = False) -> list[Job]:
    """The records there are, in any order; ``final``: only those that are."""
    found = []
    only = " AND +state >= 4" if final else ""  # "+": by id, not through all that are final
    for start in range(0, len(ids), _CHUNK):
        part = list(ids[start : start + _CHUNK])
        sql = f"{_FROM} WHERE ns = ? AND id IN ({marks(len(part))}){only}"
        for row in tx.connection.execute(sql, (ns, *padded(part))):
            found.append(rows.job(row, row[rows.MESSAGE]))
    return found


def query(tx: Tx, ns: int, wish: Query) -> Page:
    """L26: by (created_at, id), newest first; the cursor is the last of them."""
    where, values = _conditions(ns, wish)
    if wish.cursor is not None:
        created_at, job_id = _cursor(wish.cursor)
        where += " AND created_at <= ? AND (created_at < ? OR id < ?)"
        values += [created_at, created_at, job_id]
    limit = max(1, wish.limit)
    sql = f"{_FROM} WHERE {where} ORDER BY created_at DESC, id DESC LIMIT ?"
    found = tx.connection.execute(sql, (*values, limit + 1)).fetchall()
    jobs = tuple(rows.job(row, row[rows.MESSAGE]) for row in found[:limit])
    cursor = f"{jobs[-1].created_at!r}|{jobs[-1].id}" if len(found) > limit else None
    return Page(jobs=jobs, cursor=cursor)


def count(tx: Tx, ns: int, by: Sequence[str], wish: Query | None) -> list[Count]:
    """L27."""
    unknown = [name for name in by if name not in _GROUPS]
    if unknown:
        raise ResultBackendError(f"can't group by {unknown}; known: {sorted(_GROUPS)}")
    where, values = _conditions(ns, wish or Query())
    columns = ", ".join(f"jobs.{name}" for name in by)
    select = f"{columns}, count(*)" if by else "count(*)"
    group = f" GROUP BY {columns}" if by else ""
    counts = []
    for row in tx.connection.execute(f"SELECT {select} FROM jobs WHERE {where}{group}", values):
        named = tuple(_name(field, value) for field, value in zip(by, row, strict=False))
        counts.append(Count(group=named, count=row[-1]))
    return counts


def sessions(tx: Tx, ns: int, now: float) -> list[SessionRecord]:
    """L28."""
    found = tx.connection.execute(
        "SELECT id, body, renewed_at, expires_at, (SELECT count(*) FROM jobs WHERE "
        "jobs.ns = sessions.ns AND jobs.worker = sessions.id AND jobs.state = 3) "
        "FROM sessions WHERE ns = ? AND expires_at > ? ORDER BY id",
        (ns, now),
    )
    return [
        SessionRecord(
            session=Session(id=name, name="") if body is None else _session.decode(body),
            renewed_at=renewed_at,
            expires_at=expires_at,
            claims=claims,
        )
        for name, body, renewed_at, expires_at, claims in found
    ]


def _conditions(ns: int, wish: Query) -> tuple[str, list[Any]]:
    where, values = ["jobs.ns = ?"], [ns]  # type: tuple[list[str], list[Any]]
    if wish.states:
        where.append(f"state IN ({','.join('?' * len(wish.states))})")
        values += [rows.NUMBERS[state] for state in wish.states]
    for condition, value in (
        ("name = ?", wish.name),
        ("routing_key = ?", wish.routing_key),
        ("worker = ?", wish.worker),
        ("workflow = ?", wish.workflow),
        ("unique_key = ?", wish.unique),
        ("created_at >= ?", wish.since),
        ("created_at < ?", wish.until),
        ("state = 2 AND pending_at < ?", wish.pending_before),
        ("jobs.seq IN (SELECT seq FROM tags WHERE ns = jobs.ns AND tag = ?)", wish.tag),
    ):
        if value is not None:
            where.append(condition)
            values.append(value)
    return " AND ".join(where), values


def _cursor(text: str) -> tuple[float, str]:
    created_at, _, job_id = text.partition("|")
    try:
        return float(created_at), job_id
    except ValueError as error:
        raise ResultBackendError(f"{text!r:.80} is not a cursor of this ledger") from error


def _name(field: str, value: Any) -> str:
    if field == "state":
        return str(rows.STATES[value].value)
    return "" if value is None else str(value)


def last_due(tx: Tx, ns: int) -> float | None:
    """L44."""
    row = tx.connection.execute("SELECT last_due FROM namespaces WHERE ns = ?", (ns,)).fetchone()
    value: float | None = row[0]
    return value
