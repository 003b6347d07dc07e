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
from bananas_core.job import Event, Job, Ready

_LOADED: Final = (
    "WITH found AS MATERIALIZED ("
    "SELECT {columns} FROM {schema}.jobs WHERE {where}) "
    "SELECT coalesce($2::float8, extract(epoch FROM clock_timestamp())::float8) AS now, "
    "(SELECT nextval('{schema}.ord')) AS block, found.* "
    "FROM (VALUES (1)) AS one LEFT JOIN found ON true"
)
_NS: Final = "ns = $1::int AND "
_BY_ID: Final = "ns + 0 = $1::int AND id = ANY($3::text[]) ORDER BY id"
_VERSION: Final = ", jobs.xmin::text AS version"


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
        self._block: int | None = None
        self._versions: dict[str, str] = {}

    @property
    def changed(self) -> bool:
        return bool(self._changed or self._created)

    async def load(self, ids: Sequence[str], *, whole: bool = False, lock: bool = True) -> None:
        """Read the records of ``ids``; with their messages if ``whole``. Without a ``lock``,
        ``flush`` finds out whether they are still as they were."""
        await self._find(_BY_ID, list(ids), whole=whole, lock=lock)

    async def find(
        self,
        where: str,
        *values: Any,
        whole: bool = False,
        skip: bool = False,
    ) -> list[Job]:
        """Read the records that a condition on ``jobs`` selects. Its values begin at ``$3``.
        ``skip`` those that others have locked."""
        return await self._find(_NS + where, *values, whole=whole, skip=skip)

    async def _find(
        self,
        where: str,
        *values: Any,
        whole: bool = False,
        lock: bool = True,
        skip: bool = False,
    ) -> list[Job]:
        columns = rows.COLUMNS + (", jobs.message" if whole else "") + ("" if lock else _VERSION)
        if lock:
            where += " FOR UPDATE SKIP LOCKED" if skip else " FOR UPDATE"
        text = _LOADED.replace("{columns}", columns).replace("{where}", where)
        found = await self.tx.query(text, self.ns, self.clock, *values)
        self.now = max(self.now, found[-1]["now"])
        self._block = found[0]["block"]
        jobs = []
        for row in found:
            if row["id"] is not None:
                values_of = row[2:]
                job = rows.job(values_of, whole=whole)
                jobs.append(self.know(job, 0, values_of[ORD]))
                if not lock:
                    self._versions[job.id] = row["version"]
        return jobs

    async def ready(self) -> list[Ready]:
        """What must be done because of this operation, once for each record, in no order."""
        ids = self.unread()
        found = []
        if ids:
            found = await self.tx.query(
                "SELECT id, message FROM {schema}.jobs "
                "WHERE ns + 0 = $1::int AND id = ANY($2::text[])",
                self.ns,
                ids,
            )
        return self.ready_with({row["id"]: row["message"] for row in found})

    async def flush(self) -> None:
        """Write all changes and their events; once.

        Raises:
            Changed: somebody else has changed or created one of the records meanwhile; nothing was
                written, but in a transaction that is to be rolled back.
        """
        await self._order()
        jobs, where, ns, now = self._jobs, self._where, self.ns, self.now
        events = _columns([_event(e) for e in self._events], 8)
        if self._created:
            lines: list[Any] = [rows.created(jobs[i], where[i][1]) for i in self._created]
            made = await self.tx.run("insert", ns, *_columns(lines), now, *events)
            if len(made) < len(lines):
                raise Changed
            events = _columns([], 8)
        if self._changed:
            lines = [
                (
                    i,
                    *rows.changing(jobs[i], where[i][1]),
                    self._versions.get(i),
                    jobs[i].message if i in self._rewritten else None,
                )
                for i in self._changed
            ]
            (row,) = await self.tx.run("write", ns, *_columns(lines), now, *events)
            if not row["fine"]:
                raise Changed

    async def _order(self) -> None:
        """Places among equals, from as many blocks as are needed."""
        moved = list(self._moved)
        for start in range(0, len(moved), BLOCK):
            if self._block is None:
                (row,) = await self.tx.query("SELECT nextval('{schema}.ord') AS block")
                self._block = row["block"]
            self._moved = dict.fromkeys(moved[start : start + BLOCK])
            self.place(self._block)
            self._block = None


def _event(event: Event) -> tuple[Any, ...]:
    return (
        None if event.old is None else NUMBERS[event.old],
        NUMBERS[event.new],
        event.id,
        event.name,
        event.routing_key,
        event.attempt,
        event.fence,
        event.workflow,
    )


def _columns(lines: Sequence[Sequence[Any]], width: int = 0) -> list[list[Any]]:
    """Rows as arrays, one for each column; ``width`` of them if there are no rows."""
    if not lines:
        return [[] for _ in range(width)]
    return [list(column) for column in zip(*lines, strict=True)]
