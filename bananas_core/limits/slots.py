"""So many at the same time. Pure.

A slot points at a claim (job id, fence), and the record of that job says whether it still runs: so
nothing is renewed and nothing leaks. Denied jobs wait in line, the oldest first, and a slot that
becomes free is promised to the first of them. Those that don't fit in the line are told to come
again when it should be their turn.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec
from msgspec.structs import replace

from bananas_core.limits.rules import Offer, Slots

LINE: Final = 64
"""Jobs that wait in line."""
PROMISE: Final = 3.0
"""Seconds that a free slot is kept for the job that was called."""
FIRST_MEAN: Final = 1.0
"""How long a slot is held, seconds, until it is known better."""
LONGEST_WAIT: Final = 300.0
SHORTEST_WAIT: Final = 0.05
SHORTEST_STEP: Final = 0.002
SHORT_WAIT: Final = 0.5
"""Who is likely to wait less than this is not put in line, but asks again."""
LISTED_WAIT: Final = 10.0
"""A job in line is called; this is for the case that the call got lost."""


class Holder(msgspec.Struct, frozen=True, array_like=True):
    """``until``: of a promise, or of a holder that is no job: when it ends by itself."""

    id: str
    fence: int
    until: float | None = None


class Waiter(msgspec.Struct, frozen=True, array_like=True, order=True):
    """``gen``: the generation in which it waits."""

    created_at: float
    id: str
    gen: int


class SlotState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="slots"):
    """``mean``: seconds that a slot is held. ``soon``: until when those who wait only a moment were
    told to do so; ``eta``: the same of those who found the line full."""

    rule: str
    change: int = 0
    now: float = 0.0
    holders: tuple[Holder, ...] = ()
    waiters: tuple[Waiter, ...] = ()
    mean: float = FIRST_MEAN
    soon: float = 0.0
    eta: float = 0.0


def adopt(state: SlotState, text: str, change: int) -> SlotState:
    """The state under another rule."""
    return replace(state, rule=text, change=max(change, state.change))


def full(rule: Slots, state: SlotState, now: float) -> bool:
    """Whether a job that was not called can't have a slot."""
    return len(_live(state, max(now, state.now))) >= rule.count


def offer(rule: Slots, state: SlotState, id: str, fence: int, now: float) -> Offer:
    """A free slot, the one that it was called for, or when to ask again."""
    now = max(now, state.now)
    holders = _live(state, now)
    mine = any(holder.id == id and holder.fence in (0, fence) for holder in holders)
    if mine or len(holders) < rule.count:
        return Offer(at=now)
    return Offer(at=now + _wait(rule, state, now), firm=False)


def take(
    state: SlotState, id: str, fence: int, now: float, until: float | None = None
) -> SlotState:
    """It has a slot now."""
    now = max(now, state.now)
    holders = [holder for holder in _live(state, now) if holder.id != id]
    return replace(
        state,
        now=now,
        holders=(*holders, Holder(id, fence, until)),
        waiters=tuple(waiter for waiter in state.waiters if waiter.id != id),
    )


def wait(rule: Slots, state: SlotState, who: Waiter, now: float) -> tuple[SlotState, float]:
    """It waits: a moment if that is likely to do, else in line if it fits. Returns the state and
    when it asks again by itself."""
    now = max(now, state.now)
    step = state.mean / rule.count
    soon = max(state.soon, now) + max(step, SHORTEST_STEP)
    if not state.waiters and soon - now <= SHORT_WAIT:
        return replace(state, now=now, soon=soon), soon
    line = sorted([w for w in state.waiters if w.id != who.id] + [who])
    if len(line) <= LINE or who in line[:LINE]:
        at = now + max(LISTED_WAIT, 2 * _wait(rule, state, now))
        return replace(state, now=now, waiters=tuple(line[:LINE])), at
    eta = max(state.eta, now + LINE * step) + step / 1.5  # rather early: the line must not dry up
    at = min(eta, now + LONGEST_WAIT)
    return replace(state, now=now, eta=eta), at


def line_up(state: SlotState, who: Waiter, now: float) -> SlotState:
    """It waits where it can be woken from now on. If it was called before that, nobody could wake
    it: it stands in line again."""
    now = max(now, state.now)
    if who in state.waiters or len(state.waiters) >= LINE:
        return state
    if any(holder.id == who.id and holder.fence for holder in _live(state, now)):
        return state  # it was let in meanwhile
    holders = tuple(holder for holder in _live(state, now) if holder.id != who.id)
    return replace(state, now=now, holders=holders, waiters=tuple(sorted([*state.waiters, who])))


def drop(state: SlotState, gone: Collection[tuple[str, int]], now: float) -> SlotState:
    """These claims have ended."""
    now = max(now, state.now)
    holders = tuple(h for h in _live(state, now) if (h.id, h.fence) not in gone)
    return replace(state, now=now, holders=holders)


def measured(state: SlotState, held: float) -> SlotState:
    """A slot was held for so many seconds."""
    return replace(state, mean=max(1e-3, state.mean + 0.1 * (held - state.mean)))


def call(rule: Slots, state: SlotState, now: float) -> tuple[SlotState, list[Waiter]]:
    """Promise free slots to the first in line, who are to be woken."""
    now = max(now, state.now)
    holders = _live(state, now)
    room = max(0, rule.count - len(holders))
    called = list(state.waiters[:room])
    if not called:
        return state, []
    promises = [Holder(waiter.id, 0, now + PROMISE) for waiter in called]
    return replace(
        state, now=now, holders=(*holders, *promises), waiters=state.waiters[room:]
    ), called


def _live(state: SlotState, now: float) -> list[Holder]:
    return [h for h in state.holders if h.until is None or h.until > now]


def _wait(rule: Slots, state: SlotState, now: float) -> float:
    """How long the next in line will wait, about."""
    place = len(state.waiters) + 1
    expected = max(place * state.mean / rule.count, SHORTEST_WAIT)
    return min(max(expected, state.eta - now if place > LINE else 0.0), LONGEST_WAIT)
