"""So many starts in each calendar window of a time zone. Pure.

A denied job is counted in the next window that has room. Windows fill up in order, so the state is
the last window that was begun and its count, plus the room left or given back in earlier ones.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import msgspec
from msgspec.structs import replace

from bananas_core.limits.rules import Offer, Quota, Unit

EDGE: Final = 0.5
"""Nothing is granted in the last seconds of a window: it would start in the next one."""
LAST_START: Final = 0.05
"""Seconds before its end when the last start of a window happens."""
SPREAD: Final = 0.01
"""Seconds between the turns of a new window, so that not all of them come at its first instant."""
RAMP: Final = 0.1
"""… which take at most this share of it."""
MOST_SPARE: Final = 64


class QuotaState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="quota"):
    """``start``: the last window begun; all windows between now and it are full, but for
    ``spare``: (start of a window, room in it). ``size``: how many the rule allowed."""

    rule: str
    change: int = 0
    now: float = 0.0
    start: float = 0.0
    used: int = 0
    spare: tuple[tuple[float, int], ...] = ()
    size: int = 0


def window(unit: Unit, tz: str, at: float) -> tuple[float, float]:
    """Start and end of the calendar window that an instant is in, unix seconds. A day of a change
    of the clock has 23 or 25 hours, and an hour that comes twice is two windows."""
    zone = ZoneInfo(tz)
    begin = _start(unit, zone, at)
    return begin, _next_start(unit, zone, begin)


def adopt(rule: Quota, state: QuotaState, text: str, change: int, now: float) -> QuotaState:
    """The state under another rule: what was started in this window still counts."""
    begin, _ = window(rule.unit, rule.tz, now)
    if change <= state.change and window(rule.unit, rule.tz, state.start)[0] == state.start:
        return replace(state, rule=text)
    if state.start > now:  # this window is full but for what was given back
        used = state.size - sum(room for start, room in state.spare if start <= now)
    else:
        used = state.used if state.start >= begin else 0
    change = max(change, state.change)
    return QuotaState(rule=text, change=change, now=now, start=begin, used=max(0, used))


def offer(rule: Quota, state: QuotaState, cost: int, now: float) -> Offer:
    """Room in the earliest window that has it."""
    now = max(now, state.now)
    cost = min(cost, rule.count)
    this, end = window(rule.unit, rule.tz, now)
    if now >= end - EDGE:
        this, end = window(rule.unit, rule.tz, end)
    for start, room in state.spare:
        if start >= this and room >= cost:
            return _offer(rule, start, rule.count - room, now)
    start, used = (state.start, state.used) if state.start >= this else (this, 0)
    if used + cost > rule.count:
        start, used = window(rule.unit, rule.tz, start)[1], 0
    return _offer(rule, start, used, now)


def take(rule: Quota, state: QuotaState, cost: int, wanted: Offer, now: float) -> QuotaState:
    """The room of an offer is taken."""
    now = max(now, state.now)
    cost = min(cost, rule.count)
    place = wanted.place
    this, _ = window(rule.unit, rule.tz, now)
    spare = tuple(item for item in state.spare if item[0] >= this)
    if place < state.start:
        return replace(state, now=now, spare=_less(spare, place, cost), size=rule.count)
    if place == state.start:
        return replace(state, now=now, used=state.used + cost, spare=spare, size=rule.count)
    left = rule.count - state.used
    if left > 0 and state.start >= this:
        spare = (*spare, (state.start, left))[-MOST_SPARE:]
    return replace(state, now=now, start=place, used=cost, spare=spare, size=rule.count)


def give_back(rule: Quota, state: QuotaState, cost: int, place: float, now: float) -> QuotaState:
    """Room won't be used. The same may only be given back once, and by who took it."""
    now = max(now, state.now)
    cost = min(cost, rule.count)
    if place > state.start or window(rule.unit, rule.tz, place)[1] <= now:
        return state
    if place == state.start:
        return replace(state, now=now, used=max(0, state.used - cost))
    rooms = dict(state.spare)
    rooms[place] = rooms.get(place, 0) + cost
    return replace(state, now=now, spare=tuple(sorted(rooms.items()))[:MOST_SPARE])


def place_of(rule: Quota, at: float) -> float:
    """The window of a turn."""
    return window(rule.unit, rule.tz, at)[0]


def idle_at(rule: Quota, state: QuotaState) -> float:
    """From when on the state is as good as a new one."""
    return window(rule.unit, rule.tz, state.start)[1]


def _offer(rule: Quota, start: float, rank: int, now: float) -> Offer:
    end = window(rule.unit, rule.tz, start)[1]
    at = start + min(rank * SPREAD, (end - start) * RAMP) if start > now else now
    return Offer(at=at, until=end - LAST_START, place=start)


def _less(
    spare: tuple[tuple[float, int], ...], place: float, cost: int
) -> tuple[tuple[float, int], ...]:
    return tuple(
        (start, room - cost if start == place else room)
        for start, room in spare
        if start != place or room > cost
    )


def _start(unit: Unit, zone: ZoneInfo, at: float) -> float:
    local = datetime.fromtimestamp(at, zone)
    if unit == "hour":
        return local.replace(minute=0, second=0, microsecond=0).timestamp()
    day = datetime(local.year, local.month, local.day, tzinfo=zone)
    if unit == "week":
        day -= timedelta(days=day.weekday())
    elif unit == "month":
        day = day.replace(day=1)
    return day.timestamp()


def _next_start(unit: Unit, zone: ZoneInfo, begin: float) -> float:
    if unit == "hour":  # 30, 60 or 90 minutes where the clock changes by half an hour
        later = (_start(unit, zone, begin + step) for step in (3600.0, 7200.0))
        return next(start for start in later if start > begin)
    day = datetime.fromtimestamp(begin, zone).replace(hour=0, minute=0, second=0, fold=0)
    if unit == "day":
        day += timedelta(days=1)
    elif unit == "week":
        day += timedelta(days=7)
    else:
        day = (day.replace(day=28) + timedelta(days=4)).replace(day=1)
    return day.timestamp()
