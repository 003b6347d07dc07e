"""What is known of limits, without any effect, and changing them at run time."""

from __future__ import annotations

from typing import Final

import msgspec

from bananas_core.errors import ResultBackendError
from bananas_core.job import Doc, Write
from bananas_core.limits import calendar
from bananas_core.limits.book import CONFIG, PREFIX, Config, State, read_config, read_state
from bananas_core.limits.calendar import QuotaState
from bananas_core.limits.rate import RateState, interval
from bananas_core.limits.rules import Quota, Rate, Rule, Slots, parse_rule, text_of
from bananas_core.limits.slots import SlotState
from bananas_core.results import ResultBackend

PAGE: Final = 500
TRIES: Final = 20


class LimitView(msgspec.Struct, frozen=True, kw_only=True):
    """A limit for one key, or (``rule`` only) one that was changed and not used lately.

    ``used``: starts of a rate that count now and turns reserved, starts in the calendar window, or
    slots held. ``waiters``: turns reserved, or jobs in line. ``next_turn``: unix seconds, the
    ledger's; now if a job could start.
    """

    name: str
    key: str = ""
    rule: str
    changed: bool = False
    by: str | None = None
    used: int = 0
    holders: tuple[str, ...] = ()
    waiters: int = 0
    next_turn: float | None = None


async def look(backend: ResultBackend, name: str | None = None) -> list[LimitView]:
    """All limits, or those of one name, by name and key. No document changes."""
    now = await backend.now()
    configs = {
        doc.key.removeprefix(CONFIG): read_config(doc) for doc in await _all(backend, CONFIG)
    }
    found: list[LimitView] = []
    for doc in await _all(backend, PREFIX if name is None else f"{PREFIX}{name}/"):
        state = read_state(doc)
        if state is not None:
            found.append(_view(doc.key, state, configs, now))
    shown = {view.name for view in found}
    for other, config in configs.items():
        if other not in shown and config.rule is not None and name in (None, other):
            found.append(LimitView(name=other, rule=config.rule, changed=True, by=config.by))
    return sorted(found, key=lambda view: (view.name, view.key))


async def set_rule(backend: ResultBackend, name: str, rule: Rule | None, *, by: str) -> Config:
    """Let a limit be something else from now on, for all; None: as in the code again.

    Raises:
        ResultBackendError: it is unknown whether it was changed; safe to repeat.
    """
    for _ in range(TRIES):
        (doc,) = await backend.get_docs([CONFIG + name])
        config = Config(
            change=read_config(doc).change + 1,
            rule=None if rule is None else text_of(rule),
            by=by,
            at=await backend.now(),
        )
        write = Write(
            key=CONFIG + name,
            value=msgspec.json.encode(config),
            version=0 if doc is None else doc.version,
        )
        (answer,) = await backend.cas([write])
        if answer.done:
            return config
    raise ResultBackendError(f"limit {name} is being changed by others all the time; try again")


def _view(key: str, state: State, configs: dict[str, Config], now: float) -> LimitView:
    name, _, token = key.removeprefix(PREFIX).partition("/")
    config = configs.get(name, Config(change=0))
    rule = parse_rule(config.rule or state.rule)
    view = LimitView(
        name=name,
        key=token,
        rule=text_of(rule),
        changed=config.rule is not None,
        by=None if config.rule is None else config.by,
        next_turn=now,
    )
    if isinstance(state, RateState) and isinstance(rule, Rate):
        width = interval(rule)
        taken = max(0.0, state.tat - now) - sum(b - max(a, now) for a, b in state.free if b > now)
        used = max(0, round(taken / width))
        turn = max(now, state.tat - (rule.burst - 1) * width)
        waiters = max(0, used - rule.burst)
        return msgspec.structs.replace(view, used=used, waiters=waiters, next_turn=turn)
    if isinstance(state, QuotaState) and isinstance(rule, Quota):
        return msgspec.structs.replace(view, **_quota(rule, state, now))
    if isinstance(state, SlotState) and isinstance(rule, Slots):
        holders = tuple(h.id for h in state.holders if h.until is None or h.until > now)
        free = len(holders) < rule.count
        return msgspec.structs.replace(
            view,
            used=len(holders),
            holders=holders,
            waiters=len(state.waiters),
            next_turn=now if free else None,
        )
    return view


def _quota(rule: Quota, state: QuotaState, now: float) -> dict[str, float | int]:
    begin, _ = calendar.window(rule.unit, rule.tz, now)
    spare = sum(room for start, room in state.spare if start == begin)
    waiters = 0
    if state.start > begin:  # all windows between are full
        used, start = rule.count - spare, begin
        while (start := calendar.window(rule.unit, rule.tz, start)[1]) < state.start:
            waiters += rule.count
        waiters += state.used
    else:
        used = state.used if state.start == begin else 0
    turn = calendar.offer(rule, state, 1, now).at
    return {"used": used, "waiters": waiters, "next_turn": turn}


async def _all(backend: ResultBackend, prefix: str) -> list[Doc]:
    found: list[Doc] = []
    after = ""
    while page := await backend.docs(prefix, after=after, limit=PAGE):
        found += page
        after = page[-1].key
    return found
