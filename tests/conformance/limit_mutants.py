"""Faults to plant in limits."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from msgspec.structs import replace
from plant import around, caught_by

from bananas_core.limits import calendar, limiter, rate, slots
from bananas_core.testing.conformance import ResultBackendConformance, TransportConformance

T, L = TransportConformance, ResultBackendConformance


@caught_by(L.test_no_turn_is_given_twice)
def a_turn_is_granted_twice(patch: pytest.MonkeyPatch) -> None:
    def take(original: Any, rule: Any, state: Any, cost: int, offer: Any, now: float) -> Any:
        taken = original(rule, state, cost, offer, now)
        even = round(offer.place / rate.interval(rule)) % 2 == 0
        return replace(taken, tat=state.tat) if even else taken

    around(patch, rate, "take", take)


@caught_by(L.test_never_more_holders_than_slots)
def the_slot_of_a_live_holder_is_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(limiter, "over", lambda *_: True)


@caught_by(L.test_the_slot_of_a_dead_holder_is_free)
def a_dead_holder_keeps_its_slot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(limiter, "over", lambda *_: False)


@caught_by(L.test_a_calendar_window_is_exact_when_the_clock_changes)
def a_window_is_off_by_an_hour(patch: pytest.MonkeyPatch) -> None:
    def start(original: Any, unit: Any, zone: Any, at: float) -> float:
        begin = float(original(unit, zone, at))  # with the offset of now, not of then
        offset = datetime.fromtimestamp(at, zone).utcoffset()
        then = datetime.fromtimestamp(begin, zone).utcoffset()
        assert offset is not None
        assert then is not None
        return begin + (then - offset).total_seconds()

    around(patch, calendar, "_start", start)


@caught_by(L.test_no_turn_is_given_twice, L.test_a_burst_is_granted_once)
def a_conflict_is_ignored(patch: pytest.MonkeyPatch) -> None:
    async def write(original: Any, self: Any, now: float) -> set[str]:
        await original(self, now)
        return set()

    around(patch, limiter._Round, "write", write)


@caught_by(L.test_a_change_counts_from_the_next_asking)
def a_change_leaves_turns_valid(patch: pytest.MonkeyPatch) -> None:
    around(patch, rate, "adopt", lambda adopt, rule, state, text, *_: replace(state, rule=text))


@caught_by(L.test_a_free_slot_goes_to_the_oldest_that_waits)
def nobody_is_called(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(slots, "call", lambda rule, state, now: (state, []))


@caught_by(L.test_who_was_called_too_early_is_called_again)
def who_was_called_too_early_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(slots, "line_up", lambda state, who, now: state)
