"""Which promises the broker keeps by itself, and which the core makes up for.

Decided by what the driver's objects declare, never by its name. A promise that the core makes up
for is tested like any other: it means the same, at another price.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bananas_core.testing.conformance.harness import Capabilities
from bananas_core.testing.conformance.marks import CONTRACTS

Rule = Callable[[Capabilities], str]
"""How the core makes up for what was declared missing; empty where nothing is."""

DRIVERS_OWN: Final = ("T", "L")
"""Contracts that drivers implement. The others the core keeps on any ledger that keeps these."""


def _levels(can: Capabilities) -> str:
    levels = can.transport.levels
    return f"{levels} bands; a worker sorts what it holds" if levels < 101 else ""


def _two_steps(can: Capabilities) -> str:
    return "" if can.fused else "received from one place, then claimed at the other"


def _repaired(can: Capabilities) -> str:
    return "" if can.ledger.native else "atomic by record; `due` completes what a crash cut off"


def _polled(can: Capabilities) -> str:
    return "" if can.ledger.pushes else "asked for until it is there"


RULES: Final[dict[str, Rule]] = {
    "T12": _levels,
    "T21": _two_steps,
    "L22": _repaired,
    "L23": _repaired,
    "L29": _polled,
    "L34": _repaired,
    "L37": _repaired,
}


def emulated(promise: str, can: Capabilities) -> str:
    """How the core makes up for a promise; empty: the driver keeps it natively."""
    if promise[0] in CONTRACTS and promise[0] not in DRIVERS_OWN:
        return "by the core"
    rule = RULES.get(promise)
    return rule(can) if rule else ""
