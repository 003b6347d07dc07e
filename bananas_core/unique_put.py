"""Submitting jobs with unique keys: steps 1 to 4 of ``unique.py``, for a whole batch at a time, and
what is done about those whose key another job holds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from msgspec.structs import replace

from bananas_core.clock import Clock
from bananas_core.errors import DuplicateJob
from bananas_core.job import (
    Job,
    JobPut,
    JobState,
    PutAnswer,
    PutKind,
    Ready,
    ReadyKind,
    Signal,
    SignalKind,
)
from bananas_core.message import decode_stored, with_fields
from bananas_core.results import ResultBackend
from bananas_core.unique import HOLD, Seen, decide, follow_keys, followers, look, records
from bananas_core.unique_rule import OnConflict, UniqueRule, rule_of

MARGIN: Final = 1.0
"""Seconds before the end of ``HOLD`` from which on a job is not certain of its key."""
FIRST_PAUSE: Final = 0.01
LAST_PAUSE: Final = 0.2
"""Seconds between two looks at a key whose owner is on its way into the ledger."""

_CHANGEABLE: Final = frozenset({JobState.WAITING, JobState.SCHEDULED, JobState.PENDING})
_CHANGES: Final = frozenset({OnConflict.REPLACE, OnConflict.RESCHEDULE, OnConflict.KEEP_LAST})

Answer = PutAnswer | DuplicateJob
Remake = Callable[[int, str, UniqueRule], Awaitable[JobPut]]
"""The put at a place as one for another job's id, with that rule: its payload is encoded for it."""


async def put_unique(
    backend: ResultBackend,
    puts: Sequence[JobPut],
    rules: Sequence[UniqueRule],
    remake: Remake,
    *,
    clock: Clock,
) -> tuple[list[Answer], list[Ready]]:
    """Put jobs that have a unique key; of equal keys the first in order goes first.

    Returns:
        One answer for each. ``conflict`` names the job that there is instead. And what must be
        done now, besides sending those whose answer says ``send``.

    Raises:
        ResultBackendError: it is unknown what was accepted. Safe to repeat with the same ids.
    """
    batch = _Batch(backend, puts, rules, remake, clock)
    await batch.run()
    return [batch.answers[i] for i in range(len(puts))], batch.ready


