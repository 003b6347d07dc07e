"""The ledger of ``redis://``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from bananas_brokers.redis import documents, lifecycle, prune, reads, upkeep
from bananas_brokers.redis.connect import connector
from bananas_brokers.redis.erase import erase
from bananas_brokers.redis.facts import versions_of, warnings_of
from bananas_brokers.redis.outcomes import finish, signal
from bananas_brokers.redis.settings import read_settings
from bananas_brokers.redis.shards import shard_namespace
from bananas_brokers.redis.side import Ends
from bananas_brokers.redis.store import Store
from bananas_core.alike import Alike
from bananas_core.clock import Clock
from bananas_core.errors import (
    ResultBackendError,
    ResultBackendUnavailable,
    UnsupportedCapability,
)
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

_LOOK: Final = 5.0
"""Seconds after which a waiter looks for itself, should it not have been told."""
_LOOK_DEAF: Final = 0.25
"""The same while there is no connection to be told over."""


class RedisResultBackend:
    """``redis://host:port/db``; see ``settings.py`` for the forms and options."""

    def __init__(
        self, url: str, namespace: str, *, clock: Clock | None = None, shard: int | None = None
    ) -> None:
        self.settings = read_settings(url)
        self.namespace = namespace = shard_namespace(self.settings, namespace, shard)
        self.capabilities = LedgerCapabilities(
            native=True,
            pushes=True,
            durability=self.settings.durability,
        )
        self.store = Store(
            self.settings, namespace, clock, ResultBackendError, ResultBackendUnavailable
        )
        self._ends = Ends(connector(self.settings, self.store.keys), self.store.keys)
        self._horizon = 0.0

    async def open(self, *, guard: bool = True, horizon: float = 0.0) -> None:
        if self.is_open():
            return
        self.store.guard, self._horizon = guard, horizon
        await self.store.open()
        self._ends.open()

    def is_open(self) -> bool:
        """Between ``open`` and ``close``."""
        return self.store.wire.is_open()

    async def close(self) -> None:
        await self._ends.close()
        await self.store.close()

    def versions(self) -> dict[str, str]:
        """Of the client library and of the server, as it was when this was opened."""
        return versions_of(self.store.facts)

    def warnings(self) -> list[str]:
        """What ``doctor`` should tell about the server, as it was when this was opened."""
        return warnings_of(self.store.facts, replicas=self.settings.wait_replicas)

    async def put(
        self, jobs: Sequence[JobPut], *, settled: Sequence[Settled] = (), tx: Any = None
    ) -> list[PutAnswer]:
        if tx is not None:
            raise UnsupportedCapability(
                "redis:// can't put jobs in your own transaction; leave out tx="
            )
        if settled:
            await lifecycle.settle(self.store, settled)
        if not jobs:
            return []
        if isinstance(jobs, Alike):
            write = partial(lifecycle.put_alike, self.store, jobs)
        else:
            write = partial(lifecycle.put, self.store, jobs)
        return await (self.store.kept(write) if self.settings.wait_replicas else write())

    async def claim(self, session: str, hints: Sequence[Hint]) -> list[Verdict]:
        async def write() -> list[Verdict]:
            return await lifecycle.claim(self.store, session, hints, horizon=self._horizon)

        if not self.settings.durable_claims:
            return await write()
        return await self.store.kept(write, disk=self.store.facts.has_waitaof)

    async def renew(
        self,
        session: Session,
        claims: Sequence[ClaimBeat],
        *,
        mode: RenewMode = RenewMode.FULL,
    ) -> RenewAnswer:
        return await upkeep.renew(self.store, session, claims, mode)

    async def finish(self, outcomes: Sequence[Outcome]) -> tuple[list[FinishAnswer], list[Ready]]:
        return await finish(self.store, outcomes)

    async def get(self, ids: Sequence[str]) -> list[Job | None]:
        jobs = (await self.store.load(ids, messages=True, results=True)).jobs
        return [jobs.get(job_id) for job_id in ids]

    async def query(self, query: Query) -> Page:
        return await reads.query(self.store, query)

    async def count(self, by: Sequence[str], query: Query | None = None) -> list[Count]:
        return await reads.count(self.store, by, query)

    async def sessions(self) -> list[SessionRecord]:
        return await upkeep.sessions(self.store)

    async def wait(self, ids: Sequence[str], timeout: float) -> list[Job]:
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        with self._ends.listen(ids) as event:
            while self.store.wire.is_open():
                try:
                    jobs = await self.get(ids)
                except ResultBackendUnavailable:
                    if not self.store.wire.is_open():
                        break  # closed meanwhile
                    raise
                final = [job for job in jobs if job is not None and job.state in FINAL]
                left = until - loop.time()
                if final or left <= 0:
                    return list({job.id: job for job in final}.values())
                look = _LOOK if self._ends.listening.is_set() else _LOOK_DEAF
                try:
                    async with asyncio.timeout(min(left, look)):
                        await event.wait()
                except TimeoutError:
                    pass
                event.clear()
        return []

    async def signal(self, signals: Sequence[Signal]) -> tuple[list[SignalAnswer], list[Ready]]:
        return await self.store.kept(lambda: signal(self.store, signals))

    async def due(
        self,
        limit: int,
        *,
        settled: Sequence[Settled] = (),
        lost: Mapping[str, float] | None = None,
    ) -> tuple[list[Ready], bool]:
        if settled:
            await lifecycle.settle(self.store, settled)
        return await upkeep.due(self.store, limit, lost or {})

    async def cas(self, writes: Sequence[Write]) -> list[WriteAnswer]:
        return await documents.cas(self.store, writes)

    async def docs(self, prefix: str, *, after: str = "", limit: int = 100) -> list[Doc]:
        return await documents.docs(self.store, prefix, after, limit)

    async def get_docs(self, keys: Sequence[str]) -> list[Doc | None]:
        return await documents.get_docs(self.store, keys)

    async def events(self, after: str, *, limit: int = 1000) -> EventPage:
        return await reads.events(self.store, after, limit)

    async def prune(self, retention: Retention, limit: int) -> int:
        return await prune.prune([self.store], lambda _: self.store, retention, limit)

    async def erase(self) -> None:
        """Remove the whole namespace, also what the transport has in it; whatever its age, live or
        not. Nobody may use the namespace meanwhile, nor this object afterwards. It looks at every
        key of the database, a thousand at a time. Safe to repeat."""
        await erase(self.store)

    async def last_due(self) -> float | None:
        value = await self.store.call("HGET", self.store.keys.meta, "last_due")
        return None if value is None else float(value)

    async def now(self) -> float:
        return (await self.store.load([], messages=False)).now
