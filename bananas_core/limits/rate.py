"""Evenly spaced starts (the generic cell rate algorithm) with reserved turns. Pure.

Time is cut into slots of one interval each. A start takes the next free slot, and with a burst it
may begin up to ``burst - 1`` intervals before its slot. A denied job takes a slot as well: that is
its turn. So the state is where the taken slots end, plus a few that were given back.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from bananas_core.limits.rules import Offer, Rate

WIDER: Final = 0.02
"""Slots are this much wider than the limit asks for, so that starts which are a little late never
make a window too full."""
LATEST: Final = 1.0
"""Seconds after its time until which a turn may be used, at most."""
MOST_FREE: Final = 64
"""Stretches of slots given back that are kept."""
_TINY: Final = 1e-6


class RateState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="rate"):
    """``tat``: end of the last slot taken. ``free``: stretches before it that were given back.
    ``void``: slots before this were taken under another rule and can't be given back."""

    rule: str
    change: int = 0
    now: float = 0.0
    tat: float = 0.0
    free: tuple[tuple[float, float], ...] = ()
    void: float = 0.0


def interval(rule: Rate) -> float:
    """Seconds that a start of cost 1 takes."""
    return rule.period / rule.count * (1 + WIDER)


def lateness(rule: Rate) -> float:
    """Seconds after its turn that a start may be late: with more, a window could get too full."""
    return min(LATEST, 0.9 * interval(rule) + rule.period * WIDER)


def adopt(rule: Rate, state: RateState, text: str, change: int, now: float) -> RateState:
    """The state under another rule. A deliberate change makes reserved turns void; nobody gets a
    burst because of it."""
    if change > state.change:
        begin = now + (rule.burst - 1) * interval(rule)
        return replace(state, rule=text, change=change, tat=begin, free=(), void=begin)
    return replace(state, rule=text, free=(), void=max(state.tat, now))


def offer(rule: Rate, state: RateState, cost: int, now: float) -> Offer:
    """The first slot that is free."""
    now = max(now, state.now)
    width = cost * interval(rule)
    place = max(state.tat, now)
    for begin, end in state.free:
        if max(begin, now) + width <= end + _TINY:
            place = max(begin, now)
            break
    at = max(now, place - _head_start(rule, cost))
    return Offer(at=at, until=at + lateness(rule), place=place)


def take(rule: Rate, state: RateState, cost: int, wanted: Offer, now: float) -> RateState:
    """The slot of an offer is taken."""
    now = max(now, state.now)
    begin, end = wanted.place, wanted.place + cost * interval(rule)
    if begin >= state.tat - _TINY:
        return replace(state, now=now, tat=end, free=_still(state.free, now))
    free: list[tuple[float, float]] = []
    for a, b in state.free:
        if b <= begin or a >= end:
            free.append((a, b))
            continue
        free += [(a, begin)] if begin - a > _TINY else []
        free += [(end, b)] if b - end > _TINY else []
    return replace(state, now=now, free=_still(free, now))


def give_back(rule: Rate, state: RateState, cost: int, place: float, now: float) -> RateState:
    """A slot won't be used. The same slot may only be given back once, and by who took it."""
    now = max(now, state.now)
    begin, end = max(place, now), place + cost * interval(rule)
    if place < state.void or end <= begin or end > state.tat + _TINY:
        return state
    free = sorted([*_still(state.free, now), (begin, end)])
    merged = [free[0]]
    for a, b in free[1:]:
        if a <= merged[-1][1] + _TINY:
            merged[-1] = (merged[-1][0], max(b, merged[-1][1]))
        else:
            merged.append((a, b))
    tat = state.tat
    if merged[-1][1] >= tat - _TINY:  # nobody comes after it
        tat = merged.pop()[0]
    if len(merged) > MOST_FREE:
        merged.remove(min(merged, key=lambda stretch: stretch[1] - stretch[0]))
    return replace(state, now=now, tat=tat, free=tuple(merged))


def place_of(rule: Rate, cost: int, at: float) -> float:
    """The slot of a turn that was still to come when it was reserved."""
    return at + _head_start(rule, cost)


def idle_at(state: RateState) -> float:
    """From when on the state is as good as a new one."""
    return state.tat


def _head_start(rule: Rate, cost: int) -> float:
    return (rule.burst - min(cost, rule.burst)) * interval(rule)


def _still(
    free: tuple[tuple[float, float], ...] | list[tuple[float, float]], now: float
) -> tuple[tuple[float, float], ...]:
    """Without what is over."""
    return tuple(stretch for stretch in free if stretch[1] > now + _TINY)
