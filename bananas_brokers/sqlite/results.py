"""The ledger of ``sqlite://``: every change is one transaction, applied as a whole or not."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, TypeVar

from bananas_brokers.sqlite import documents, lifecycle, prune, reads, upkeep
from bananas_brokers.sqlite.database import Handle
from bananas_brokers.sqlite.erase import erase
from bananas_brokers.sqlite.records import Place, Records
from bananas_brokers.sqlite.settings import read_settings
from bananas_brokers.sqlite.tx import job_topic
from bananas_core.clock import Clock, SystemClock
from bananas_core.errors import (
    ResultBackendError,
    ResultBackendUnavailable,
    UnsupportedCapability,
)
from bananas_core.job import (
    ClaimBeat,
    Count,
    Doc,
    EventPage,
    FinishAnswer,
    Hint,
    Job,
    JobPut,
    LedgerCapabilities,
    Outcome,
    Page,
    PutAnswer,
    Query,
    Ready,
    RenewAnswer,
    RenewMode,
    Retention,
    Session,
    SessionRecord,
    Settled,
    Signal,
    SignalAnswer,
    Verdict,
    Write,
    WriteAnswer,
)

T = TypeVar("T")

_SAFE_SQLITE: Final = (3, 51, 3)
_LOOK: Final = 5.0
"""Seconds after which a waiter looks for itself, should no bell have rung."""


class SQLiteResultBackend:
    """``sqlite:///relative.db`` or ``sqlite:////absolute.db``; options ``durable`` (true) and
    ``busy_timeout`` (30 s). All objects of a process on one file share a connection, and any
    number of processes may use the file."""

    def __init__(self, url: str, namespace: str, *, clock: Clock | None = None) -> None:
        self.settings = read_settings(url)
        self.namespace = namespace
        self.capabilities = LedgerCapabilities(
            native=True, durability="disk" if self.settings.durable else "memory"
        )
        self._clock = clock or SystemClock()
        self._handle = Handle(
            self.settings, namespace, ResultBackendError, ResultBackendUnavailable
        )
        self._guard = True
        self._horizon = 0.0
        self._bookmarks = prune.Bookmarks()

    async def open(self, *, guard: bool = True, horizon: float = 0.0) -> None:
        if self._handle.is_open():
            return
        self._guard, self._horizon = guard, horizon
        await self._handle.open()
        if not guard:
            self._handle.fuse()

    async def close(self) -> None:
        if self._handle.is_open():
            bell = self._handle.database.bell
            await self._handle.close()
            bell.ring()

    def versions(self) -> dict[str, str]:
        """Of the library that reads the file, and of what that is a client of: both in one."""
        return {"client": "sqlite3", "server": f"SQLite {sqlite3.sqlite_version}"}

    def warnings(self) -> list[str]:
        """What ``doctor`` should tell about this file and this SQLite."""
        found = []
        if sqlite3.sqlite_version_info < _SAFE_SQLITE:
            found.append(
                f"SQLite {sqlite3.sqlite_version} has a rare bug that can damage a WAL file "
                "written by several connections at once; 3.51.3 and later are free of it"
            )
        if not self.settings.durable:
            found.append("durable=false: a crash of the machine can lose the last confirmed writes")
        return found

    async def put(
        self, jobs: Sequence[JobPut], *, settled: Sequence[Settled] = (), tx: Any = None
    ) -> list[PutAnswer]:
        if tx is not None:
            raise UnsupportedCapability(
                "sqlite:// can't put jobs in your own transaction; leave out tx="
            )
        return await self._change(lambda records: lifecycle.put(records, jobs, settled))

    async def claim(self, session: str, hints: Sequence[Hint]) -> list[Verdict]:
        return await self._change(lambda records: lifecycle.claim(records, session, hints))

    async def renew(
        self,
        session: Session,
        claims: Sequence[ClaimBeat],
        *,
        mode: RenewMode = RenewMode.FULL,
    ) -> RenewAnswer:
        return await self._change(lambda records: upkeep.renew(records, session, claims, mode))

    async def finish(self, outcomes: Sequence[Outcome]) -> tuple[list[FinishAnswer], list[Ready]]:
        return await self._change(lambda records: lifecycle.finish(records, outcomes))

    async def get(self, ids: Sequence[str]) -> list[Job | None]:
        ns = self._handle.ns
        found = await self._handle.read(lambda tx: reads.get(tx, ns, ids))
        by_id = {job.id: job for job in found}
        return [by_id.get(job_id) for job_id in ids]

    async def query(self, query: Query) -> Page:
        ns = self._handle.ns
        return await self._handle.read(lambda tx: reads.query(tx, ns, query))

    async def count(self, by: Sequence[str], query: Query | None = None) -> list[Count]:
        ns = self._handle.ns
        return await self._handle.read(lambda tx: reads.count(tx, ns, by, query))

    async def sessions(self) -> list[SessionRecord]:
        ns, now = self._handle.ns, self._clock.now()
        return await self._handle.read(lambda tx: reads.sessions(tx, ns, now))

    async def wait(self, ids: Sequence[str], timeout: float) -> list[Job]:
        ns, database = self._handle.ns, self._handle.database
        until = monotonic() + timeout
        with database.bell.listen(job_topic(ns, job_id) for job_id in ids) as ticket:
            database.reads.nudge()
            while self._handle.is_open():
                try:
                    final = await self._handle.read(lambda tx: reads.get(tx, ns, ids, final=True))
                except ResultBackendUnavailable:
                    if not self._handle.is_open():
                        break  # closed meanwhile
                    raise
                left = until - monotonic()
                if final or left <= 0:
                    order = {job_id: i for i, job_id in enumerate(ids)}
                    return sorted(final, key=lambda job: order[job.id])
                await ticket.wait(min(left, _LOOK))
        return []

    async def signal(self, signals: Sequence[Signal]) -> tuple[list[SignalAnswer], list[Ready]]:
        return await self._change(lambda records: lifecycle.signal(records, signals))

    async def due(
        self,
        limit: int,
        *,
        settled: Sequence[Settled] = (),
        lost: Mapping[str, float] | None = None,
    ) -> tuple[list[Ready], bool]:
        return await self._change(lambda records: upkeep.due(records, limit, settled, lost or {}))

    async def cas(self, writes: Sequence[Write]) -> list[WriteAnswer]:
        documents.check(writes)
        ns = self._handle.ns
        return await self._handle.write(lambda tx: documents.cas(tx, ns, self._now(), writes))

    async def docs(self, prefix: str, *, after: str = "", limit: int = 100) -> list[Doc]:
        ns, now = self._handle.ns, self._clock.now()
        return await self._handle.read(lambda tx: documents.docs(tx, ns, now, prefix, after, limit))

    async def get_docs(self, keys: Sequence[str]) -> list[Doc | None]:
        ns, now = self._handle.ns, self._clock.now()
        found = await self._handle.read(lambda tx: documents.get(tx, ns, now, keys))
        return [found.get(key) for key in keys]

    async def events(self, after: str, *, limit: int = 1000) -> EventPage:
        ns = self._handle.ns
        return await self._handle.read(lambda tx: documents.events(tx, ns, after, limit))

    async def prune(self, retention: Retention, limit: int) -> int:
        return await self._handle.write(
            lambda tx: prune.prune(tx, self._place(), retention, limit, self._bookmarks)
        )

    async def erase(self) -> None:
        """Remove the whole namespace, also what the transport has in it; whatever its age, live or
        not. Nobody may use the namespace meanwhile, nor this object afterwards."""
        ns = self._handle.ns
        while await self._handle.write(lambda tx: erase(tx, ns)):
            pass

    async def last_due(self) -> float | None:
        ns = self._handle.ns
        return await self._handle.read(lambda tx: reads.last_due(tx, ns))

    async def now(self) -> float:
        await self._handle.read(lambda tx: tx.connection.execute("SELECT 1 FROM meta").fetchall())
        return self._now()

    async def _change(self, work: Callable[[Records], T]) -> T:
        return await self._handle.write(lambda tx: work(Records(tx, self._place())))

    def _place(self) -> Place:
        """Made inside the transaction, so that times are in the order of the commits."""
        return Place(ns=self._handle.ns, now=self._now(), guard=self._guard, horizon=self._horizon)

    def _now(self) -> float:
        return self._clock.now()
