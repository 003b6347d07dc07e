"""``KeyValueBackend``: the whole ResultBackend contract on the primitives of a store.

Atomic per key only. The order of writes and the repairs of ``due`` make up for the rest; each
file of this package says how for its part. Lists and counts read all records: bounded pages, but
many of them in a large ledger.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bananas_core import state
from bananas_core.errors import ConfigurationError, ResultBackendError, UnsupportedCapability
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
    JobState,
    LedgerCapabilities,
    Outcome,
    Page,
    PutAnswer,
    PutKind,
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
from bananas_core.keyvalue import keys, queries
from bananas_core.keyvalue.dues import Dues
from bananas_core.keyvalue.events import Feed
from bananas_core.keyvalue.records import Records
from bananas_core.keyvalue.sessions import Sessions
from bananas_core.keyvalue.store import Change, Entry, KeyValueStore

SCHEMA: Final = 1
MAX_DOC: Final = 256 * 1024
LOOK: Final = 1.0
"""Seconds after which a waiter looks for itself."""


class KeyValueBackend:
    """A ledger on ``store``, which stands for one namespace. ``rng`` spreads out conflicts."""

    def __init__(self, store: KeyValueStore, *, rng: random.Random | None = None) -> None:
        capabilities = store.capabilities
        self.store = store
        self.capabilities = LedgerCapabilities(
            native=False,
            pushes=capabilities.pushes,
            clock_error=capabilities.clock_error,
            durability=capabilities.durability,
        )
        self._records = Records(store, rng or random.Random())
        self._sessions = Sessions(self._records)
        self._feed = Feed(self._records)
        self._dues = Dues(self._records, self._sessions, self._feed)
        self._open = False

    async def open(self, *, guard: bool = True, horizon: float = 0.0) -> None:
        if self._open:
            return
        await self.store.open()
        try:
            await self._check_schema()
        except BaseException:
            await self.store.close()
            raise
        self._records.guard, self._records.horizon = guard, horizon
        self._open = True

    async def close(self) -> None:
        if self._open:
            self._open = False
            await self.store.close()

    async def put(
        self, jobs: Sequence[JobPut], *, settled: Sequence[Settled] = (), tx: Any = None
    ) -> list[PutAnswer]:
        if tx is not None:
            raise UnsupportedCapability("this ledger can't put jobs in your own transaction")
        now = await self.store.now()
        await self._dues.settle(settled, now)
        wishes: dict[str, JobPut] = {}
        for job in jobs:
            wishes.setdefault(job.id, job)

        def create(id: str, job: Job | None) -> Job | None:
            if job is not None:
                return job
            return state.create(wishes[id], now, guard=self._records.guard)

        changed = await self._records.change(list(wishes), create, now)
        answers: list[PutAnswer] = []
        created: set[str] = set()
        for wish in jobs:
            item = changed[wish.id]
            new = item.new
            assert new is not None
            fresh = item.old is None and wish.id not in created
            created.add(wish.id)
            answers.append(
                PutAnswer(
                    kind=PutKind.CREATED if fresh else PutKind.EXISTS,
                    id=wish.id,
                    gen=new.gen,
                    send=new.state is JobState.PENDING and new.guard_at is not None,
                )
            )
        return answers

    async def claim(self, session: str, hints: Sequence[Hint]) -> list[Verdict]:
        return await self._sessions.claim(session, hints)

    async def renew(
        self,
        session: Session,
        claims: Sequence[ClaimBeat],
        *,
        mode: RenewMode = RenewMode.FULL,
    ) -> RenewAnswer:
        return await self._sessions.renew(session, claims, mode)

    async def finish(self, outcomes: Sequence[Outcome]) -> tuple[list[FinishAnswer], list[Ready]]:
        now = await self.store.now()
        ended: dict[str, list[Outcome]] = {}
        for outcome in outcomes:
            ended.setdefault(outcome.id, []).append(outcome)
        answers: dict[tuple[str, int], FinishAnswer] = {}

        def finish(id: str, job: Job | None) -> Job | None:
            for outcome in ended[id]:
                accepted, new = state.finish(job, outcome, now, guard=self._records.guard)
                after = None if new is None else new.state
                if accepted and new is not None and new is job:
                    after = state.first_state(new, outcome)
                answer = FinishAnswer(id=id, accepted=accepted, state=after)
                answers[(id, outcome.fence)] = answer
                job = new
            return job

        changed = await self._records.change(list(ended), finish, now)
        return [answers[(o.id, o.fence)] for o in outcomes], self._records.ready(changed)

    async def get(self, ids: Sequence[str]) -> list[Job | None]:
        return await self._records.get(ids)

    async def query(self, query: Query) -> Page:
        return await queries.query(self._records, query)

    async def count(self, by: Sequence[str], query: Query | None = None) -> list[Count]:
        return await queries.count(self._records, by, query or Query())

    async def sessions(self) -> list[SessionRecord]:
        return await self._sessions.listed(await self.store.now())

    async def wait(self, ids: Sequence[str], timeout: float) -> list[Job]:
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        wanted = list(dict.fromkeys(ids))
        while self._open:
            found = dict(zip(wanted, await self._records.read(wanted), strict=True))
            final = [one.job for one in found.values() if one and one.job.state in FINAL]
            left = until - loop.time()
            if final or left <= 0:
                return final
            known = {
                keys.job(id): 0 if one is None else one.entry.version for id, one in found.items()
            }
            await self.store.watch(known, min(left, LOOK))
        return []

    async def signal(self, signals: Sequence[Signal]) -> tuple[list[SignalAnswer], list[Ready]]:
        now = await self.store.now()
        answers: list[SignalAnswer] = []
        ready: list[Ready] = []
        for wish in signals:
            done: dict[str, bool] = {}

            def apply(
                id: str, job: Job | None, wish: Signal = wish, done: dict[str, bool] = done
            ) -> Job | None:
                done[id], new = state.signal(job, wish, now, guard=self._records.guard)
                return new

            changed = await self._records.change([wish.id], apply, now)
            new = changed[wish.id].new
            answers.append(
                SignalAnswer(
                    id=wish.id, done=done[wish.id], state=None if new is None else new.state
                )
            )
            ready += self._records.ready(changed)
        return answers, ready

    async def due(
        self,
        limit: int,
        *,
        settled: Sequence[Settled] = (),
        lost: Mapping[str, float] | None = None,
    ) -> tuple[list[Ready], bool]:
        return await self._dues.run(limit, settled, lost or {})

    async def cas(self, writes: Sequence[Write]) -> list[WriteAnswer]:
        for write in writes:
            if write.value is not None and len(write.value) > MAX_DOC:
                raise ResultBackendError(
                    f"document {write.key!r} has {len(write.value)} bytes; at most {MAX_DOC}"
                )
        answers: list[WriteAnswer] = []
        for write in writes:  # one by one: a key may occur twice
            change = Change(
                key=keys.doc(write.key), value=write.value, version=write.version, ttl=write.ttl
            )
            (version,) = await self.store.write([change])
            (entry,) = await self.store.get([change.key])
            if version is not None and write.value is not None:
                doc: Doc | None = Doc(key=write.key, value=write.value, version=version)
            elif version is not None:
                doc = None
            else:
                doc = None if entry is None else _doc(entry)
            answers.append(WriteAnswer(done=version is not None, doc=doc))
        return answers

    async def docs(self, prefix: str, *, after: str = "", limit: int = 100) -> list[Doc]:
        begin = keys.doc(after) if after else ""
        entries = await self.store.scan(keys.doc(prefix), begin, limit)
        return [_doc(entry) for entry in entries]

    async def events(self, after: str, *, limit: int = 1000) -> EventPage:
        return await self._feed.read(after, limit)

    async def prune(self, retention: Retention, limit: int) -> int:
        return await self._dues.prune(retention, limit)

    async def last_due(self) -> float | None:
        return await self._dues.last()

    async def now(self) -> float:
        return await self.store.now()

    async def _check_schema(self) -> None:
        value = str(SCHEMA).encode()
        await self.store.write([Change(key=keys.SCHEMA, value=value, version=0)])
        (entry,) = await self.store.get([keys.SCHEMA])
        if entry is not None and int(entry.value) > SCHEMA:
            raise ConfigurationError(
                f"this ledger has schema version {int(entry.value)}, and this program knows "
                f"{SCHEMA} at most; upgrade bananas"
            )


def _doc(entry: Entry) -> Doc:
    return Doc(key=entry.key.removeprefix(keys.DOCS), value=entry.value, version=entry.version)
