"""Faults that are planted in the memory drivers: each breaks one promise, and names the tests that
see it.

A fault patches a driver's class, or one of the pure functions that the drivers apply. They are in
the modules ``*_mutants.py``, by topic; importing one fills ``MUTANTS``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Plant = Callable[[pytest.MonkeyPatch], None]

MUTANTS: list[tuple[Plant, Callable[..., Any]]] = []


def caught_by(*tests: Any) -> Callable[[Plant], Plant]:
    """Each of these tests must fail on a driver with this fault."""

    def mark(plant: Plant) -> Plant:
        MUTANTS.extend((plant, test) for test in tests)
        return plant

    return mark


def around(patch: pytest.MonkeyPatch, owner: Any, name: str, fault: Callable[..., Any]) -> None:
    """Replace ``owner.name`` by ``fault(original, *arguments)``."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **options: fault(original, *args, **options))
