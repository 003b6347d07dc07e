"""Removes one namespace from the file, with everything in it."""

from __future__ import annotations

from typing import Final

from bananas_brokers.sqlite.tx import Tx

BATCH: Final = 2_000
"""Rows in one transaction, so that others get their turn."""

_JOBS: Final = "SELECT seq FROM jobs WHERE ns = ? LIMIT ?"
_OTHERS: Final = ("messages", "events")
_SMALL: Final = ("sessions", "lapses", "docs", "namespaces")


def erase(tx: Tx, ns: int) -> bool:
    """Delete a batch; whether more is left. In a write transaction; the namespace goes last."""
    execute = tx.connection.execute
    seqs = execute(_JOBS, (ns, BATCH)).fetchall()
    for table in ("bodies", "tags", "jobs"):
        tx.connection.executemany(f"DELETE FROM {table} WHERE seq = ?", seqs)
    for table in _OTHERS:
        if not seqs:
            chosen = f"SELECT rowid FROM {table} WHERE ns = ? LIMIT ?"
            if execute(f"DELETE FROM {table} WHERE rowid IN ({chosen})", (ns, BATCH)).rowcount:
                return True
    if not seqs:
        for table in _SMALL:
            execute(f"DELETE FROM {table} WHERE ns = ?", (ns,))
    return bool(seqs)
