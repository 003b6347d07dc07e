"""Keeping a session's claims alive, apart from the work itself.

A worker tells its *keeper* what it claims, starts and ends; the keeper renews in the ledger and
collects what comes back. Which keeper is used decides what a blocked event loop can harm:
``LoopKeeper`` renews on the worker's own loop (simulation and tests), ``ThreadKeeper`` from a
thread with a loop and a connection of its own (embedded workers), ``PipeKeeper`` leaves it to the
supervising parent process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import msgspec
from msgspec.structs import replace

from bananas_core.clock import Clock
from bananas_core.errors import ResultBackendError
from bananas_core.held import ClaimKey, ClaimTable, Held, Start
from bananas_core.job import Cancel, Claim, ClaimBeat, RenewMode, Session
from bananas_core.results import ResultBackend
from bananas_core.state import CLAIM_TTL

log = logging.getLogger("bananas.renew")

RENEW_EVERY: Final = 2.0
"""Seconds between two renewals; also how soon a running job hears of its cancel."""
SAFE_AGE: Final = CLAIM_TTL - 3.0
"""A worker whose last confirmed renewal is older cancels its work and starts nothing."""


class Notices(msgspec.Struct, frozen=True, kw_only=True):
    """What renewals brought since the last look."""

    cancelled: dict[ClaimKey, Cancel] = {}
    lost: frozenset[ClaimKey] = frozenset()


class Keeper(Protocol):
    """All methods but ``start`` and ``stop`` are synchronous and cheap: they are on the hot path.
    Times are ``Clock.monotonic`` seconds, which all processes of one machine share."""

    async def start(self, session: Session) -> None:
        """Make the session known to the ledger and begin to renew it."""
        ...

    async def stop(self) -> None:
        """End the session: what it still holds in the ledger is handed back at once."""
        ...

    def abandon(self) -> None:
        """The worker is gone without a graceful end: renew no more, so that its claims lapse.
        Safe to repeat, also after ``stop``."""
        ...

    def hold(self, claims: Sequence[Claim]) -> None:
        """These were claimed (and may not have started)."""
        ...

    def started(self, starts: Sequence[Start]) -> None:
        """Their bodies are about to run; past its deadline the process may be killed."""
        ...

    def drop(self, keys: Iterable[ClaimKey]) -> None:
        """The ledger has their outcome, or they were lost."""
        ...

    def confirmed(self) -> float:
        """When the last confirmed renewal was *sent*."""
        ...

    def notices(self) -> Notices:
        """What came since the last call; each notice at least once."""
        ...

    def describe(self, free: int, done: int) -> None:
        """Free slots and jobs done, for the next renewal."""
        ...


class Renewer:
    """The renewal of one session, on whichever loop calls ``renew``. Not thread-safe."""

    def __init__(self, session: Session, held: Held, clock: Clock) -> None:
        self.session = session
        self.held = held
        self.confirmed = clock.monotonic()
        self._clock = clock
        self._cancelled: dict[ClaimKey, Cancel] = {}
        self._lost: set[ClaimKey] = set()

    async def renew(self, backend: ResultBackend) -> None:
        """One renewal of everything held.

        Raises:
            ResultBackendError: not confirmed; try again soon.
        """
        sent = self._clock.monotonic()
        beats = [ClaimBeat(id=id, fence=fence) for id, fence in self.held.claims()]
        answer = await backend.renew(self.session, beats, mode=RenewMode.FULL)
        self.confirmed = max(self.confirmed, sent)
        fences = {beat.id: beat.fence for beat in beats}
        for id, cancel in answer.cancelled.items():
            self._cancelled[(id, fences[id])] = cancel
        if answer.lost:
            held = set(self.held.claims())
            lost = [key for key in answer.lost if key in held]
            self._lost.update(lost)
            self.held.drop(lost)

    async def end(self, backend: ResultBackend, *, died: bool) -> None:
        """End the session. ``died``: what was running counts as deaths; else all goes back."""
        beats = [ClaimBeat(id=id, fence=fence) for id, fence in self.held.running() if died]
        await backend.renew(self.session, beats, mode=RenewMode.ENDED)

    def notices(self) -> Notices:
        if not self._cancelled and not self._lost:
            return NOTHING
        found = Notices(cancelled=self._cancelled, lost=frozenset(self._lost))
        self._cancelled, self._lost = {}, set()
        return found

    def describe(self, free: int, done: int) -> None:
        self.session = replace(self.session, free=free, done=done)


NOTHING: Final = Notices()


class LoopKeeper:
    """Renews on the worker's own event loop and connection: a blocked loop loses its claims."""

    def __init__(self, backend: ResultBackend, clock: Clock, *, every: float = RENEW_EVERY) -> None:
        self._backend = backend
        self._clock = clock
        self._every = every
        self._held = ClaimTable()
        self._renewer: Renewer | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, session: Session) -> None:
        self._renewer = Renewer(session, self._held, self._clock)
        await self._renewer.renew(self._backend)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            await self._live.end(self._backend, died=False)

    def abandon(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            try:
                await self._live.renew(self._backend)
            except ResultBackendError as error:
                log.warning("claims were not renewed: %s", error)

    @property
    def _live(self) -> Renewer:
        if self._renewer is None:
            raise RuntimeError("the keeper is used before start()")
        return self._renewer

    def hold(self, claims: Sequence[Claim]) -> None:
        self._held.hold((claim.id, claim.fence) for claim in claims)

    def started(self, starts: Sequence[Start]) -> None:
        self._held.started(starts)

    def drop(self, keys: Iterable[ClaimKey]) -> None:
        self._held.drop(keys)

    def confirmed(self) -> float:
        return self._live.confirmed

    def notices(self) -> Notices:
        return self._live.notices()

    def describe(self, free: int, done: int) -> None:
        self._live.describe(free, done)
