"""The ledger of ``memory://``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from bananas_brokers.memory import reads
from bananas_brokers.memory.bell import job_topic, wait_for
from bananas_brokers.memory.connection import Connection
from bananas_brokers.memory.settings import Form, read_settings
from bananas_core.clock import Clock
from bananas_core.errors import ResultBackendUnavailable, UnsupportedCapability
from bananas_core.job import (
    FINAL,
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
from bananas_core.results import ResultBackend


def MemoryResultBackend(url: str, namespace: str, *, clock: Clock | None = None) -> ResultBackend:
    """The ledger that ``url`` names: fused, or split with ``?form=split``.

    Raises:
        ConfigurationError: an unknown option, or not a ``memory://`` URL.
    """
    if read_settings(url).form is Form.SPLIT:
        from bananas_brokers.memory.split import SplitResultBackend

        return SplitResultBackend(url, namespace, clock=clock)
    return FusedResultBackend(url, namespace, clock=clock)


class FusedResultBackend:
    """``memory://name``: plain dicts of this process. All objects of one name and namespace see
    the same records, which are gone with the last of these objects. One event loop at a time."""

    capabilities = LedgerCapabilities(native=True, pushes=True)

    def __init__(self, url: str, namespace: str, *, clock: Clock | None = None) -> None:
        self.connection = Connection(read_settings(url), namespace, clock, ResultBackendUnavailable)
        self._guard = True
        self._horizon = 0.0

    async def open(self, *, guard: bool = True, horizon: float = 0.0) -> None:
        if not self.connection.is_open:
            self._guard, self._horizon = guard, horizon
            self.connection.open()

    async def close(self) -> None:
        self.connection.close()

    async def put(
        self, jobs: Sequence[JobPut], *, settled: Sequence[Settled] = (), tx: Any = None
    ) -> list[PutAnswer]:
        if tx is not None:
            raise UnsupportedCapability(
                "memory:// can't put jobs in your own transaction; leave out tx="
            )
        store = await self.connection.turn()
        store.ledger.settle(settled)
        return store.ledger.put(jobs, store.now(), guard=self._guard)

    async def claim(self, session: str, hints: Sequence[Hint]) -> list[Verdict]:
        store = await self.connection.turn()
        now = store.now()
        store.upkeep.know(session, now)
        return store.ledger.claim(session, hints, now, guard=self._guard, horizon=self._horizon)

    async def renew(
        self,
        session: Session,
        claims: Sequence[ClaimBeat],
        *,
        mode: RenewMode = RenewMode.FULL,
    ) -> RenewAnswer:
        store = await self.connection.turn()
        return store.upkeep.renew(session, claims, mode, store.now(), guard=self._guard)

    async def finish(self, outcomes: Sequence[Outcome]) -> tuple[list[FinishAnswer], list[Ready]]:
        store = await self.connection.turn()
        return store.ledger.finish(outcomes, store.now(), guard=self._guard)

    async def get(self, ids: Sequence[str]) -> list[Job | None]:
        store = await self.connection.turn()
        return [store.records.get(job_id) for job_id in ids]

    async def query(self, query: Query) -> Page:
        store = await self.connection.turn()
        return reads.query(store.records.jobs.values(), query)

    async def count(self, by: Sequence[str], query: Query | None = None) -> list[Count]:
        store = await self.connection.turn()
        return reads.count(store.records.jobs.values(), by, query)

    async def sessions(self) -> list[SessionRecord]:
        store = await self.connection.turn()
        return store.upkeep.sessions(store.now())

    async def wait(self, ids: Sequence[str], timeout: float) -> list[Job]:
        store = await self.connection.turn()
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        with store.bell.listen(job_topic(job_id) for job_id in ids) as event:
            while self.connection.is_open:
                found = [job for job_id in ids if (job := store.records.get(job_id)) is not None]
                final = [job for job in found if job.state in FINAL]
                left = until - loop.time()
                if final or left <= 0:
                    return final
                await wait_for(event, left)
        return []

    async def signal(self, signals: Sequence[Signal]) -> tuple[list[SignalAnswer], list[Ready]]:
        store = await self.connection.turn()
        return store.ledger.signal(signals, store.now(), guard=self._guard)

    async def due(
        self,
        limit: int,
        *,
        settled: Sequence[Settled] = (),
        lost: Mapping[str, float] | None = None,
    ) -> tuple[list[Ready], bool]:
        store = await self.connection.turn()
        store.ledger.settle(settled)
        return store.upkeep.due(limit, lost or {}, store.now(), guard=self._guard)

    async def cas(self, writes: Sequence[Write]) -> list[WriteAnswer]:
        store = await self.connection.turn()
        return store.documents.write(writes, store.now())

    async def docs(self, prefix: str, *, after: str = "", limit: int = 100) -> list[Doc]:
        store = await self.connection.turn()
        return store.documents.list(prefix, after, limit, store.now())

    async def get_docs(self, keys: Sequence[str]) -> list[Doc | None]:
        store = await self.connection.turn()
        return list(store.documents.get(keys, store.now()))

    async def events(self, after: str, *, limit: int = 1000) -> EventPage:
        store = await self.connection.turn()
        return store.records.events(after, limit)

    async def prune(self, retention: Retention, limit: int) -> int:
        store = await self.connection.turn()
        return store.upkeep.prune(retention, limit, store.now())

    async def erase(self) -> None:
        """Remove everything of this name and namespace, messages too. Safe to repeat."""
        (await self.connection.turn()).clear()

    async def last_due(self) -> float | None:
        store = await self.connection.turn()
        return store.upkeep.last_due

    async def now(self) -> float:
        return (await self.connection.turn()).now()
