"""The simulation is only worth something if it notices: faults planted in the transitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from bananas_core import state
from bananas_core.job import Job
from bananas_core.testing.simulation import MakePair, Violation, simulate
from tests.simulation.test_simulation import fused, split

SEEDS = 300
"""A fault must show within so many seeds; most show within ten."""

Real = Callable[..., Any]


def stale_finish_accepted(finish: Real) -> Real:
    def broken(job: Job | None, outcome: Any, now: float, *, guard: bool) -> Any:
        if job is not None:
            outcome = msgspec.structs.replace(outcome, fence=job.fence)
        return finish(job, outcome, now, guard=guard)

    return broken


def nothing_lapses(lapse: Real) -> Real:
    return lambda job, now, **_: job


def delay_ignored(create: Real) -> Real:
    def broken(put: Any, now: float, **options: Any) -> Any:
        return create(msgspec.structs.replace(put, delay=None), now, **options)

    return broken


def older_generation_runs(claim: Real) -> Real:
    def broken(job: Job | None, hint: Any, *rest: Any) -> Any:
        if job is not None and job.state in ("completed", "processing"):
            job = msgspec.structs.replace(job, state="pending", gen=hint.gen)
        return claim(job, hint, *rest)

    return broken


def handback_forgets_to_wait(handback: Real) -> Real:
    """A job handed back stays with a worker that doesn't know of it."""
    return lambda job, now, **_: job


FAULTS = [
    ("finish", stale_finish_accepted, fused),
    ("finish", stale_finish_accepted, split),
    ("lapse", nothing_lapses, fused),
    ("lapse", nothing_lapses, split),
    ("create", delay_ignored, fused),
    ("claim", older_generation_runs, split),
    ("handback", handback_forgets_to_wait, fused),
]


@pytest.mark.parametrize(
    ("name", "fault", "form"),
    FAULTS,
    ids=[f"{fault.__name__}-{form.__name__}" for _, fault, form in FAULTS],
)
def test_a_planted_fault_is_noticed(
    name: str,
    fault: Callable[[Real], Real],
    form: Callable[[], MakePair],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(state, name, fault(getattr(state, name)))
    for seed in range(SEEDS):
        try:
            simulate(seed, form())
        except Violation:
            return
    raise AssertionError(f"{SEEDS} seeds did not notice it")
