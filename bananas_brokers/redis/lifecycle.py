"""How records begin: put and claim, and the settling of what was sent. What is usual is one script;
what is not is decided by ``state.py`` and written by compare-and-set."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, Final

import msgspec

from bananas_brokers.redis import header
from bananas_brokers.redis.outcomes import rounds
from bananas_brokers.redis.store import BATCH, BYTES, Fixed, Store
from bananas_core import state
from bananas_core.alike import Alike
from bananas_core.job import (
    Claim,
    Held,
    Hint,
    Job,
    JobPut,
    JobState,
    PutAnswer,
    PutKind,
    Settled,
    Verdict,
    VerdictKind,
)

_LARGEST_GEN: Final = 0xFFFFFFFF
_KINDS: Final = 1000
"""So many are kept in mind."""
_HOLD: Final = repr(state.FIRST_HOLD).encode()

_Kind = tuple[str, int, str, int]
"""Routing key, priority, name, max_attempts: what is in the header of a new plain job."""


async def put(store: Store, jobs: Sequence[JobPut], *, keep_for: float = 0.0) -> list[PutAnswer]:
    """L7, L8. In order, so that equals stay in the order in which they were put."""
    first: dict[str, JobPut] = {}
    for job in jobs:
        first.setdefault(job.id, job)
    created: set[str] = set()
    quick = True
    for plain, some in groupby(first.values(), lambda job: not keep_for and header.is_plain(job)):
        if plain:
            created |= await _put_plain(store, list(some))
        else:
            created |= await _put_others(store, list(some), keep_for)
            quick = False
    if quick and len(created) == len(jobs):
        return [PutAnswer(kind=PutKind.CREATED, id=job.id, send=store.guard) for job in jobs]
    return await _answers(store, jobs, created)


async def _answers(store: Store, jobs: Sequence[JobPut], created: set[str]) -> list[PutAnswer]:
    loaded = await store.load([job.id for job in jobs], messages=False)
    answers = []
    for job in jobs:
        kind = PutKind.EXISTS
        if job.id in created:
            kind = PutKind.CREATED
            created.discard(job.id)
        answers.append(_answer(loaded.jobs.get(job.id), job.id, kind))
    return answers


def _answer(job: Job | None, job_id: str, kind: PutKind) -> PutAnswer:
    if job is None:  # it was pruned a moment ago
        return PutAnswer(kind=kind, id=job_id)
    send = job.state is JobState.PENDING and job.guard_at is not None
    return PutAnswer(kind=kind, id=job_id, gen=job.gen, send=send)


class _Known(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for all plain jobs like this one."""

    like: JobPut
    kind: _Kind
    lone: Fixed
    """The call of ``put_one.lua``."""


def _known(store: Store, like: JobPut) -> _Known | None:
    """None: it isn't plain. By identity, since a task submits the same ``like`` again and again."""
    found: _Known | None = store.kinds.get(id(like))
    if found is not None and found.like is like:
        return found
    if not header.is_plain(like):
        return None
    keys, queue = store.keys, like.routing_key
    kind = queue, like.priority, like.name, like.max_attempts
    ready, levels, bell = keys.ready(queue, like.priority), keys.levels(queue), keys.wake(queue)
    names = (keys.heads, keys.messages, keys.events, keys.made, ready, levels, bell)
    lone = store.fixed("put_one", names, *_kind_words(kind, False)[1:])
    if len(store.kinds) >= _KINDS:
        store.kinds.clear()
    store.kinds[id(like)] = found = _Known(like=like, kind=kind, lone=lone)
    return found


async def put_alike(store: Store, jobs: Alike) -> list[PutAnswer]:
    """``put`` of jobs that need not be looked at one by one."""
    known = _known(store, jobs.like)
    if known is None:
        return await put(store, jobs)
    ids, messages = jobs.ids, jobs.messages
    if len(ids) == 1 and not store.guard:
        if await store.run_one(known.lone, ids[0], messages[0]):
            return [PutAnswer(kind=PutKind.CREATED, id=ids[0])]
        return await _answers(store, jobs, set())
    kind = known.kind
    parts = _parts(messages)
    calls = [
        (stop - start, *ids[start:stop], *messages[start:stop], *_run(store, kind, stop - start))
        for start, stop in parts
    ]
    answers = await _run_put(store, calls)
    if any(answers):
        places = (
            start + place - 1
            for (start, _), existed in zip(parts, answers, strict=True)
            for place in existed
        )
        there = {ids[place] for place in places}
        return await _answers(store, jobs, set(ids) - there)
    send = store.guard
    return [PutAnswer(kind=PutKind.CREATED, id=id, send=send) for id in ids]


