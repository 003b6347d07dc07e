"""The suite covers the contracts: every promise has a test, and no test hides another."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from importlib import import_module

from bananas_core.testing.conformance import (
    ResultBackendConformance,
    TransportConformance,
    promises_of,
)
from bananas_core.testing.conformance.marks import CONTRACTS

SUITES = (TransportConformance, ResultBackendConformance)

NOT_TESTABLE = {
    "L6": "needs a store of another schema version; each driver with a schema tests that itself",
}
"""Promises that no test of a general suite can show, and why."""


def promised() -> set[str]:
    """The ids in the contracts' prose."""
    found: set[str] = set()
    for letter, (module, _) in CONTRACTS.items():
        source = inspect.getsource(import_module(f"bananas_core.{module}"))
        found.update(re.findall(rf"^\s*(?:\"\"\")?({letter}[0-9]+)\. ", source, re.MULTILINE))
    return found


def shown() -> set[str]:
    """The ids that tests name."""
    tests = [test for suite in SUITES for _, test in inspect.getmembers(suite, callable)]
    return {promise for test in tests for promise in promises_of(test)}


def test_the_contracts_number_their_promises_without_gaps() -> None:
    for letter, count in (("T", 21), ("L", 51), ("Q", 12), ("U", 10), ("W", 9)):
        numbers = sorted(int(i[1:]) for i in promised() if i[0] == letter)
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) >= count


def test_every_promise_has_a_test() -> None:
    assert promised() - shown() == set(NOT_TESTABLE)


def test_tests_name_only_promises_that_exist() -> None:
    assert shown() <= promised()


def test_every_test_names_its_promise() -> None:
    for suite in SUITES:
        for name, test in inspect.getmembers(suite, callable):
            if name.startswith("test_"):
                assert promises_of(test), f"{suite.__name__}.{name} names no promise"


def test_no_test_hides_another() -> None:
    for suite in SUITES:
        names = Counter(
            name for base in suite.__mro__ for name in vars(base) if name.startswith("test_")
        )
        assert [name for name, count in names.items() if count > 1] == []
    both = {n for n in dir(SUITES[0]) if n.startswith("test_")} & set(dir(SUITES[1]))
    assert both == set()
