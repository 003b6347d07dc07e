"""Unique keys on virtual time, through crashes; ``BANANAS_SEEDS`` sets how many seeds."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from bananas_core import unique, unique_put
from bananas_core.testing.simulation import Violation, simulate
from bananas_core.testing.simulation_unique import UniqueJobs
from tests.simulation.test_simulation import CHUNK, FIRST, SEEDS, fused, split

Plant = Callable[[pytest.MonkeyPatch], None]

LAST = FIRST + (SEEDS + 3) // 4


def run_seeds(begin: int, end: int, form: Any) -> None:
    for seed in range(begin, end):
        simulate(seed, form(), UniqueJobs(random.Random(seed)))


@pytest.mark.parametrize("form", [fused, split], ids=lambda form: form.__name__)
@pytest.mark.parametrize("begin", range(FIRST, LAST, CHUNK))
def test_a_key_has_one_live_job_whatever_fails(form: Any, begin: int) -> None:
    run_seeds(begin, min(begin + CHUNK, LAST), form)


def test_a_seed_replays_the_same_run() -> None:
    first, second = (simulate(3, split(), UniqueJobs(random.Random(3))) for _ in range(2))
    assert first.runs == second.runs
    assert first.loop.time() == second.loop.time()


def a_live_key_is_taken_over(patch: pytest.MonkeyPatch) -> None:
    real = unique.held

    def held(value: Any, owner: Any, now: float) -> bool:
        return real(value, owner, now) and (owner is None or now < owner.created_at + 2.0)

    patch.setattr(unique, "held", held)


def a_key_is_orphaned(patch: pytest.MonkeyPatch) -> None:
    """Documents whose submitter died stay."""
    patch.setattr(unique, "TIDY", 0)


def a_key_without_a_record_is_held_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(unique, "HOLD", 1e9)


def a_late_submitter_is_certain(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(unique_put, "MARGIN", -1e9)


def nothing_follows_the_end_of_a_holder(patch: pytest.MonkeyPatch) -> None:
    async def pass_on(backend: Any, jobs: Any) -> list[Any]:
        return []

    patch.setattr(unique, "pass_on", pass_on)


def nobody_decides_what_waits(patch: pytest.MonkeyPatch) -> None:
    async def decide(backend: Any, jobs: Any) -> unique.Decision:
        return unique.Decision()

    patch.setattr(unique, "decide", decide)


def a_lost_race_for_a_key_is_ignored(patch: pytest.MonkeyPatch) -> None:
    real = unique._take

    async def take(backend: Any, takes: Any) -> Any:
        return [(job, True) for job, _ in await real(backend, takes)]

    patch.setattr(unique, "_take", take)


PLANTS = [
    (a_live_key_is_taken_over, fused),
    (a_key_is_orphaned, fused),
    (a_key_without_a_record_is_held_for_ever, split),
    (a_late_submitter_is_certain, split),
    (nothing_follows_the_end_of_a_holder, fused),
    (nobody_decides_what_waits, split),
    (a_lost_race_for_a_key_is_ignored, split),
]


@pytest.mark.parametrize(
    ("plant", "form"), PLANTS, ids=[f"{plant.__name__}-{form.__name__}" for plant, form in PLANTS]
)
def test_a_planted_fault_is_noticed(
    plant: Plant, form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    first = 120 if plant is a_late_submitter_is_certain else 0  # rare: 133 is the first to show it
    with pytest.raises(Violation):
        run_seeds(first, first + 300, form)
