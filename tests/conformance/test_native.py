"""What is native comes from what is declared; a badge shows what was found."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import msgspec
import pytest

from bananas_core.job import LedgerCapabilities
from bananas_core.testing.conformance import Capabilities
from bananas_core.testing.conformance.badge import BAD, GOOD, badge
from bananas_core.testing.conformance.native import RULES, emulated
from bananas_core.testing.conformance.report import Document, Promise
from bananas_core.testing.conformance.subject import look_at
from bananas_core.transport import TransportCapabilities

FULL = Capabilities(
    transport=TransportCapabilities(fused=True),
    ledger=LedgerCapabilities(native=True, pushes=True),
    fused=True,
    manual_clock=False,
    restarts=False,
    level="core",
)
BARE = msgspec.structs.replace(
    FULL,
    transport=TransportCapabilities(levels=3, fused=False),
    ledger=LedgerCapabilities(native=False, pushes=False),
    fused=False,
)


@pytest.mark.parametrize("promise", RULES)
def test_a_rule_follows_the_declaration(promise: str) -> None:
    assert emulated(promise, FULL) == ""
    assert emulated(promise, BARE) != ""


def test_what_no_driver_has_is_by_the_core_everywhere() -> None:
    assert emulated("U1", FULL) == emulated("W9", BARE) == "by the core"
    assert emulated("T8", BARE) == emulated("L7", BARE) == ""


@pytest.mark.parametrize(("outcome", "colour"), [("passed", GOOD), ("failed", BAD)])
def test_a_badge_counts_what_was_tried(outcome: str, colour: str) -> None:
    promises = [
        Promise(promise="T1", outcome="passed", tests=()),
        Promise(promise="T2", outcome="skipped", tests=()),
        Promise(promise="T3", outcome=outcome, tests=()),
    ]
    picture = badge(Document(suite="2", subject='<"x">', promises=tuple(promises)))
    title = ET.fromstring(picture).findtext("{http://www.w3.org/2000/svg}title")
    assert title == f'Bananas conformance: <"x">: {2 if outcome == "passed" else 1}/2'
    assert colour in picture


async def test_a_broker_that_is_away_has_no_versions_but_declares() -> None:
    subject = await look_at("redis://127.0.0.1:1/0", None, "core")
    assert subject.transport.server in (None, "Redis")
    assert subject.transport.capabilities["levels"] == 101
    assert subject.fused