async def _put_plain(store: Store, jobs: Sequence[JobPut]) -> set[str]:
    parts = [jobs[start:stop] for start, stop in _parts([job.message for job in jobs])]
    answers = await _run_put(store, [_put_words(store, part) for part in parts])
    created: set[str] = set()
    for part, existed in zip(parts, answers, strict=True):
        there = {place - 1 for place in existed}
        created.update(job.id for i, job in enumerate(part) if i not in there)
    return created


def _run_put(store: Store, calls: Sequence[Sequence[Any]]) -> Coroutine[Any, Any, list[list[int]]]:
    """Places, from 1, of the jobs of each call that existed."""
    keys = store.keys
    front = keys.prefix.encode(), _HOLD if store.guard else b""
    return store.run_all("put", keys.of_put, [(*front, *words) for words in calls])


def _put_words(store: Store, jobs: Sequence[JobPut]) -> list[Any]:
    words: list[Any] = [len(jobs)]
    words += [job.id for job in jobs]
    words += [job.message for job in jobs]
    run: _Kind | None = None
    count = 0
    for job in jobs:
        kind = (job.routing_key, job.priority, job.name, job.max_attempts)
        if kind != run:
            if run is not None:
                words += _run(store, run, count)
            run, count = kind, 0
        count += 1
    if run is not None:
        words += _run(store, run, count)
    return words


def _run(store: Store, kind: _Kind, count: int) -> tuple[Any, ...]:
    """What ``put.lua`` is told of so many alike jobs."""
    return *_kind_words(kind, store.guard), count


@lru_cache(maxsize=1024)
def _kind_words(kind: _Kind, guard: bool) -> tuple[Any, ...]:
    queue, priority, name, attempts = kind
    middle = header.middle_of(priority, guard=guard)
    shape = header.shape_of(name, queue, attempts)
    return queue.encode(), b"%d" % priority, middle, shape


def _parts(messages: Sequence[bytes]) -> list[tuple[int, int]]:
    """Where to cut, so that a script stays short: from, to."""
    count = len(messages)
    if count == 1:
        return [(0, 1)]
    parts: list[tuple[int, int]] = []
    start, size = 0, 0
    for i, more in enumerate(map(len, messages)):
        if i > start and (i - start >= BATCH or size + more > BYTES):
            parts.append((start, i))
            start, size = i, 0
        size += more
    parts.append((start, count))
    return parts


async def _put_others(store: Store, jobs: Sequence[JobPut], keep_for: float) -> set[str]:
    wanted = {job.id: job for job in jobs}
    made: set[str] = set()

    def decide(job_id: str, old: Job | None, now: float) -> Job | None:
        made.discard(job_id)
        if old is not None:
            return old
        made.add(job_id)
        return state.create(wanted[job_id], now, guard=store.guard, keep_for=keep_for)

    await store.transact(wanted, decide, messages=False, create=True)
    return made


async def settle(store: Store, settled: Sequence[Settled]) -> None:
    """L9."""
    keys = store.keys
    sent = [item for item in settled if not item.followed and item.gen <= _LARGEST_GEN]
    for start in range(0, len(sent), BATCH):
        words = [word for item in sent[start : start + BATCH] for word in (item.id, item.gen)]
        await store.run("settle", (keys.heads, keys.due), *words)
    for part in rounds(item for item in settled if item.followed):
        by_id = {item.id: item for item in part}

        def decide(
            job_id: str, old: Job | None, now: float, by_id: dict[str, Settled] = by_id
        ) -> Job | None:
            return None if old is None else state.settle(old, by_id[job_id])

        await store.transact(by_id, decide)


