"""How claims end, and wishes from outside: finish and signal. Successes are one script; the rest is
decided by ``state.py`` and written by compare-and-set."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, Protocol, TypeVar

from bananas_brokers.redis import header
from bananas_brokers.redis.store import BATCH, BYTES, Store
from bananas_core import state
from bananas_core.job import (
    FinishAnswer,
    Job,
    JobState,
    Outcome,
    OutcomeKind,
    Ready,
    Signal,
    SignalAnswer,
)

COMPLETED: Final = OutcomeKind.COMPLETED
_SUCCESS: Final = frozenset((COMPLETED,))
_NOTHING: Final = frozenset((None,))


class _Named(Protocol):
    @property
    def id(self) -> str: ...


N = TypeVar("N", bound=_Named)


async def finish(
    store: Store, outcomes: Sequence[Outcome]
) -> tuple[list[FinishAnswer], list[Ready]]:
    """L21-L24."""
    if not outcomes:
        return [], []
    if _all_succeed(outcomes):
        refused = await _succeed(store, outcomes)
        if not refused:
            state = JobState.COMPLETED
            return [FinishAnswer(id=o.id, accepted=True, state=state) for o in outcomes], []
        slow = refused
    else:
        quick, slow = _apart(outcomes)
        if quick:
            refused = await _succeed(store, [outcomes[i] for i in quick])
            slow = sorted(slow + [quick[place] for place in refused])
    others = frozenset(slow)
    answers = [
        None if i in others else FinishAnswer(id=o.id, accepted=True, state=JobState.COMPLETED)
        for i, o in enumerate(outcomes)
    ]
    ready: list[Ready] = []
    if slow:
        ready = await _finish_slowly(store, outcomes, slow, answers)
    return [answer for answer in answers if answer is not None], ready


def _all_succeed(outcomes: Sequence[Outcome]) -> bool:
    """Whether the quick script may be asked about all of them: most batches, most often."""
    return (
        {o.kind for o in outcomes} <= _SUCCESS
        and {o.progress for o in outcomes} <= _NOTHING
        and len({o.id for o in outcomes}) == len(outcomes)
        and all(0 <= fence < 1 << 63 for fence in {o.fence for o in outcomes})
    )


def _apart(outcomes: Sequence[Outcome]) -> tuple[list[int], list[int]]:
    """The places of those for the quick script, and of the others."""
    quick: list[int] = []
    slow: list[int] = []
    seen: set[str] = set()
    for i, outcome in enumerate(outcomes):
        job_id, fence = outcome.id, outcome.fence
        success = outcome.kind is COMPLETED and outcome.progress is None and 0 <= fence < 1 << 63
        (quick if success and job_id not in seen else slow).append(i)
        seen.add(job_id)
    return quick, slow


async def _succeed(store: Store, outcomes: Sequence[Outcome]) -> list[int]:
    """Which of them, counted from 0, the quick script did not take."""
    keys = store.keys
    names = (
        keys.heads,
        keys.results,
        keys.events,
        keys.meta,
        keys.finals(JobState.COMPLETED),
    )
    calls: list[list[Any]] = []
    begins: list[int] = []
    begin, size = 0, 0
    for i, outcome in enumerate(outcomes):
        more = 0 if outcome.result is None else len(outcome.result)
        if i > begin and (i - begin >= BATCH or size + more > BYTES):
            calls.append(_finish_words(store, outcomes[begin:i]))
            begins.append(begin)
            begin, size = i, 0
        size += more
    calls.append(_finish_words(store, outcomes[begin:]))
    begins.append(begin)
    answers = await store.run_all("finish", names, calls)
    return [
        begin + place - 1
        for begin, refused in zip(begins, answers, strict=True)
        for place in refused
    ]


def _finish_words(store: Store, outcomes: Sequence[Outcome]) -> list[Any]:
    count = len(outcomes)
    ran = [-1.0 if o.ran is None else max(0.0, o.ran) for o in outcomes]
    results = [o.result for o in outcomes if o.result is not None]
    flags = b"1" * count
    if len(results) < count:
        flags = b"".join(header.NO if o.result is None else header.YES for o in outcomes)
    claims = b"".join(
        b"r" + header.FENCE.pack(fence) + len(list(some)).to_bytes(2, "big")
        for fence, some in groupby(outcomes, key=attrgetter("fence"))
    )
    words: list[Any] = [store.keys.prefix, store.keys.done, count]
    words += (struct.pack(f">{count}d", *ran), flags, claims)
    words += [outcome.id for outcome in outcomes]
    words += results
    return words


async def _finish_slowly(
    store: Store,
    outcomes: Sequence[Outcome],
    places: Sequence[int],
    answers: list[FinishAnswer | None],
) -> list[Ready]:
    accepted: dict[str, bool] = {}
    ready: dict[str, Ready] = {}
    by_place = [_Placed(place, outcomes[place]) for place in places]
    for part in rounds(by_place):
        # What goes back to the head is pushed in front one by one, so the last must come first.
        by_id = {item.id: item for item in reversed(part)}

        def decide(
            job_id: str, old: Job | None, now: float, by_id: dict[str, _Placed] = by_id
        ) -> Job | None:
            outcome = by_id[job_id].outcome
            accepted[job_id], new = state.finish(old, outcome, now, guard=store.guard)
            return new

        for job_id, (old, new) in (await store.transact(by_id, decide)).items():
            item = by_id[job_id]
            after = None if new is None else new.state
            if new is not None and new is old and accepted[job_id]:
                after = state.first_state(new, item.outcome)
            answers[item.place] = FinishAnswer(id=job_id, accepted=accepted[job_id], state=after)
            call_for(ready, old, new, guard=store.guard)
    order = dict.fromkeys(outcomes[place].id for place in places)
    return [ready[job_id] for job_id in order if job_id in ready]


async def signal(store: Store, signals: Sequence[Signal]) -> tuple[list[SignalAnswer], list[Ready]]:
    """L30-L32, L46-L49."""
    answers: list[SignalAnswer | None] = [None] * len(signals)
    ready: dict[str, Ready] = {}
    for part in rounds([_Wish(i, wish) for i, wish in enumerate(signals)]):
        by_id = {item.id: item for item in part}
        done: dict[str, bool] = {}

        def decide(
            job_id: str,
            old: Job | None,
            now: float,
            by_id: dict[str, _Wish] = by_id,
            done: dict[str, bool] = done,
        ) -> Job | None:
            done[job_id], new = state.signal(old, by_id[job_id].wish, now, guard=store.guard)
            return new

        for job_id, (old, new) in (await store.transact(by_id, decide)).items():
            after = None if new is None else new.state
            answers[by_id[job_id].place] = SignalAnswer(id=job_id, done=done[job_id], state=after)
            call_for(ready, old, new, guard=store.guard)
    return [answer for answer in answers if answer is not None], list(ready.values())


def call_for(ready: dict[str, Ready], old: Job | None, new: Job | None, *, guard: bool) -> None:
    """Note what must be done because of a change, if anything."""
    if new is None or new is old:
        return
    if state.calls_for(old, new, guard=guard) is not None:
        ready[new.id] = state.ready(new)
    elif old is not None and (old.state is not new.state or old.gen != new.gen):
        ready.pop(new.id, None)  # what an earlier change called for is no more


class _Placed:
    def __init__(self, place: int, outcome: Outcome) -> None:
        self.place, self.outcome, self.id = place, outcome, outcome.id


class _Wish:
    def __init__(self, place: int, wish: Signal) -> None:
        self.place, self.wish, self.id = place, wish, wish.id


def rounds(items: Iterable[N]) -> list[list[N]]:
    """The items in parts that name no id twice, in order for each id."""
    parts: list[list[N]] = []
    times: dict[str, int] = {}
    for item in items:
        turn = times.get(item.id, 0)
        times[item.id] = turn + 1
        if turn == len(parts):
            parts.append([])
        parts[turn].append(item)
    return parts
