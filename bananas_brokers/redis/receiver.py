"""How a receive waits for something to take, and loses nothing of it when it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Final, TypeVar

from bananas_brokers.redis.side import Bell, Tokens
from bananas_core.errors import TransportError

T = TypeVar("T")

_LOOK: Final = 1.0
"""Seconds after which a receiver looks for itself: leases end, and the inbox fills, silently."""


class Receiver:
    """Looks, and looks again when a token is there in one of ``sides``."""

    def __init__(self, sides: Sequence[Tokens], is_open: Callable[[], bool]) -> None:
        self._sides = sides
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
        if self._taking:
            await asyncio.wait(self._taking)

    async def receive(
        self,
        queues: Sequence[str],
        timeout: float,
        take: Callable[[Sequence[str]], Awaitable[list[T]]],
        undo: Callable[[list[T]], Awaitable[Any]],
    ) -> list[T]:
        """What ``take`` finds, within ``timeout`` seconds; ``undo`` gives it back. ``take`` is told
        which queues have lost their token to us."""
        found = await self._shielded(lambda: take(()), undo)
        if found or timeout <= 0 or not queues:
            return found
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
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
        self, take: Callable[[], Awaitable[list[T]]], undo: Callable[[list[T]], Awaitable[Any]]
    ) -> list[T]:
        """T4: what a cancelled receive took is given back at once."""
        gone = False

        async def run() -> list[T]:
            try:
                found = await take()
            except TransportError:
                if gone:
                    return []  # nobody is left to be told
                raise
            if gone or self.closing:
                await undo(found)
                return []
            return found

        task = asyncio.get_running_loop().create_task(run())
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            gone = True
            if task.done() and not task.cancelled() and task.exception() is None:
                late = asyncio.ensure_future(undo(task.result()))
                self._taking.add(late)
                late.add_done_callback(self._taking.discard)
            raise

    def _ended(self) -> bool:
        return self.closing or not self._is_open()
