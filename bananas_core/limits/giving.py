"""Turns that won't be used, because their jobs were cancelled, go back to their limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bananas_core.job import FINAL, Job, JobState, Write
from bananas_core.limits import calendar, rate
from bananas_core.limits.book import State, Turn, Want, read_state, turn_of, write_of
from bananas_core.limits.calendar import QuotaState
from bananas_core.limits.rate import RateState
from bananas_core.limits.rules import Quota, Rate, parse_rule
from bananas_core.results import ResultBackend

TRIES: Final = 10


async def give_back(backend: ResultBackend, turns: Sequence[tuple[Turn, float]]) -> int:
    """Give turns back, each with its time. Only once: after that a turn may be another's.

    Returns:
        How many limits took some back. Not if the turn is over, or of before a change.

    Raises:
        ResultBackendError: they lapse.
    """
    done = 0
    left: dict[Want, list[tuple[Turn, float]]] = {}
    for turn, at in turns:
        want = Want(name=turn.name, key=turn.key, rule=Rate(count=1, period=1.0))
        left.setdefault(want, []).append((turn, at))
    for _ in range(TRIES):
        if not left:
            break
        now = await backend.now()
        docs = await backend.get_docs([want.doc for want in left])
        writes: dict[Want, Write] = {}
        for want, doc in zip(list(left), docs, strict=True):
            state = read_state(doc)
            new = state
            for turn, at in left[want]:
                new = _without(new, turn, at, now)
            if state is None or new is None or new is state:
                del left[want]
                continue
            writes[want] = write_of(want.doc, parse_rule(state.rule), new, doc, now)
        answers = await backend.cas(list(writes.values())) if writes else []
        for want, answer in zip(writes, answers, strict=True):
            if answer.done:
                done += 1
                del left[want]
    return done


async def give_back_of(backend: ResultBackend, before: Sequence[Job]) -> int:
    """Give back the turns of jobs that were cancelled while they waited, as they were ``before``.
    Whoever started in the meantime has used its turn."""
    held = {job.id: job for job in before if turn_held(job) is not None}
    if not held:
        return 0
    turns = []
    for job in await backend.get(list(held)):
        if job is None or job.state is not JobState.CANCELLED:
            continue
        old = held[job.id]
        turn = turn_held(old)
        if job.gen == old.gen + 1 and turn is not None:
            turns.append(turn)
    return await give_back(backend, turns)


def turn_held(job: Job) -> tuple[Turn, float] | None:
    """The turn that a waiting job has, and when it is."""
    if job.state in FINAL or job.held is None or job.held.gen != job.gen:
        return None
    turn = turn_of(job.held.by)
    return None if turn is None else (turn, job.held.until)


def _without(state: State | None, turn: Turn, at: float, now: float) -> State | None:
    if state is None or state.change != turn.change:
        return state
    rule = parse_rule(state.rule)
    if isinstance(rule, Rate) and isinstance(state, RateState):
        return rate.give_back(rule, state, 1, rate.place_of(rule, 1, at), now)
    if isinstance(rule, Quota) and isinstance(state, QuotaState):
        return calendar.give_back(rule, state, 1, calendar.place_of(rule, at), now)
    return state
