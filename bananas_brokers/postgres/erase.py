"""Removes one namespace from the tables, with everything in it."""

from __future__ import annotations

from typing import Final

from bananas_brokers.postgres.store import Store

BATCH: Final = 5_000
"""Rows in one transaction, so that others get their turn."""
_TABLES: Final = ("jobs", "messages", "events", "docs", "sessions", "lapses", "namespaces")


async def erase(store: Store) -> None:
    """Delete batch after batch; the namespace itself goes last."""
    for table in _TABLES:
        text = (
            f"WITH gone AS (DELETE FROM {{schema}}.{table} WHERE ctid = ANY(ARRAY(SELECT ctid "
            f"FROM {{schema}}.{table} WHERE ns = $1::int LIMIT {BATCH})) RETURNING 1) "
            "SELECT count(*) FROM gone"
        )
        while True:
            (row,) = await store.transact(lambda tx, text=text: tx.query(text, store.ns))  # type: ignore[misc]
            if row[0] < BATCH:
                break
