"""The supervisor and the ledger: renewing for children, ending the sessions of dead ones."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from bananas_core.children import Child
from bananas_core.errors import BananasError
from bananas_core.job import ClaimBeat, ReadyKind, RenewMode
from bananas_core.pair import Pair, load_pair
from bananas_core.pipe import Hello, SessionEnded
from bananas_core.probe import send_ready
from bananas_core.renew import RENEW_EVERY

log = logging.getLogger("bananas.supervisor")

RETRY_EVERY: Final = 0.5
"""Seconds until what the ledger did not answer is tried again."""
ANSWER_WITHIN: Final = 5.0
LOOK: Final = 0.02


class Pairs:
    """Our own connections, one for each broker and ledger that children name."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, str | None, str], Pair] = {}
        self._lock = asyncio.Lock()

    async def get(self, hello: Hello) -> Pair:
        """The pair with its ledger open. The transport is opened when something must be sent:
        its outage is no reason not to renew. Raises BananasError."""
        place = (hello.broker_url, hello.result_backend_url, hello.namespace)
        async with self._lock:
            if place not in self._pairs:
                pair = load_pair(*place)
                horizon = 0.0 if pair.fused else pair.transport.capabilities.horizon
                try:
                    await pair.backend.open(guard=not pair.fused, horizon=horizon)
                except BaseException:
                    await pair.backend.close()
                    raise
                self._pairs[place] = pair
            return self._pairs[place]

    async def close(self) -> None:
        """Disconnect. Safe to repeat."""
        pairs, self._pairs = list(self._pairs.values()), {}
        for pair in pairs:
            try:
                async with asyncio.timeout(0.5):
                    await pair.close()
            except (BananasError, TimeoutError) as error:
                log.debug("a connection did not close: %s", error)


async def renew_child(child: Child, pairs: Pairs, *, every: float = RENEW_EVERY) -> None:
    """Renew a child's claims until it asks for the end of its session, or we are cancelled.

    An outage is waited out: nobody is stopped for it here. The child itself cancels its work
    when its last confirmed renewal gets too old.
    """
    while child.hello is None or child.renewer is None:
        await asyncio.sleep(LOOK)
    wait = 0.0
    while not child.ended:
        await _wait(child, wait)
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                pair = await pairs.get(child.hello)
                if child.wants_end:
                    await _end(child, pair, ())
                    child.tell(SessionEnded())
                else:
                    await child.renewer.renew(pair.backend)
                    child.tell_confirmed()
            wait = every
        except (BananasError, TimeoutError) as error:
            log.warning("claims of %r were not renewed: %s", child, str(error) or "no answer")
            wait = RETRY_EVERY


async def end_session(child: Child, pairs: Pairs) -> None:
    """What a dead child held goes back at once. Repeated until the ledger has it."""
    if child.hello is None or child.ended:
        return
    deaths = child.deaths()
    while True:
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                await _end(child, await pairs.get(child.hello), deaths)
            return
        except (BananasError, TimeoutError) as error:
            log.warning("the claims of %r are not ended yet: %s", child, str(error) or "no answer")
            await asyncio.sleep(RETRY_EVERY)


async def _end(child: Child, pair: Pair, deaths: tuple[tuple[str, int], ...]) -> None:
    assert child.renewer is not None
    beats = [ClaimBeat(id=id, fence=fence) for id, fence in deaths]
    answer = await pair.backend.renew(child.renewer.session, beats, mode=RenewMode.ENDED)
    child.ended = True
    # What follows from ended jobs is due's: this process only keeps claims.
    await send_ready(pair, [r for r in answer.ready if r.kind is ReadyKind.SEND])


async def _wait(child: Child, seconds: float) -> None:
    """A while, but not longer than until the child wants its session ended."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not child.wants_end and (left := end - loop.time()) > 0:
        await asyncio.sleep(min(LOOK, left))
