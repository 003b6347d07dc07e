"""What the suite ran on: drivers, versions and what they declare."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec

from bananas_core.errors import BananasError
from bananas_core.pair import Pair, installed, load_pair
from bananas_core.testing.conformance.harness import Capabilities
from bananas_core.urls import parse_url


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """A transport or a ledger. ``client`` and ``server`` are as the driver's ``versions`` says,
    None where it has none."""

    driver: str
    package: str | None = None
    client: str | None = None
    server: str | None = None
    capabilities: dict[str, Any] = {}


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """A pair of drivers."""

    transport: Side
    ledger: Side
    capabilities: Capabilities

    @property
    def fused(self) -> bool:
        return self.capabilities.fused


async def look_at(url: str, result_backend_url: str | None, level: str) -> Subject:
    """Connect once, to ask for versions; a broker that can't be reached has none."""
    namespace = f"conformance-{uuid.uuid4().hex[:12]}"
    pair = load_pair(url, result_backend_url, namespace)
    try:
        await pair.open()
    except BananasError:
        return _subject(pair, url, result_backend_url, level)
    try:
        found = _subject(pair, url, result_backend_url, level)
        for driver in (pair.backend, pair.transport):
            erase = getattr(driver, "erase", None)
            if erase is not None:
                await erase()
    finally:
        await pair.close()
    return found


def _subject(pair: Pair, url: str, result_backend_url: str | None, level: str) -> Subject:
    return Subject(
        transport=side(pair.transport, "bananas.transports", url),
        ledger=side(pair.backend, "bananas.result_backends", result_backend_url or url),
        capabilities=Capabilities(
            transport=pair.transport.capabilities,
            ledger=pair.backend.capabilities,
            fused=pair.fused,
            manual_clock=False,
            restarts=False,
            level=level,
        ),
    )


def side(driver: Any, group: str, url: str) -> Side:
    """What one object says of itself. ``versions`` is optional, as ``warnings`` is."""
    scheme = parse_url(url).scheme
    points = installed(group)
    point = points.get(scheme) or points.get(scheme.split("+")[0])
    dist = None if point is None else point.dist
    versions = getattr(driver, "versions", None)
    said: dict[str, str] = versions() if callable(versions) else {}
    return Side(
        driver=type(driver).__name__,
        package=None if dist is None else f"{dist.name} {dist.version}",
        client=said.get("client"),
        server=said.get("server"),
        capabilities=msgspec.to_builtins(driver.capabilities),
    )