class _Batch:
    """Rounds of looking at all keys that are still open and doing what can be done."""

    def __init__(
        self,
        backend: ResultBackend,
        puts: Sequence[JobPut],
        rules: Sequence[UniqueRule],
        remake: Remake,
        clock: Clock,
    ) -> None:
        self._backend = backend
        self._puts = puts
        self._rules = rules
        self._remake = remake
        self._clock = clock
        self._certain = HOLD - MARGIN - 2 * backend.capabilities.clock_error
        self.answers: dict[int, Answer] = {}
        self.ready: list[Ready] = []

    async def run(self) -> None:
        await self._nodes([i for i, put in enumerate(self._puts) if put.workflow is not None])
        pause = FIRST_PAUSE
        while left := [i for i in range(len(self._puts)) if i not in self.answers]:
            await self._round(left)
            if len(self._puts) - len(self.answers) < len(left):
                pause = FIRST_PAUSE
            else:
                await asyncio.sleep(pause)
                pause = min(pause * 2, LAST_PAUSE)

    async def _round(self, left: Sequence[int]) -> None:
        started = self._clock.monotonic()
        keys = [self._key(i) for i in left]
        seen, jobs = await look(self._backend, keys, [self._puts[i].id for i in left])
        takes: dict[str, int] = {}
        taken: list[tuple[int, Seen, Job]] = []
        for i, key in zip(left, keys, strict=True):
            own, there = jobs.get(self._puts[i].id), seen[key]
            if own is not None:
                await self._repeated(i, own)
            elif there.holder is None or there.holder == self._puts[i].id:
                takes.setdefault(key, i)
            elif there.owner is not None:
                taken.append((i, there, there.owner))
        await self._take({i: seen[key] for key, i in takes.items()}, started)
        await self._conflicts(taken)

    async def _nodes(self, places: Sequence[int]) -> None:
        """Nodes of a workflow, which needs a record of each: one whose key another job holds ends
        as cancelled."""
        if places:
            await self._backend.put([replace(self._puts[i], waiting=True) for i in places])
            await self._make_sure(places, node=True)

    def _key(self, i: int) -> str:
        key = self._puts[i].unique
        assert key is not None
        return key

    async def _repeated(self, i: int, own: Job) -> None:
        """A job of this id is there; it may be that its submitter never got to releasing it."""
        self.ready += await follow_keys(self._backend, [own])
        self.answers[i] = PutAnswer(kind=PutKind.EXISTS, id=own.id, gen=own.gen)

    async def _take(self, keys: dict[int, Seen], started: float) -> None:
        """Steps 1 to 4 for keys that were free."""
        if not keys:
            return
        writes = [key.write(self._puts[i].id, self._rules[i]) for i, key in keys.items()]
        done = await self._backend.cas(writes)
        mine = [i for i, answer in zip(keys, done, strict=True) if answer.done]
        if not mine:
            return
        puts = [replace(self._puts[i], waiting=True) for i in mine]
        answers = await self._backend.put(puts)
        new = [i for i, a in zip(mine, answers, strict=True) if a.kind is PutKind.CREATED]
        if len(new) < len(mine):  # submitted by two at once with the same id
            known = await records(self._backend, [self._puts[i].id for i in mine if i not in new])
            for i in mine:
                if i not in new:
                    await self._repeated(i, known[self._puts[i].id])
        if self._clock.monotonic() - started > self._certain:
            await self._make_sure(new)
        else:
            wishes = [Signal(id=self._puts[i].id, kind=SignalKind.RELEASE, gen=1) for i in new]
            _, ready = await self._backend.signal(wishes)
            self._created(new, ready)

    def _created(self, new: Sequence[int], ready: Sequence[Ready]) -> None:
        gens = {item.id: item.gen for item in ready if item.kind is ReadyKind.SEND}
        mine = {self._puts[i].id for i in new}
        for i in new:
            id = self._puts[i].id
            self.answers[i] = PutAnswer(
                kind=PutKind.CREATED, id=id, gen=gens.get(id, 1), send=id in gens
            )
        self.ready += [r for r in ready if r.kind is not ReadyKind.SEND or r.id not in mine]

    async def _make_sure(self, new: Sequence[int], *, node: bool = False) -> None:
        """It may be that another job has the key by now."""
        left = {self._puts[i].id: i for i in new}
        while left:
            found = await records(self._backend, left)
            decision = await decide(self._backend, list(found.values()))
            lost = {} if node else decision.lost
            self._created(
                [i for id, i in left.items() if id not in {*lost, *decision.open}], decision.ready
            )
            for id, holder in lost.items():
                self._existing(left[id], holder)
            left = {id: left[id] for id in decision.open}
            if left:
                await asyncio.sleep(LAST_PAUSE)

    def _existing(self, i: int, holder: str) -> None:
        if self._rules[i].on_conflict is OnConflict.RAISE:
            self.answers[i] = DuplicateJob(holder)
        else:
            self.answers[i] = PutAnswer(kind=PutKind.CONFLICT, id=holder)

    async def _conflicts(self, taken: Sequence[tuple[int, Seen, Job]]) -> None:
        """What the rules say. Of several that change the same job the last one's change counts."""
        changes: dict[str, tuple[Job, list[int]]] = {}
        follow: dict[str, tuple[Seen, list[int]]] = {}
        for i, key, owner in taken:
            policy = self._rules[i].on_conflict
            if policy in _CHANGES and owner.state in _CHANGEABLE and self._fits(i, owner):
                changes.setdefault(owner.id, (owner, []))[1].append(i)
            elif policy is OnConflict.KEEP_LAST and owner.state is JobState.PROCESSING:
                follow.setdefault(owner.id, (key, []))[1].append(i)
            else:
                self._existing(i, owner.id)
        for owner, places in changes.values():
            await self._change(owner, places)
        for key, places in follow.values():
            await self._follow(key, places)

    def _fits(self, i: int, owner: Job) -> bool:
        """A job of another task can't have these arguments."""
        return self._puts[i].name == owner.name

    async def _change(self, owner: Job, places: Sequence[int]) -> bool:
        """Whether it had not started; if it had, the places stay open for another look."""
        last = places[-1]
        rule = self._rules[last]
        after = rule_of(decode_stored(owner.message)).after
        put = await self._remake(last, owner.id, replace(rule, after=after))
        again = rule.on_conflict is OnConflict.RESCHEDULE
        wish = Signal(
            id=owner.id,
            kind=SignalKind.CHANGE,
            message=with_fields(put.message, routing_key=owner.routing_key),
            priority=put.priority,
            delay=put.delay if again else None,
            run_at=put.run_at if again else None,
            latest=rule.max_wait if again else None,
        )
        (answer,), ready = await self._backend.signal([wish])
        self.ready += ready
        if answer.done:
            for i in places:
                self.answers[i] = PutAnswer(kind=PutKind.CONFLICT, id=owner.id)
        return answer.done

    async def _follow(self, key: Seen, places: Sequence[int]) -> None:
        """One more job once the key's owner has ended: put, or changed if there is one already.
        Places that stay open are looked at again: the owner has ended meanwhile."""
        last, owner = places[-1], key.holder
        assert owner is not None
        ((id, job),) = (await followers(self._backend, {owner: key})).values()
        if job is not None and not self._fits(last, job):
            for i in places:
                self._existing(i, owner)
            return
        if job is None:
            put = await self._remake(last, id, replace(self._rules[last], after=owner))
            (answer,) = await self._backend.put([replace(put, waiting=True)])
            waits = answer.kind is PutKind.CREATED
        else:
            waits = job.state is JobState.WAITING and await self._change(job, places)
        if not waits:
            return
        # The owner may have ended before the record was there, so that nobody would release it.
        found = await records(self._backend, [id])
        decision = await decide(self._backend, list(found.values()))
        self.ready += decision.ready
        for i in places:
            self.answers.pop(i, None)
            if id not in decision.lost:
                kind = PutKind.CREATED if job is None and i == last else PutKind.CONFLICT
                self.answers[i] = PutAnswer(kind=kind, id=id)
