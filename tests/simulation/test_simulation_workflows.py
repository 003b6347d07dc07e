"""Workflows on virtual time, through crashes; ``BANANAS_SEEDS`` sets how many seeds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from bananas_core.testing.simulation import Violation, simulate
from bananas_core.testing.simulation_workflows import Workflows
from bananas_core.workflow import engine
from bananas_core.workflow.pages import Writing
from tests.simulation.test_simulation import CHUNK, FIRST, SEEDS, fused, split

Plant = Callable[[pytest.MonkeyPatch], None]


LAST = FIRST + (SEEDS + 1) // 2


def run_seeds(begin: int, end: int, form: Any) -> None:
    for seed in range(begin, end):
        simulate(seed, form(), Workflows(random.Random(seed)))


@pytest.mark.parametrize("form", [fused, split], ids=lambda form: form.__name__)
@pytest.mark.parametrize("begin", range(FIRST, LAST, CHUNK))
def test_every_workflow_ends_once_whatever_fails(form: Any, begin: int) -> None:
    run_seeds(begin, min(begin + CHUNK, LAST), form)


def a_lost_race_for_a_page_is_ignored(patch: pytest.MonkeyPatch) -> None:
    real = engine.write_round

    async def write(backend: Any, docs: Any, values: Any) -> Writing:
        await real(backend, docs, values)
        return Writing(done=dict(values), lost={})

    patch.setattr(engine, "write_round", write)


def an_incomplete_follow_up_counts_as_complete(patch: pytest.MonkeyPatch) -> None:
    real = engine.advance

    async def advance(*arguments: Any, **options: Any) -> Any:
        try:
            async with asyncio.timeout(0.5):
                return await real(*arguments, **options)
        except Exception:
            return []

    patch.setattr(engine, "advance", advance)


def a_node_is_released_too_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(engine, "end_at", lambda *_: engine.End.COMPLETED)


@pytest.mark.parametrize(
    "plant",
    [
        a_lost_race_for_a_page_is_ignored,
        an_incomplete_follow_up_counts_as_complete,
        a_node_is_released_too_early,
    ],
    ids=lambda plant: plant.__name__,
)
def test_a_planted_fault_is_noticed(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(Violation):
        run_seeds(0, 200, split)
