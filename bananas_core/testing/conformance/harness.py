"""How the suite reaches the broker under test."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from bananas_core.job import LedgerCapabilities
from bananas_core.pair import Pair
from bananas_core.results import ResultBackend
from bananas_core.testing.clock import ManualClock
from bananas_core.transport import Transport, TransportCapabilities

LEVELS: Final = ("core", "extended", "faults", "stress")
"""Each level includes those before it."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker needs in time and takes in size. Not promises: allowances for slow machines."""

    deadline: float = 10.0
    """Seconds within which something that must happen has happened."""
    wake: float = 1.5
    """Seconds within which a waiting receiver on another connection is woken; T14 says 1."""
    batch: int = 100
    """Messages in a large batch."""
    racers: int = 8
    """Concurrent callers in a race."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What ``requires`` sees: what the objects declare, and what the harness can do."""

    transport: TransportCapabilities
    ledger: LedgerCapabilities
    fused: bool
    manual_clock: bool
    restarts: bool
    level: str


class Harness:
    """One broker, as many connections as a test wants, time, and names of its own.

    ``make_pair`` builds a new, unopened pair for the same broker and the same otherwise unused
    namespace. ``clock`` is given if the driver takes one: then hours pass in no time. ``restart``
    stops the broker the hard way and starts it again on its data. Close with ``aclose``.
    """

    def __init__(
        self,
        make_pair: Callable[[], Pair],
        *,
        clock: ManualClock | None = None,
        restart: Callable[[], Awaitable[None]] | None = None,
        limits: Limits | None = None,
        level: str = "core",
    ) -> None:
        if level not in LEVELS:
            raise ValueError(f"level {level!r} is not one of {', '.join(LEVELS)}")
        self.limits = limits or Limits()
        self._make_pair = make_pair
        self._clock = clock
        self._restart = restart
        self._opened: list[Pair | Transport | ResultBackend] = []
        # Kept, so that a broker which lives only as long as it has users lives for the whole test.
        self._first = make_pair()
        self.capabilities = Capabilities(
            transport=self._first.transport.capabilities,
            ledger=self._first.backend.capabilities,
            fused=self._first.fused,
            manual_clock=clock is not None,
            restarts=restart is not None,
            level=level,
        )

    async def pair(self) -> Pair:
        """A new connection, opened the way an app does it (fused where that can be)."""
        pair = self._make_pair()
        await pair.open()
        self._opened.append(pair)
        return pair

    async def transport(self) -> Transport:
        """A new connection of the transport alone."""
        transport = self.unopened().transport
        await transport.open()
        self._opened.append(transport)
        return transport

    async def backend(self, *, guard: bool = True, horizon: float = 0.0) -> ResultBackend:
        """A new connection of the ledger alone, as if it served another broker's transport."""
        backend = self.unopened().backend
        await backend.open(guard=guard, horizon=horizon)
        self._opened.append(backend)
        return backend

    def unopened(self) -> Pair:
        """A new connection that nobody opens or closes but the test."""
        return self._make_pair()

    def queue(self, kind: str = "queue") -> str:
        """The name of a queue that nobody else uses."""
        return f"{kind}-{uuid.uuid4().hex[:12]}"

    def session(self) -> str:
        """A session id that was never used before."""
        return f"session-{uuid.uuid4().hex[:12]}"

    async def advance(self, seconds: float) -> None:
        """Let time pass at the broker; without a manual clock this really waits."""
        if self._clock is None:
            await asyncio.sleep(seconds)
        else:
            self._clock.advance(seconds)

    async def restart(self) -> None:
        """Stop the broker as a crash would, and start it again. Connections have to be new."""
        assert self._restart is not None, "ask for capabilities.restarts first"
        await self._restart()

    async def eventually(self, check: Callable[[], Any], deadline: float | None = None) -> Any:
        """The first true value of ``check`` (which may be async), asked again and again.

        Raises:
            AssertionError: still false after ``deadline`` seconds (``limits.deadline``).
        """
        return await eventually(check, self.limits.deadline if deadline is None else deadline)

    async def aclose(self) -> None:
        """Close all connections. Safe to repeat."""
        opened, self._opened = self._opened, []
        for connection in reversed(opened):
            await connection.close()


async def eventually(check: Callable[[], Any], deadline: float) -> Any:
    """See ``Harness.eventually``."""
    loop = asyncio.get_running_loop()
    until, pause = loop.time() + deadline, 0.005
    while True:
        value = check()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert loop.time() < until, f"not within {deadline} s: {inspect.getsource(check).strip()}"
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 0.2)
