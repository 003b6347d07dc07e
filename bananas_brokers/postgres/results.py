"""The ledger of ``postgresql://``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bananas_brokers.postgres import documents, lifecycle, prune, reads, upkeep
from bananas_brokers.postgres.erase import erase
from bananas_brokers.postgres.facts import versions_of, warnings_of
from bananas_brokers.postgres.settings import read_settings
from bananas_brokers.postgres.store import Store
from bananas_brokers.postgres.tx import KINDS
from bananas_core.clock import Clock
from bananas_core.errors import (
    ResultBackendError,
    ResultBackendUnavailable,
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

_LOOK: Final = 5.0
"""Seconds after which a waiter looks for itself, should it not have been told."""


class PostgresResultBackend:
    """``postgresql://user:password@host:port/database``; see ``settings.py`` for the options. All
    objects of an event loop on one URL and namespace share their connections."""

    def __init__(self, url: str, namespace: str, *, clock: Clock | None = None) -> None:
        self.settings = read_settings(url)
        self.namespace = namespace
        self.capabilities = LedgerCapabilities(
            native=True,
            pushes=True,
            durability=self.settings.durability,
            transactions=KINDS,
        )
        self._store = Store(
            self.settings, namespace, clock, ResultBackendError, ResultBackendUnavailable
        )
        self._bookmarks = prune.Bookmarks()

    async def open(self, *, guard: bool = True, horizon: float = 0.0) -> None:
        if self._store.is_open():
            return
        self._store.guard, self._store.horizon = guard, horizon
        await self._store.open()
        if not guard:
            self._store.fuse()

    async def close(self) -> None:
        if self._store.is_open():
            if self._store.is_here():
                self._store.database.bell.ring_all()
            await self._store.close()

    def warnings(self) -> list[str]:
        """What ``doctor`` should tell about this server; while open."""
        return warnings_of(self._store.database.facts, self.settings)

    def versions(self) -> dict[str, str]:
        """Of the client library and of the server; while open."""
        return versions_of(self._store.database.facts)

    async def put(
        self, jobs: Sequence[JobPut], *, settled: Sequence[Settled] = (), tx: Any = None
    ) -> list[PutAnswer]:
        if tx is not None:
            return await lifecycle.put_for(self._store, tx, jobs, settled)
        return await lifecycle.put(self._store, jobs, settled)

    async def claim(self, session: str, hints: Sequence[Hint]) -> list[Verdict]:
        return await lifecycle.claim(self._store, session, hints)

    async def renew(
        self,
        session: Session,
        claims: Sequence[ClaimBeat],
        *,
        mode: RenewMode = RenewMode.FULL,
    ) -> RenewAnswer:
        return await upkeep.renew(self._store, session, claims, mode)

    async def finish(self, outcomes: Sequence[Outcome]) -> tuple[list[FinishAnswer], list[Ready]]:
        return await lifecycle.finish(self._store, outcomes)

    async def get(self, ids: Sequence[str]) -> list[Job | None]:
        found = reads.jobs_of(await self._store.select(reads.GET, self._store.ns, list(ids)))
        by_id = {job.id: job for job in found}
        return [by_id.get(job_id) for job_id in ids]

    async def query(self, query: Query) -> Page:
        return await self._store.read(lambda tx: reads.query(tx, self._store.ns, query))

    async def count(self, by: Sequence[str], query: Query | None = None) -> list[Count]:
        return await self._store.read(lambda tx: reads.count(tx, self._store.ns, by, query))

    async def sessions(self) -> list[SessionRecord]:
        now = self._store.now()
        return await self._store.read(lambda tx: reads.sessions(tx, self._store.ns, now))

    async def wait(self, ids: Sequence[str], timeout: float) -> list[Job]:
        loop = asyncio.get_running_loop()
        until, looks = loop.time() + timeout, 0
        bell = self._store.database.bell
        with bell.listen(f"j{job_id}" for job_id in ids) as event:
            while self._store.is_open():
                try:
                    found = await self._store.select(reads.ENDED, self._store.ns, list(ids))
                except ResultBackendUnavailable:
                    if not self._store.is_open():
                        break  # closed meanwhile
                    raise
                left = until - loop.time()
                if found or left <= 0:
                    order = {job_id: i for i, job_id in enumerate(ids)}
                    return sorted(reads.jobs_of(found), key=lambda job: order[job.id])
                looks += 1
                try:
                    async with asyncio.timeout(min(left, bell.pause(looks, _LOOK))):
                        await event.wait()
                except TimeoutError:
                    pass
                event.clear()
        return []

    async def signal(self, signals: Sequence[Signal]) -> tuple[list[SignalAnswer], list[Ready]]:
        return await lifecycle.signal(self._store, signals)

    async def due(
        self,
        limit: int,
        *,
        settled: Sequence[Settled] = (),
        lost: Mapping[str, float] | None = None,
    ) -> tuple[list[Ready], bool]:
        return await upkeep.due(self._store, limit, settled, lost or {})

    async def cas(self, writes: Sequence[Write]) -> list[WriteAnswer]:
        documents.check(writes)
        return await documents.cas(self._store, writes)

    async def docs(self, prefix: str, *, after: str = "", limit: int = 100) -> list[Doc]:
        store = self._store
        end = documents.behind(prefix)
        found = await store.select(documents.DOCS, store.ns, store.now(), after, prefix, end, limit)
        return documents.docs_of(found)

    async def get_docs(self, keys: Sequence[str]) -> list[Doc | None]:
        store = self._store
        found = await store.select(documents.GET, store.ns, store.now(), list(keys))
        by_key = {doc.key: doc for doc in documents.docs_of(found)}
        return [by_key.get(key) for key in keys]

    async def events(self, after: str, *, limit: int = 1000) -> EventPage:
        return await self._store.transact(
            lambda tx: documents.events(tx, self._store.ns, after, limit)
        )

    async def prune(self, retention: Retention, limit: int) -> int:
        return await prune.prune(self._store, retention, limit, self._bookmarks)

    async def erase(self) -> None:
        """Remove the whole namespace, also what the transport has in it; whatever its age, live or
        not. Nobody may use the namespace meanwhile, nor this object afterwards."""
        await erase(self._store)

    async def last_due(self) -> float | None:
        found = await self._store.select(upkeep.LAST_DUE, self._store.ns)
        value: float | None = found[0]["last_due"] if found else None
        return value

    async def now(self) -> float:
        (row,) = await self._store.run("now", self._store.now())
        return float(row["now"])
