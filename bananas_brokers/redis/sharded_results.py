"""The ledger of ``redis://…?shards=n``: n ledgers of one shard each, and who is asked for what.

Nothing here is atomic over shards, as nothing in the contract needs to be: records and documents
are changed one by one. A shard that does not answer makes a call fail whose answer needs it; what
the others did stays done, as after any lost answer, and the call may be repeated.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from redis.exceptions import RedisError

from bananas_brokers.redis import documents, feed, prune
from bananas_brokers.redis.connect import connector
from bananas_brokers.redis.errors import NotOpen, translate
from bananas_brokers.redis.keys import Keys
from bananas_brokers.redis.layout import agree
from bananas_brokers.redis.reads import cursor_of
from bananas_brokers.redis.results import RedisResultBackend
from bananas_brokers.redis.settings import read_settings
from bananas_brokers.redis.shards import (
    grouped,
    portions,
    shard_of,
    shard_of_doc,
    shard_of_prefix,
)
from bananas_brokers.redis.store import Store
from bananas_brokers.redis.wire import Wire
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

T = TypeVar("T")
R = TypeVar("R")

CLOCKS: Final = 0.5
"""Seconds that the clocks of a cluster's nodes may differ by."""


class ShardedResultBackend:
    """See ``shards.py`` for what is where."""

    def __init__(self, url: str, namespace: str, *, clock: Clock | None = None) -> None:
        self.settings = read_settings(url)
        self.namespace = namespace
        self.shards = [
            RedisResultBackend(url, namespace, clock=clock, shard=shard)
            for shard in range(self.settings.shards)
        ]
        self.capabilities = LedgerCapabilities(
            native=False,
            pushes=True,
            clock_error=CLOCKS if self.settings.cluster else 0.0,
            durability=self.settings.durability,
        )
        self._root = Keys(namespace)
        self._turn = 0
        self._left: list[Ready] = []
        """What must be done, of calls that failed because of another shard."""
        self._skew = 0.0

    async def open(self, *, guard: bool = True, horizon: float = 0.0) -> None:
        if all(shard.is_open() for shard in self.shards):
            return
        await self._agree()
        try:
            await _all([shard.open(guard=guard, horizon=horizon) for shard in self.shards])
            times = await _all([shard.now() for shard in self.shards])
        except BaseException:
            await self.close()
            raise
        self._skew = max(times) - min(times)

    async def close(self) -> None:
        await _all([shard.close() for shard in self.shards])

    def versions(self) -> dict[str, str]:
        """Of the client library and of the server that keeps the first shard."""
        return self.shards[0].versions()

    def warnings(self) -> list[str]:
        """What ``doctor`` should tell about the servers, as they were when this was opened."""
        found = dict.fromkeys(text for shard in self.shards for text in shard.warnings())
        if self._skew > CLOCKS:
            found[
                f"the clocks of the nodes differ by {self._skew:.1f} s or took so long to answer; "
                f"over {CLOCKS} s, unique keys and limits may be early: synchronise them (NTP)"
            ] = None
        return list(found)

    async def put(
        self, jobs: Sequence[JobPut], *, settled: Sequence[Settled] = (), tx: Any = None
    ) -> list[PutAnswer]:
        if tx is not None:
            raise UnsupportedCapability(
                "redis:// can't put jobs in your own transaction; leave out tx="
            )
        if settled:
            await self._settle(settled)
        return await self._spread(jobs, self._of, lambda shard, some: shard.put(some))

    async def claim(self, session: str, hints: Sequence[Hint]) -> list[Verdict]:
        return await self._spread(hints, self._of, lambda shard, some: shard.claim(session, some))

    async def renew(
        self,
        session: Session,
        claims: Sequence[ClaimBeat],
        *,
        mode: RenewMode = RenewMode.FULL,
    ) -> RenewAnswer:
        groups = grouped(claims, self._of)
        answers = await self._ready_of(
            [
                shard.renew(session, [claims[i] for i in groups.get(number, ())], mode=mode)
                for number, shard in enumerate(self.shards)
            ],
            lambda answer: answer.ready,
        )
        return RenewAnswer(
            now=max(answer.now for answer in answers),
            cancelled={job_id: c for answer in answers for job_id, c in answer.cancelled.items()},
            lost=tuple(one for answer in answers for one in answer.lost),
            ready=tuple(one for answer in answers for one in answer.ready),
        )

    async def finish(self, outcomes: Sequence[Outcome]) -> tuple[list[FinishAnswer], list[Ready]]:
        return await self._spread_ready(outcomes, lambda shard, some: shard.finish(some))

    async def get(self, ids: Sequence[str]) -> list[Job | None]:
        return await self._spread(ids, self._of_id, lambda shard, some: shard.get(some))

    async def query(self, query: Query) -> Page:
        """A cursor names a record, and so means the same in every shard."""
        limit = max(1, query.limit)
        pages = await _all([shard.query(query) for shard in self.shards])
        found = [job for page in pages for job in page.jobs]
        found.sort(key=lambda job: (job.created_at, job.id), reverse=True)
        more = len(found) > limit or any(page.cursor is not None for page in pages)
        jobs = found[:limit]
        return Page(jobs=tuple(jobs), cursor=cursor_of(jobs[-1]) if more and jobs else None)

    async def count(self, by: Sequence[str], query: Query | None = None) -> list[Count]:
        groups: Counter[tuple[str, ...]] = Counter()
        for counts in await _all([shard.count(by, query) for shard in self.shards]):
            for count in counts:
                groups[count.group] += count.count
        return [Count(group=group, count=number) for group, number in groups.items()]

    async def sessions(self) -> list[SessionRecord]:
        by_id: dict[str, list[SessionRecord]] = {}
        for records in await _all([shard.sessions() for shard in self.shards]):
            for record in records:
                by_id.setdefault(record.session.id, []).append(record)
        found = []
        for records in by_id.values():
            last = max(records, key=lambda record: (bool(record.session.name), record.renewed_at))
            found.append(
                SessionRecord(
                    session=last.session,
                    renewed_at=last.renewed_at,
                    expires_at=last.expires_at,
                    claims=sum(record.claims for record in records),
                )
            )
        return found

    async def wait(self, ids: Sequence[str], timeout: float) -> list[Job]:
        groups = grouped(ids, self._of_id)
        if len(groups) <= 1:
            return await self.shards[next(iter(groups), 0)].wait(ids, timeout)
        waits = [
            asyncio.ensure_future(self.shards[shard].wait([ids[i] for i in places], timeout))
            for shard, places in groups.items()
        ]
        try:
            left = set(waits)
            while left:
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                errors = [one.exception() for one in done]
                found = [one.result() for one in done if one.exception() is None]
                if any(found):
                    break
                for error in errors:
                    if error is not None:
                        raise error
            else:
                return []
        finally:
            for one in waits:
                one.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        jobs = [job for job in await self.get(ids) if job is not None and job.state in FINAL]
        return list({job.id: job for job in jobs}.values())

    async def signal(self, signals: Sequence[Signal]) -> tuple[list[SignalAnswer], list[Ready]]:
        return await self._spread_ready(signals, lambda shard, some: shard.signal(some))

    async def due(
        self,
        limit: int,
        *,
        settled: Sequence[Settled] = (),
        lost: Mapping[str, float] | None = None,
    ) -> tuple[list[Ready], bool]:
        """What the shards that answer hand over is returned even if others don't."""
        groups = grouped(settled, self._of)
        self._turn += 1
        ready, self._left = self._left[:limit], self._left[limit:]
        shares = portions(limit - len(ready), len(self.shards), self._turn)
        answers = await _each(
            [
                shard.due(share, settled=[settled[i] for i in groups.get(number, ())], lost=lost)
                for number, (shard, share) in enumerate(zip(self.shards, shares, strict=True))
            ]
        )
        more = bool(self._left)
        failure: BaseException | None = None
        for answer in answers:
            if isinstance(answer, BaseException):
                failure = failure or answer
            else:
                ready += answer[0]
                more = more or answer[1]
        if failure is not None and not ready:
            raise failure
        return ready, more

    async def cas(self, writes: Sequence[Write]) -> list[WriteAnswer]:
        documents.check(writes)
        return await self._spread(
            writes, lambda write: self._of_doc(write.key), lambda shard, some: shard.cas(some)
        )

    async def docs(self, prefix: str, *, after: str = "", limit: int = 100) -> list[Doc]:
        one = shard_of_prefix(prefix, len(self.shards))
        if one is not None:
            return await self.shards[one].docs(prefix, after=after, limit=limit)
        pages = await _all([s.docs(prefix, after=after, limit=limit) for s in self.shards])
        # In the order of bytes, as each of them.
        found = [doc for page in pages for doc in page]
        return sorted(found, key=lambda doc: doc.key.encode("utf-8", "surrogatepass"))[:limit]

    async def get_docs(self, keys: Sequence[str]) -> list[Doc | None]:
        return await self._spread(keys, self._of_doc, lambda shard, some: shard.get_docs(some))

    async def events(self, after: str, *, limit: int = 1000) -> EventPage:
        return await feed.read([shard.events for shard in self.shards], after, limit)

    async def prune(self, retention: Retention, limit: int) -> int:
        self._turn += 1
        stores = [shard.store for shard in self.shards]
        first = self._turn % len(stores)
        order = stores[first:] + stores[:first]
        return await prune.prune(order, self._home, retention, limit)

    async def erase(self) -> None:
        """Remove all shards; see ``RedisResultBackend.erase``."""
        await _all([shard.erase() for shard in self.shards])
        wire = Wire(connector(self.settings, self._root), self.settings.socket_timeout)
        try:
            await wire.open()
            await wire.call("UNLINK", self._root.meta)
        except (RedisError, OSError, NotOpen) as error:
            raise self._translated(error) from error
        finally:
            await wire.close()

    async def last_due(self) -> float | None:
        """Of the shard for which it is longest ago."""
        times = await _all([shard.last_due() for shard in self.shards])
        known = [at for at in times if at is not None]
        return min(known) if len(known) == len(times) else None

    async def now(self) -> float:
        """Of the node whose clock is ahead; proves that all answer."""
        return max(await _all([shard.now() for shard in self.shards]))

    def _of(self, item: Any) -> int:
        return shard_of(item.id, len(self.shards))

    def _of_id(self, job_id: str) -> int:
        return shard_of(job_id, len(self.shards))

    def _of_doc(self, key: str) -> int:
        return shard_of_doc(key, len(self.shards))

    def _home(self, job_id: str) -> Store:
        return self.shards[self._of_id(job_id)].store

    async def _agree(self) -> None:
        """That the namespace has as many shards as we think, or is new."""
        wire = Wire(connector(self.settings, self._root), self.settings.socket_timeout)
        try:
            await wire.open()
            await agree(wire, self._root, self.settings)
        except (RedisError, OSError, NotOpen) as error:
            raise self._translated(error) from error
        finally:
            await wire.close()

    def _translated(self, error: Exception) -> Exception:
        label = self.settings.label
        return translate(error, label, ResultBackendError, ResultBackendUnavailable)

    async def _settle(self, settled: Sequence[Settled]) -> None:
        groups = grouped(settled, self._of)
        await _all(
            [
                self.shards[shard].put([], settled=[settled[i] for i in places])
                for shard, places in groups.items()
            ]
        )

    async def _spread(
        self,
        items: Sequence[T],
        of: Callable[[T], int],
        call: Callable[[RedisResultBackend, Sequence[T]], Awaitable[list[R]]],
    ) -> list[R]:
        """Each item to its shard; one answer for each, in order."""
        groups = grouped(items, of)
        if len(groups) == 1:
            return await call(self.shards[next(iter(groups))], items)
        parts = await _all(
            [call(self.shards[s], [items[i] for i in places]) for s, places in groups.items()]
        )
        return _in_order(groups, parts)

    async def _spread_ready(
        self,
        items: Sequence[T],
        call: Callable[[RedisResultBackend, Sequence[T]], Awaitable[tuple[list[R], list[Ready]]]],
    ) -> tuple[list[R], list[Ready]]:
        """The same for calls that also tell what must be done now."""
        groups = grouped(items, self._of)
        if len(groups) == 1:
            return await call(self.shards[next(iter(groups))], items)
        parts = await self._ready_of(
            [call(self.shards[s], [items[i] for i in places]) for s, places in groups.items()],
            lambda part: part[1],
        )
        ready = [one for _, some in parts for one in some]
        return _in_order(groups, [answers for answers, _ in parts]), ready

    async def _ready_of(
        self, calls: Sequence[Awaitable[R]], ready: Callable[[R], Sequence[Ready]]
    ) -> list[R]:
        """All answers. If one is missing, the next ``due`` tells what the others' asked for."""
        answers = await _each(calls)
        errors = [one for one in answers if isinstance(one, BaseException)]
        fine = [one for one in answers if not isinstance(one, BaseException)]
        if errors:
            self._left += [item for one in fine for item in ready(one)]
            raise errors[0]
        return fine


async def _each(calls: Sequence[Awaitable[R]]) -> list[R | BaseException]:
    """All at once; every one comes to its end."""
    if len(calls) == 1:
        return [await calls[0]]
    return list(await asyncio.gather(*calls, return_exceptions=True))


async def _all(calls: Sequence[Awaitable[R]]) -> list[R]:
    """All at once; the first error once every one has come to its end."""
    fine = []
    for answer in await _each(calls):
        if isinstance(answer, BaseException):
            raise answer
        fine.append(answer)
    return fine


def _in_order(groups: Mapping[int, Sequence[int]], parts: Sequence[Sequence[R]]) -> list[R]:
    """Answers at the places of what they answer."""
    by_place: dict[int, R] = {}
    for places, part in zip(groups.values(), parts, strict=True):
        by_place.update(zip(places, part, strict=True))
    return [by_place[i] for i in range(len(by_place))]
