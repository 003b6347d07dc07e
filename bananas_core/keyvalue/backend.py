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
from bananas_core.keyvalue.prune import Pruner
from bananas_core.keyvalue.records import Records
from bananas_core.keyvalue.sessions import Sessions
from bananas_core.keyvalue.store import Change, Entry, KeyValueStore

SCHEMA: Final = 1
MAX_DOC: Final = 256 * 1024
ERASE_PAGE: Final = 500
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
        self._dues = Dues(self._records, self._sessions)
        self._pruner = Pruner(self._records)
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
        calls: dict[str, Job] = {}
        for wish in signals:  # one by one: several may be for one job
            done: dict[str, bool] = {}

            def apply(
                id: str, job: Job | None, wish: Signal = wish, done: dict[str, bool] = done
            ) -> Job | None:
                done[id], new = state.signal(job, wish, now, guard=self._records.guard)
                return new

            changed = await self._records.change([wish.id], apply, now)
            old, new = changed[wish.id].old, changed[wish.id].new
            if new is not old:
                calls.pop(wish.id, None)
                calls.update(self._records.calls(changed))
            answers.append(
                SignalAnswer(
                    id=wish.id, done=done[wish.id], state=None if new is None else new.state
                )
            )
        return answers, [state.ready(job) for job in calls.values()]

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
        for run in _runs(writes):
            answers += await self._cas(run)
        return answers

    async def get_docs(self, keys_: Sequence[str]) -> list[Doc | None]:
        entries = await self.store.get([keys.doc(key) for key in keys_])
        return [None if entry is None else _doc(entry) for entry in entries]

    async def docs(self, prefix: str, *, after: str = "", limit: int = 100) -> list[Doc]:
        begin = keys.doc(after) if after else ""
        entries = await self.store.scan(keys.doc(prefix), begin, limit)
        return [_doc(entry) for entry in entries]

    async def events(self, after: str, *, limit: int = 1000) -> EventPage:
        return await self._feed.read(after, limit)

    async def prune(self, retention: Retention, limit: int) -> int:
        await self._feed.prune(await self.store.now() - retention.events)
        return await self._pruner.prune(retention, limit)

    async def erase(self) -> None:
        """Remove everything in the store's namespace, whatever its age, live or not. Nobody may
        use it meanwhile. Safe to repeat."""
        while entries := await self.store.scan("", "", ERASE_PAGE):
            await self.store.write([Change(key=entry.key, value=None) for entry in entries])

    async def last_due(self) -> float | None:
        return await self._dues.last()

    async def now(self) -> float:
        return await self.store.now()

    async def _cas(self, writes: Sequence[Write]) -> list[WriteAnswer]:
        """Writes of different keys, in one request, and what is there instead of the refused
        ones in another."""
        versions = await self.store.write(
            [
                Change(key=keys.doc(w.key), value=w.value, version=w.version, ttl=w.ttl)
                for w in writes
            ]
        )
        pairs = list(zip(writes, versions, strict=True))
        refused = [write.key for write, version in pairs if version is None]
        found = dict(zip(refused, await self.get_docs(refused), strict=True)) if refused else {}
        return [
            WriteAnswer(done=version is not None, doc=_after(write, version, found))
            for write, version in pairs
        ]

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


def _after(write: Write, version: int | None, found: Mapping[str, Doc | None]) -> Doc | None:
    """The document after a write; ``found`` if the write was refused."""
    if version is None:
        return found[write.key]
    if write.value is None:
        return None
    return Doc(key=write.key, value=write.value, version=version)


def _runs(writes: Sequence[Write]) -> list[list[Write]]:
    """Cut where a key occurs again, since the order of its writes counts."""
    runs: list[list[Write]] = []
    taken: set[str] = set()
    for write in writes:
        if not runs or write.key in taken:
            runs.append([])
            taken.clear()
        runs[-1].append(write)
        taken.add(write.key)
    return runs
