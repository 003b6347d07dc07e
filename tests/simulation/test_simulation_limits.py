"""Limits on virtual time, through crashes; ``BANANAS_SEEDS`` sets how many seeds."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from bananas_core.limits import calendar, limiter, rate, slots
from bananas_core.testing.simulation import Violation, simulate
from tests.simulation.limits_scenario import Limits
from tests.simulation.test_simulation import CHUNK, FIRST, SEEDS, fused, split

Plant = Callable[[pytest.MonkeyPatch], None]

LAST = FIRST + (SEEDS + 3) // 4


def run_seeds(begin: int, end: int, form: Any) -> None:
    for seed in range(begin, end):
        simulate(seed, form(), Limits(random.Random(seed)))


@pytest.mark.parametrize("form", [fused, split], ids=lambda form: form.__name__)
@pytest.mark.parametrize("begin", range(FIRST, LAST, CHUNK))
def test_limits_are_kept_and_no_job_is_lost_whatever_fails(form: Any, begin: int) -> None:
    run_seeds(begin, min(begin + CHUNK, LAST), form)


def test_a_seed_replays_the_same_run() -> None:
    first, second = (simulate(3, split(), Limits(random.Random(3))) for _ in range(2))
    assert first.runs == second.runs
    assert first.loop.time() == second.loop.time()


def a_turn_is_granted_twice(patch: pytest.MonkeyPatch) -> None:
    real = rate.take

    def take(rule: Any, state: Any, cost: int, offer: Any, now: float) -> Any:
        taken = real(rule, state, cost, offer, now)
        even = round(offer.place / rate.interval(rule)) % 2 == 0
        return replace(taken, tat=state.tat) if even else taken

    patch.setattr(rate, "take", take)


def a_conflict_is_ignored(patch: pytest.MonkeyPatch) -> None:
    real = limiter._Round.write

    async def write(self: Any, now: float) -> set[str]:
        await real(self, now)
        return set()

    patch.setattr(limiter._Round, "write", write)


def a_slot_is_leaked(patch: pytest.MonkeyPatch) -> None:
    """That of a dead holder."""
    patch.setattr(limiter, "over", lambda *_: False)


def the_slot_of_a_live_holder_is_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(limiter, "over", lambda *_: True)


def a_window_counts_for_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(calendar, "take", lambda rule, state, cost, wanted, now: state)


def nobody_is_called_and_nobody_comes_by_himself(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(slots, "call", lambda rule, state, now: (state, []))
    patch.setattr(slots, "LISTED_WAIT", 1e6)
    patch.setattr(slots, "SHORT_WAIT", 0.0)


PLANTS = [
    (a_turn_is_granted_twice, fused),
    (a_conflict_is_ignored, split),
    (a_slot_is_leaked, fused),
    (a_slot_is_leaked, split),
    (the_slot_of_a_live_holder_is_taken, split),
    (a_window_counts_for_nothing, fused),
    (nobody_is_called_and_nobody_comes_by_himself, fused),
]


@pytest.mark.parametrize(
    ("plant", "form"), PLANTS, ids=[f"{plant.__name__}-{form.__name__}" for plant, form in PLANTS]
)
def test_a_planted_fault_is_noticed(
    plant: Plant, form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(Violation):
        run_seeds(0, 300, form)
