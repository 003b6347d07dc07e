"""How a receive waits for something to take, and loses nothing of it when it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Final, TypeVar

from bananas_brokers.redis.side import Bell, Tokens
from bananas_brokers.redis.waits import Waits
from bananas_core.eager import task_maker
from bananas_core.errors import TransportError

T = TypeVar("T")

Wait = Callable[[str, float], Awaitable[list[T]]]
"""What is taken within so many seconds, under the name of a wait, by which it can be called off."""

_LOOK: Final = 1.0
"""Seconds after which a receiver looks for itself: leases end, and the inbox fills, silently."""


class Receiver:
    """Looks, and looks again when a token is there in one of ``sides``."""

    def __init__(
        self,
        sides: Sequence[Tokens],
        is_open: Callable[[], bool],
        waits: Waits | None = None,
    ) -> None:
        self._sides = sides
        self._waits = waits
        self._is_open = is_open
        self._taking: set[asyncio.Task[Any]] = set()
        self.closing = False

    def open(self) -> None:
        for side in self._sides:
            side.open()
        self._taking, self.closing = set(), False

    async def close(self) -> None:
        """Ends pending receives, and waits until what they took is given back."""
        self.closing = True
        for side in self._sides:
            await side.close()
        if self._waits is not None:
            await self._waits.call_all_off()
        if self._taking:
            await asyncio.wait(self._taking)
        if self._waits is not None:
            await self._waits.close()

    async def receive(
        self,
        queues: Sequence[str],
        timeout: float,
        take: Callable[[Sequence[str]], Awaitable[list[T]]],
        undo: Callable[[list[T]], Awaitable[Any]],
        wait: Wait[T] | None = None,
    ) -> list[T]:
        """What ``take`` finds, within ``timeout`` seconds; ``undo`` gives it back. ``take`` is told
        which queues have lost their token to us. With ``wait`` one waits and takes in one go."""
        found = await self._shielded(lambda: take(()), undo)
        if found or timeout <= 0 or not queues:
            return found
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        if wait is not None and self._waits is not None:
            while not self._ended() and (left := until - loop.time()) > 0:
                ticket = self._waits.ticket()
                call_off = partial(self._waits.call_off, ticket)
                found = await self._shielded(partial(wait, ticket, left), undo, call_off)
                if found:
                    return found
            return []
        bell = Bell()
        with ExitStack() as stack:
            for side in self._sides:
                stack.enter_context(side.listen(queues, bell))
            while not self._ended():
                left = until - loop.time()
                if left <= 0:
                    break
                try:
                    async with asyncio.timeout(min(left, _LOOK)):
                        await bell.wait()
                except TimeoutError:
                    pass
                rung = bell.answer()
                if self._ended():
                    break
                found = await self._shielded(partial(take, rung), undo)
                if found:
                    return found
        return []

    async def _shielded(
        self,
        take: Callable[[], Awaitable[list[T]]],
        undo: Callable[[list[T]], Awaitable[Any]],
        call_off: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> list[T]:
        """T4: what a cancelled receive took is given back at once."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[list[T]] = loop.create_future()

        async def run() -> None:
            try:
                found = await take()
            except asyncio.CancelledError:
                waiter.cancel()
                raise
            except Exception as error:
                if not waiter.done():
                    waiter.set_exception(error)
                elif not isinstance(error, TransportError):
                    raise
                return  # or nobody is left to be told
            if waiter.done() or self.closing:
                await undo(found)
                found = []
            if not waiter.done():
                waiter.set_result(found)

        # At once, if Python can: jobs that start in this turn of the loop then run meanwhile.
        task = task_maker(loop)(run())
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)
        try:
            return await waiter  # not the task: what waits for that hears of it two turns later
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.exception() is None:
                self._later(undo(waiter.result()))
            elif call_off is not None and not task.done():
                self._later(call_off())
            raise

    def _later(self, work: Awaitable[Any]) -> None:
        late = asyncio.ensure_future(work)
        self._taking.add(late)
        late.add_done_callback(self._taking.discard)

    def _ended(self) -> bool:
        return self.closing or not self._is_open()
