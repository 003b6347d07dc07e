"""The keeper of an embedded worker: renewals from a thread with a loop and connection of its own.

A blocked event loop of the host program then loses no claims, as long as it lets the GIL go.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from bananas_core.clock import Clock
from bananas_core.errors import BananasError, ResultBackendError
from bananas_core.held import ClaimKey, ClaimTable, Start
from bananas_core.job import Cancel, Claim, RenewMode, Session
from bananas_core.pair import Pair
from bananas_core.renew import NOTHING, RENEW_EVERY, Notices, Renewer

log = logging.getLogger("bananas.renew")

RETRY_EVERY: Final = 0.5
"""Seconds until a renewal that was not confirmed is tried again."""
RENEW_WITHIN: Final = 5.0
"""Seconds after which a renewal is given up and tried again."""


class ThreadKeeper:
    """Renews from a daemon thread. One session a keeper; the methods are called on one thread.

    The worker's thread only appends to a queue and reads plain attributes, so it never waits for
    the other one.
    """

    def __init__(
        self, make_pair: Callable[[], Pair], clock: Clock, *, every: float = RENEW_EVERY
    ) -> None:
        """``make_pair`` builds an unopened pair for the thread."""
        self._make_pair = make_pair
        self._clock = clock
        self._every = every
        self._held = ClaimTable()
        self._todo: deque[Callable[[Renewer], None]] = deque()
        self._notices: deque[Notices] = deque()
        self._confirmed = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._left = threading.Event()
        self._end = True

    async def start(self, session: Session) -> None:
        """Returns after the first confirmed renewal. Raises what opening or renewing raised."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def tell(error: BaseException | None) -> None:
            if ready.done():
                return
            if error is None:
                ready.set_result(None)
            else:
                ready.set_exception(error)

        def run() -> None:
            try:
                asyncio.run(self._main(session, lambda: loop.call_soon_threadsafe(tell, None)))
            except BaseException as error:  # handed to the thread that waits
                log.debug("the renewing thread ended", exc_info=error)
                try:
                    loop.call_soon_threadsafe(tell, error)
                except RuntimeError:
                    pass  # nobody waits any more: that loop is closed

        self._thread = threading.Thread(target=run, name="bananas-renew", daemon=True)
        self._thread.start()
        try:
            await ready
        except BaseException:
            self.abandon()
            raise

    async def stop(self) -> None:
        """Raises nothing: what can't be ended in the ledger lapses."""
        thread = self._thread
        self._leave(end=True)
        while thread is not None and thread.is_alive():
            await asyncio.sleep(0.01)

    def abandon(self) -> None:
        """Renew no more and leave the session to lapse, as a crash would. For a worker that was
        cancelled: its thread must not keep claims alive that nobody works on. Safe to repeat."""
        self._leave(end=False)

    def _leave(self, *, end: bool) -> None:
        if self._thread is None:
            return
        self._thread = None
        self._end = end
        self._left.set()
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None:
            try:
                loop.call_soon_threadsafe(stop.set)
            except RuntimeError:
                pass  # its loop has ended already

    def hold(self, claims: Sequence[Claim]) -> None:
        keys = [(claim.id, claim.fence) for claim in claims]
        self._todo.append(lambda _: self._held.hold(keys))

    def started(self, starts: Sequence[Start]) -> None:
        self._todo.append(lambda _: self._held.started(starts))

    def drop(self, keys: Iterable[ClaimKey]) -> None:
        gone = list(keys)
        self._todo.append(lambda _: self._held.drop(gone))

    def confirmed(self) -> float:
        return self._confirmed

    def notices(self) -> Notices:
        if not self._notices:
            return NOTHING
        cancelled: dict[ClaimKey, Cancel] = {}
        lost: frozenset[ClaimKey] = frozenset()
        while self._notices:
            notice = self._notices.popleft()
            cancelled |= notice.cancelled
            lost |= notice.lost
        return Notices(cancelled=cancelled, lost=lost)

    def describe(self, free: int, done: int) -> None:
        self._todo.append(lambda renewer: renewer.describe(free, done))

    async def _main(self, session: Session, ready: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = stop = asyncio.Event()
        if self._left.is_set():
            return  # given up before this thread began
        renewer = Renewer(session, self._held, self._clock)
        pair = self._make_pair()
        # The ledger alone: this thread moves no messages.
        await pair.backend.open(guard=not pair.fused, horizon=0.0)
        try:
            await self._renew(pair, renewer)
            ready()
            wait = self._every
            while not stop.is_set():
                try:
                    async with asyncio.timeout(wait):
                        await stop.wait()
                    break
                except TimeoutError:
                    wait = await self._try(pair, renewer)
            if not self._end:
                return
            async with asyncio.timeout(RENEW_WITHIN):
                await pair.backend.renew(renewer.session, [], mode=RenewMode.ENDED)
        except (ResultBackendError, TimeoutError) as error:
            if not stop.is_set():
                raise
            log.warning("the session was not ended, its claims will lapse: %s", error)
        finally:
            await pair.backend.close()

    async def _try(self, pair: Pair, renewer: Renewer) -> float:
        """One renewal; how long to wait for the next."""
        try:
            await self._renew(pair, renewer)
        except (BananasError, TimeoutError) as error:
            log.warning("claims were not renewed: %s", str(error) or "no answer")
            return RETRY_EVERY
        return self._every

    async def _renew(self, pair: Pair, renewer: Renewer) -> None:
        self._catch_up(renewer)
        async with asyncio.timeout(RENEW_WITHIN):
            await renewer.renew(pair.backend)
        self._confirmed = renewer.confirmed
        notices = renewer.notices()
        if notices is not NOTHING:
            self._notices.append(notices)

    def _catch_up(self, renewer: Renewer) -> None:
        while self._todo:
            self._todo.popleft()(renewer)
