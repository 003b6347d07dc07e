"""Unique jobs played through on a ledger, without workers: submitters that are late, or that die
between any two calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast

import msgspec

from bananas_core.clock import new_ids
from bananas_core.errors import DuplicateJob
from bananas_core.follow import follow_up
from bananas_core.job import (
    Hint,
    Job,
    JobPut,
    JobState,
    Outcome,
    OutcomeKind,
    PutAnswer,
    Query,
    Ready,
    VerdictKind,
)
from bananas_core.message import Message
from bananas_core.options import Submission, to_put
from bananas_core.results import ResultBackend
from bananas_core.testing.conformance.harness import Harness
from bananas_core.unique import PREFIX
from bananas_core.unique_put import put_unique
from bananas_core.unique_rule import OnConflict, UniqueRule, Until, mark

LIVE: Final = (JobState.SCHEDULED, JobState.PENDING, JobState.PROCESSING)
"""A job that waits for its key is not live: it never runs without it."""

Answer = PutAnswer | DuplicateJob


class Stopped(Exception):
    """The process is gone."""


async def stop() -> None:
    """What meddling does to end a process."""
    raise Stopped


class LocalClock:
    """A submitter's own clock."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


class Meddled:
    """A ledger where something happens at one call, counted from 0: before it, or after it was
    done and before its caller knows."""

    def __init__(
        self,
        backend: ResultBackend,
        at: int,
        act: Callable[[], Awaitable[object]],
        *,
        after: bool = False,
    ) -> None:
        self._backend = backend
        self._at = at
        self._act = act
        self._after = after
        self.calls = 0

    @property
    def reached(self) -> bool:
        """Whether it happened."""
        return self.calls > self._at

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._backend, name)
        if not callable(method):
            return method

        async def call(*args: Any, **options: Any) -> Any:
            number, self.calls = self.calls, self.calls + 1
            if number == self._at and not self._after:
                await self._act()
            answer = await method(*args, **options)
            if number == self._at and self._after:
                await self._act()
            return answer

        return call

    @property
    def ledger(self) -> ResultBackend:
        """This one, as what it stands for."""
        return cast("ResultBackend", self)


def rule(
    on_conflict: OnConflict = OnConflict.EXISTING,
    until: Until = Until.FINISHED,
    **options: Any,
) -> UniqueRule:
    """A rule that makes sense."""
    made = UniqueRule(on_conflict=on_conflict, until=until, **options)
    made.check()
    return made


def a_submission(key: str, n: int, rule: UniqueRule, **options: Any) -> Submission:
    """A job with the argument ``n`` that is to hold a key."""
    message = Message(
        v=1,
        id=options.pop("id", None) or new_ids(1)[0],
        name=options.pop("name", "conformance.unique"),
        payload=msgspec.Raw(b'{"n":%d}' % n),
        created_at=datetime.now(UTC),
        put=True,
        workflow=options.pop("workflow", None),
    )
    return Submission(message=mark(message, key, rule), **options)


async def submit_all(
    backend: ResultBackend, jobs: Sequence[Submission], clock: LocalClock | None = None
) -> list[Answer]:
    """Submit a batch, and do what must be done then."""

    async def remake(place: int, id: str, rule: UniqueRule) -> JobPut:
        message = jobs[place].message
        changed = mark(msgspec.structs.replace(message, id=id), message.unique or "", rule)
        return to_put(msgspec.structs.replace(jobs[place], message=changed))

    rules = [msgspec.convert((j.message.meta or {}).get("unique", {}), UniqueRule) for j in jobs]
    answers, ready = await put_unique(
        backend, [to_put(job) for job in jobs], rules, remake, clock=clock or LocalClock()
    )
    await tend(backend, ready)
    return answers


async def submit(
    backend: ResultBackend,
    key: str,
    n: int = 0,
    how: UniqueRule | None = None,
    *,
    clock: LocalClock | None = None,
    **options: Any,
) -> Answer:
    """Submit one job."""
    (answer,) = await submit_all(backend, [a_submission(key, n, how or rule(), **options)], clock)
    return answer


def id_of(answer: Answer) -> str:
    """The job that there is."""
    assert isinstance(answer, PutAnswer)
    return answer.id


async def tend(backend: ResultBackend, ready: Sequence[Ready]) -> None:
    """Follow up, as whoever gets what must be done does."""
    _, settled = await follow_up(backend, ready)
    if settled:
        await backend.put([], settled=settled)


async def due(backend: ResultBackend) -> None:
    """What any worker does each second."""
    more = True
    while more:
        ready, more = await backend.due(500)
        await tend(backend, ready)


async def jobs_of(backend: ResultBackend, key: str, *states: JobState) -> list[Job]:
    """The jobs that have a key, oldest first."""
    page = await backend.query(Query(unique=key, states=states, limit=1000))
    return list(reversed(page.jobs))


async def at_most_one(backend: ResultBackend, key: str) -> None:
    """The promise that all is about."""
    found = await jobs_of(backend, key, *LIVE)
    assert len(found) <= 1, f"{len(found)} live jobs have the key {key!r}"


async def begin(backend: ResultBackend, session: str, id: str) -> Outcome:
    """Claim a job; how it completes."""
    (job,) = await backend.get([id])
    assert job is not None
    (verdict,) = await backend.claim(session, [Hint(id=id, gen=job.gen)])
    assert verdict.kind is VerdictKind.RUN, f"{id} is {job.state}: {verdict.kind}"
    assert verdict.claim is not None
    return Outcome(id=id, fence=verdict.claim.fence, kind=OutcomeKind.COMPLETED)


async def end(backend: ResultBackend, outcome: Outcome, *, followed: bool = True) -> None:
    """Finish it, and follow that up unless the worker dies then."""
    _, ready = await backend.finish([outcome])
    if followed:
        await tend(backend, ready)


async def run(backend: ResultBackend, session: str, id: str) -> None:
    """Claim and complete a job."""
    await end(backend, await begin(backend, session, id))


async def documents(backend: ResultBackend) -> list[str]:
    """Owners of the keys whose documents there are."""
    found = await backend.docs(PREFIX, limit=1000)
    return [msgspec.json.decode(doc.value)["owner"] for doc in found]


async def while_time_passes(
    harness: Harness, backend: ResultBackend, key: str, task: asyncio.Task[Answer]
) -> Answer:
    """Wait for a submitter that waits for time to pass at the ledger."""
    loop = asyncio.get_running_loop()
    until = loop.time() + harness.limits.deadline + 10.0
    while not task.done():
        assert loop.time() < until, "a submitter waits for ever"
        await harness.advance(0.5)
        await due(backend)
        await at_most_one(backend, key)
        await asyncio.wait({task}, timeout=0.01)
    return task.result()


async def heal(harness: Harness, backend: ResultBackend, key: str, seconds: float = 42.0) -> None:
    """Time passes, and workers that live run and repair all there is; then nothing is left."""
    session = harness.session()
    for _ in range(int(seconds / 6)):
        await harness.advance(6.0)
        await due(backend)
        await at_most_one(backend, key)
        for job in await jobs_of(backend, key, JobState.PENDING):
            await run(backend, session, job.id)
        await at_most_one(backend, key)
    left = await jobs_of(backend, key, JobState.WAITING, *LIVE)
    assert [(job.id, job.state) for job in left] == []
