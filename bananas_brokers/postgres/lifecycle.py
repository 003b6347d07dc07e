"""The life of records: put, claim, finish, signal.

What most jobs go through is one statement each. The rest is read, decided by ``state.py`` and
written in one transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from bananas_brokers.postgres.database import Rows, Tx
from bananas_brokers.postgres.records import Records
from bananas_brokers.postgres.schema import BLOCK, WHERE
from bananas_brokers.postgres.store import Store
from bananas_brokers.postgres.tx import after_commit, fetch_on, translated
from bananas_brokers.sql import decide
from bananas_brokers.sql.rows import Detail
from bananas_core import state
from bananas_core.alike import Alike
from bananas_core.errors import ConfigurationError
from bananas_core.job import (
    Claim,
    FinishAnswer,
    Hint,
    JobPut,
    JobState,
    Outcome,
    OutcomeKind,
    PutAnswer,
    PutKind,
    Ready,
    ReadyKind,
    Settled,
    Signal,
    SignalAnswer,
    Verdict,
    VerdictKind,
)

_detail = msgspec.msgpack.Decoder(Detail).decode
_EXISTING: Final = (
    "SELECT id, gen, state = 2 AND guard_at IS NOT NULL AS send FROM {schema}.jobs "
    "WHERE ns + 0 = $1::int AND id = ANY($2::text[])"
)


async def put(store: Store, jobs: Sequence[JobPut], settled: Sequence[Settled]) -> list[PutAnswer]:
    """L7-L9."""
    if settled:

        async def both(tx: Tx) -> list[PutAnswer]:
            await settle(tx, store.ns, settled)
            return await put_in(store, tx, jobs)

        answers = await store.transact(both)
    elif len(jobs) <= BLOCK and (said := _plain(store, jobs, _guard(store))) is not None:
        answers = await _answered(store, None, jobs, await store.run(*said))
    else:
        answers = await store.transact(lambda tx: put_in(store, tx, jobs))
    if any(answer.kind is PutKind.CREATED for answer in answers):
        store.database.bell.tell(_queues(jobs))
    return answers


async def put_for(
    store: Store, connection: Any, jobs: Sequence[JobPut], settled: Sequence[Settled]
) -> list[PutAnswer]:
    """L52: in the caller's transaction. Nothing is to be sent: that is for `due`, or for whoever
    looks into the queue, once it is committed."""
    tx = Tx(store.database.statements, fetch_on(connection))

    async def work() -> list[PutAnswer]:
        here = await tx.query(WHERE, store.namespace)
        if not here or (here[0]["ns"], here[0]["place"]) != (store.ns, store.place):
            raise ConfigurationError(
                f"the connection given as tx= is not to {store.settings.label}, where the jobs are"
            )
        if settled:
            await settle(tx, store.ns, settled)
        return await put_in(store, tx, jobs, hold=0.0)

    answers = await translated(work())
    loop, bell = asyncio.get_running_loop(), store.database.bell
    waking = _queues(jobs)

    def tell() -> None:
        try:
            loop.call_soon_threadsafe(bell.tell, waking)
        except RuntimeError:
            pass  # that loop is closed; whoever waits looks for themselves

    after_commit(connection, tell)
    return [replace(answer, send=False) for answer in answers]


async def put_in(
    store: Store, tx: Tx, jobs: Sequence[JobPut], *, hold: float | None = None
) -> list[PutAnswer]:
    """L7, L8 in a transaction. ``hold``: seconds until the first guard fires, if not as usual."""
    answers: list[PutAnswer] = []
    for start in range(0, len(jobs), BLOCK):
        part = jobs[start : start + BLOCK]
        guard = hold if hold is not None and store.guard else _guard(store)
        said = _plain(store, part, guard)
        if said is not None:
            answers += await _answered(store, tx, part, await tx.run(*said))
            continue
        records = store.records(tx)
        await records.load([job.id for job in part])
        answers += decide.put(records, part)
        await records.flush()
    return answers


async def settle(tx: Tx, ns: int, settled: Sequence[Settled]) -> None:
    """L9."""
    await tx.run(
        "settle",
        ns,
        [item.id for item in settled],
        [item.gen for item in settled],
        [item.followed for item in settled],
    )


async def claim(store: Store, session: str, hints: Sequence[Hint]) -> list[Verdict]:
    """L10-L14."""
    # Of several hints at one job the first may run, so only one of them is looked at here.
    first = {hint.id: hint.gen for hint in reversed(hints)}
    found = await store.run(
        "claim", store.ns, store.now(), session, state.CLAIM_TTL, list(first), list(first.values())
    )
    claims = {row["id"]: claim_of(row) for row in found}
    verdicts: dict[int, Verdict] = {}
    for i, hint in enumerate(hints):
        if hint.id in claims and first.get(hint.id) == hint.gen:
            verdicts[i] = Verdict(kind=VerdictKind.RUN, id=hint.id, claim=claims[hint.id])
            del first[hint.id]
    left = [i for i in range(len(hints)) if i not in verdicts]
    if left:

        async def rest(records: Records) -> list[Verdict]:
            some = [hints[i] for i in left]
            await records.load([hint.id for hint in some], whole=True)
            decide.create_foreign(records, some)
            answers = claim_loaded(records, session, some)
            await records.flush()
            await know(records, session)
            return answers

        verdicts.update(zip(left, await store.change(rest), strict=True))
    return [verdicts[i] for i in range(len(hints))]


def claim_loaded(records: Records, session: str, hints: Sequence[Hint]) -> list[Verdict]:
    """Verdicts on records that are loaded and locked."""
    number = int(records.now * 1e6)
    return decide.claim(
        records, session, hints, lambda job: number if job is None else max(job.fence + 1, number)
    )


async def know(records: Records, session: str) -> None:
    """L14."""
    await records.tx.query(
        "INSERT INTO {schema}.sessions (ns, id, renewed_at, expires_at) VALUES ($1, $2, $3, $4) "
        "ON CONFLICT (ns, id) DO NOTHING",
        records.ns,
        session,
        records.now,
        records.now + state.CLAIM_TTL,
    )


def claim_of(row: Any) -> Claim:
    """What ``claimed`` of a statement returned."""
    failures, deaths, detail = row["failures"], row["deaths"], row["detail"]
    return Claim(
        id=row["id"],
        fence=row["fence"],
        gen=row["gen"],
        name=row["name"],
        routing_key=row["routing_key"],
        priority=row["priority"],
        attempt=1 + failures + deaths,
        failures=failures,
        deaths=deaths,
        max_attempts=row["max_attempts"],
        created_at=row["created_at"],
        at=row["at"],
        message=row["message"],
        held=None if detail is None else _detail(detail).held,
    )


async def finish(
    store: Store, outcomes: Sequence[Outcome]
) -> tuple[list[FinishAnswer], list[Ready]]:
    """L21-L24."""
    plain = {o.id: o for o in outcomes if _simple(o)}
    ready: list[Ready] = []
    done: set[str] = set()
    if plain:
        found = await store.run(
            "finish",
            store.ns,
            store.now(),
            state.FIRST_HOLD,
            list(plain),
            [o.fence for o in plain.values()],
            [o.ran for o in plain.values()],
            [o.result for o in plain.values()],
        )
        done = {row["id"] for row in found}
        ready = [follow(row) for row in found if row["followed"]]
        store.database.bell.tell(f"j{job_id}" for job_id in done)
    left = [o for o in outcomes if o.id not in done or plain[o.id] is not o]
    answers: dict[int, FinishAnswer] = {
        id(o): FinishAnswer(id=o.id, accepted=True, state=JobState.COMPLETED)
        for o in outcomes
        if o.id in done and plain[o.id] is o
    }
    if left:
        given, more = await store.decide(
            [o.id for o in left], lambda records: decide.finish(records, left)
        )
        answers.update({id(o): answer for o, answer in zip(left, given, strict=True)})
        ready += more
    return [answers[id(o)] for o in outcomes], ready


async def signal(store: Store, signals: Sequence[Signal]) -> tuple[list[SignalAnswer], list[Ready]]:
    """L30-L32, L46-L49."""
    ids = [wish.id for wish in signals]
    return await store.decide(ids, lambda records: decide.signal(records, signals))


def follow(row: Any) -> Ready:
    """That the end of a job must be followed up."""
    return Ready(
        id=row["id"],
        gen=row["gen"],
        routing_key=row["routing_key"],
        priority=row["priority"],
        kind=ReadyKind.FOLLOW,
    )


def _guard(store: Store) -> float | None:
    return state.FIRST_HOLD if store.guard else None


def _at_once(wish: JobPut) -> bool:
    """Whether it is pending at once, with nothing but what ``put.sql`` knows."""
    return (
        wish.delay is None
        and wish.run_at is None
        and wish.expires_at is None
        and wish.queue_timeout is None
        and wish.quarantine is None
        and not wish.tags
        and not wish.waiting
        and not wish.scope
    )


def _plain(store: Store, jobs: Sequence[JobPut], guard: float | None) -> tuple[Any, ...] | None:
    """The statement that creates them, and its values; None if ``state.py`` is needed for one."""
    if isinstance(jobs, Alike):
        like = jobs.like
        if not _at_once(like):
            return None
        same = (like.name, like.routing_key, like.priority, like.max_attempts)
        ids, messages = list(jobs.ids), list(jobs.messages)
        rest = (like.workflow, like.unique, ids, messages)
        return ("put_alike", store.ns, store.now(), guard, *same, *rest)
    if not all(map(_at_once, jobs)):
        return None
    return (
        "put",
        store.ns,
        store.now(),
        guard,
        [job.id for job in jobs],
        [job.name for job in jobs],
        [job.routing_key for job in jobs],
        [job.priority for job in jobs],
        [job.max_attempts for job in jobs],
        [job.workflow for job in jobs],
        [job.unique for job in jobs],
        [job.message for job in jobs],
    )


def _queues(jobs: Sequence[JobPut]) -> set[str]:
    """Topics of whoever receives them."""
    if isinstance(jobs, Alike):
        return {f"q{jobs.like.routing_key}"}
    return {f"q{job.routing_key}" for job in jobs}


async def _answered(
    store: Store, tx: Tx | None, jobs: Sequence[JobPut], made: Rows
) -> list[PutAnswer]:
    """Of those that were not new, the record tells."""
    send, created = store.guard, made[0]["ids"]
    ids = jobs.ids if isinstance(jobs, Alike) else [job.id for job in jobs]
    if created is None:
        return [PutAnswer(kind=PutKind.CREATED, id=job_id, send=send) for job_id in ids]
    if tx is not None:
        rows = await tx.query(_EXISTING, store.ns, list(ids))
    else:
        rows = await store.transact(lambda tx: tx.query(_EXISTING, store.ns, list(ids)))
    known = {row["id"]: row for row in rows}
    new = set(created)
    answers = []
    for job_id in ids:
        if job_id in new:
            new.discard(job_id)
            answers.append(PutAnswer(kind=PutKind.CREATED, id=job_id, send=send))
            continue
        row = known.get(job_id, {"gen": 1, "send": False})
        answers.append(PutAnswer(kind=PutKind.EXISTS, id=job_id, gen=row["gen"], send=row["send"]))
    return answers


def _simple(outcome: Outcome) -> bool:
    return (
        outcome.kind is OutcomeKind.COMPLETED
        and outcome.ran is not None
        and outcome.progress is None
    )
