"""A transport or ledger seen through a bad network: delays, lost calls, lost replies, outages."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import msgspec

from bananas_core.errors import ResultBackendUnavailable, TransportUnavailable
from bananas_core.testing.virtual import Process

_UNTOUCHED = {"open", "close"}


class Faults(msgspec.Struct, kw_only=True):
    """Chances per call (0–1) and the longest delay in seconds. ``down_until`` is an outage on
    the loop's time."""

    lost_request: float = 0.0
    lost_reply: float = 0.0
    max_delay: float = 0.0
    down_until: float = 0.0


class Faulty:
    """Wraps every coroutine method of a driver; attributes pass through."""

    def __init__(
        self,
        driver: Any,
        faults: Faults,
        rng: random.Random,
        process: Process,
        error: Callable[[str], Exception],
    ) -> None:
        self._driver = driver
        self._faults = faults
        self._rng = rng
        self._process = process
        self._error = error

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._driver, name)
        if name in _UNTOUCHED or not asyncio.iscoroutinefunction(value):
            return value

        async def call(*args: Any, **kwargs: Any) -> Any:
            await self._pass("request", name, self._faults.lost_request)
            answer = await value(*args, **kwargs)
            await self._pass("reply", name, self._faults.lost_reply)
            return answer

        return call

    async def _pass(self, way: str, name: str, chance: float) -> None:
        """Let a request or a reply through the network, or not."""
        if self._process.hazard and self._rng.random() < self._process.hazard:
            self._mishap()
        if not self._process.alive:
            await asyncio.Event().wait()
        if self._faults.max_delay:
            await asyncio.sleep(self._rng.random() ** 3 * self._faults.max_delay)
        late = self._process.cut_until - asyncio.get_running_loop().time()
        if late > 0:
            await asyncio.sleep(late)
        if not self._process.alive:
            await asyncio.Event().wait()
        now = asyncio.get_running_loop().time()
        if now < self._faults.down_until or self._rng.random() < chance:
            raise self._error(f"simulated: the {way} of {name} was lost")

    def _mishap(self) -> None:
        """The process dies between two steps, or a stall comes between them."""
        if self._rng.random() < 0.5:
            self._process.crash()
        else:
            stall = self._rng.uniform(2.0, 12.0)
            self._process.cut_until = asyncio.get_running_loop().time() + stall


def faulty_transport(driver: Any, faults: Faults, rng: random.Random, process: Process) -> Any:
    """A transport through a bad network."""
    return Faulty(driver, faults, rng, process, TransportUnavailable)


def faulty_backend(driver: Any, faults: Faults, rng: random.Random, process: Process) -> Any:
    """A ledger through a bad network."""
    return Faulty(driver, faults, rng, process, ResultBackendUnavailable)