async def claim(
    store: Store, session: str, hints: Sequence[Hint], *, horizon: float
) -> list[Verdict]:
    """L10-L14."""
    foreign = [hint.create for hint in hints if hint.create is not None]
    if foreign:
        await put(store, foreign, keep_for=horizon)
    verdicts: dict[int, Verdict] = {}
    places: dict[str, list[int]] = {}
    for i, hint in enumerate(hints):
        places.setdefault(hint.id, []).append(i)
    turn = 0
    while True:
        part = [place[turn] for place in places.values() if len(place) > turn]
        if not part:
            break
        for start in range(0, len(part), BATCH):
            some = part[start : start + BATCH]
            found = await _claim(store, session, [hints[i] for i in some])
            verdicts.update(zip(some, found, strict=True))
        turn += 1
    return [verdicts[i] for i in range(len(hints))]


async def _claim(store: Store, session: str, hints: Sequence[Hint]) -> list[Verdict]:
    keys = store.keys
    names = (
        keys.heads,
        keys.messages,
        keys.extras,
        keys.meta,
        keys.events,
        keys.sessions,
        keys.claims(session),
        keys.due,
    )
    words = [word for hint in hints for word in (hint.id, min(hint.gen, _LARGEST_GEN))]
    fence, at, heads, ids, messages, extras = await store.run(
        "claim", names, keys.prefix, session, state.CLAIM_TTL, *words
    )
    now = float(at)
    taken = {job_id.decode(): place for place, job_id in enumerate(ids)}
    more = dict(zip(extras[::2], extras[1::2], strict=True))
    verdicts = []
    for hint, head in zip(hints, heads, strict=True):
        place = taken.get(hint.id)
        if place is not None:
            parts = header.parts_for_claim(head)
            given = claim_of(hint.id, parts, messages[place], more.get(ids[place]), int(fence), now)
            verdicts.append(Verdict(kind=VerdictKind.RUN, id=hint.id, claim=given))
        else:
            verdicts.append(await _refused(store, session, hint, head, now))
    return verdicts


async def _refused(store: Store, session: str, hint: Hint, head: bytes, now: float) -> Verdict:
    """Why a hint was not claimed; a job whose time is over ends."""
    job = header.decode(hint.id, head, None) if head else None
    kind, new = state.claim(job, hint, session, 0, now)
    if kind is VerdictKind.RUN:
        kind = VerdictKind.STALE  # a generation that no header can have
    elif new is not job:

        def expire(_: str, old: Job | None, at: float) -> Job | None:
            found, ended = state.claim(old, hint, session, 0, at)
            return ended if found is VerdictKind.STALE else old

        await store.transact([hint.id], expire)
    return Verdict(kind=kind, id=hint.id)


def claim_of(
    job_id: str,
    parts: header.ClaimParts,
    message: bytes,
    extras: bytes | None,
    fence: int,
    now: float,
) -> Claim:
    """What the worker is told."""
    gen, priority, created_at, failures, deaths, base = parts
    held: Held | None = None
    if extras:
        held = msgspec.msgpack.decode(extras, type=header.Extras).held
    return Claim(
        id=job_id,
        fence=fence,
        gen=gen,
        name=base.name,
        routing_key=base.routing_key,
        priority=priority,
        attempt=failures + deaths + 1,
        failures=failures,
        deaths=deaths,
        max_attempts=base.max_attempts,
        created_at=created_at,
        at=now,
        message=message,
        held=held,
    )


def claims_of(
    ids: Sequence[bytes],
    runs: Sequence[Any],
    messages: Sequence[bytes],
    extras: Sequence[bytes],
    fence: int,
    now: float,
) -> list[Claim]:
    """All claims of a receive; ``runs`` and ``extras`` as the script returns them."""
    more = dict(zip(extras[::2], extras[1::2], strict=True))
    claims: list[Claim] = []
    begin = 0
    for head, count in zip(runs[::2], runs[1::2], strict=True):
        parts, end = header.parts_for_claim(head), begin + count
        claims += [
            claim_of(job_id.decode(), parts, message, more.get(job_id), fence, now)
            for job_id, message in zip(ids[begin:end], messages[begin:end], strict=True)
        ]
        begin = end
    return claims
