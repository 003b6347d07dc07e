"""The records that one operation reads and changes, in a transaction that has them locked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from bananas_brokers.postgres import rows
from bananas_brokers.postgres.database import Tx
from bananas_brokers.postgres.errors import Changed
from bananas_brokers.postgres.schema import BLOCK
from bananas_brokers.sql.rows import NUMBERS, ORD
from bananas_brokers.sql.work import Work
from bananas_core.job import Job, Ready

_NOW: Final = "coalesce($2::float8, extract(epoch FROM clock_timestamp())::float8) AS now"
_LOADED: Final = (
    "WITH found AS MATERIALIZED ("
    "SELECT {columns} FROM {schema}.jobs WHERE ns = $1::int AND {where}) "
    f"SELECT {_NOW}, found.* FROM (VALUES (1)) AS one LEFT JOIN found ON true"
)


class Records(Work):
    """``Work`` with its input and output. ``clock``: the time of a test, or None for the server's.

    The first ``load`` or ``find`` tells the time, which is after its locks were had.
    """

    def __init__(
        self, tx: Tx, ns: int, clock: float | None, *, guard: bool, horizon: float = 0.0
    ) -> None:
        super().__init__(0.0, guard=guard, horizon=horizon)
        self.tx = tx
        self.ns = ns
        self.clock = clock

    @property
    def changed(self) -> bool:
        return bool(self._changed or self._created)

    async def load(
        self, ids: Sequence[str], *, whole: bool = False, lock: bool = True
    ) -> list[Job]:
        """Read the records of ``ids``; with their messages if ``whole``."""
        return await self.find(
            "id = ANY($3::text[]) ORDER BY id", list(ids), whole=whole, lock=lock
        )

    async def find(
        self,
        where: str,
        *values: Any,
        whole: bool = False,
        lock: bool = True,
        skip: bool = False,
    ) -> list[Job]:
        """Read the records that a condition on ``jobs`` selects. Its values begin at ``$3``.
        ``skip`` those that others have locked."""
        columns = f"{rows.COLUMNS}, jobs.message" if whole else rows.COLUMNS
        if lock:
            where += " FOR UPDATE SKIP LOCKED" if skip else " FOR UPDATE"
        text = _LOADED.replace("{columns}", columns).replace("{where}", where)
        found = await self.tx.query(text, self.ns, self.clock, *values)
        self.now = max(self.now, found[-1][0])
        jobs = []
        for row in found:
            values_of = row[1:]
            if row["id"] is not None:
                job = rows.job(values_of, whole=whole)
                jobs.append(self.know(job, 0, values_of[ORD]))
        return jobs

    async def ready(self) -> list[Ready]:
        """What must be done because of this operation, once for each record, in no order."""
        ids = self.unread()
        found = []
        if ids:
            found = await self.tx.query(
                "SELECT id, message FROM {schema}.jobs WHERE ns = $1::int AND id = ANY($2::text[])",
                self.ns,
                ids,
            )
        return self.ready_with({row["id"]: row["message"] for row in found})

    async def flush(self) -> None:
        """Write all changes and their events; once.

        Raises:
            Changed: somebody else has created one of the records meanwhile.
        """
        await self._order()
        jobs, where = self._jobs, self._where
        if self._created:
            lines = [rows.created(jobs[i], where[i][1]) for i in self._created]
            made = await self.tx.run("insert", self.ns, *_columns(lines))
            if len(made) < len(lines):
                raise Changed
        if self._changed:
            lines = [(i, *rows.changing(jobs[i], where[i][1])) for i in self._changed]
            await self.tx.run("update", self.ns, *_columns(lines))
        if self._rewritten:
            messages = [jobs[i].message for i in self._rewritten]
            await self.tx.run("rewrite", self.ns, list(self._rewritten), messages)
        if self._events:
            events = [
                (
                    None if e.old is None else NUMBERS[e.old],
                    NUMBERS[e.new],
                    e.id,
                    e.name,
                    e.routing_key,
                    e.attempt,
                    e.fence,
                    e.workflow,
                )
                for e in self._events
            ]
            await self.tx.run("events_add", self.ns, self.now, *_columns(events))

    async def _order(self) -> None:
        """Places among equals, from as many blocks as are needed."""
        moved = list(self._moved)
        for start in range(0, len(moved), BLOCK):
            (row,) = await self.tx.query("SELECT nextval('{schema}.ord')")
            self._moved = dict.fromkeys(moved[start : start + BLOCK])
            self.place(row[0])


def _columns(lines: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Rows as arrays, one for each column."""
    return [list(column) for column in zip(*lines, strict=True)]
