"""Some connections that calls take in turn; one that is broken is replaced at the next call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from bananas_brokers.postgres.errors import NotOpen

if TYPE_CHECKING:
    from bananas_brokers.postgres.connect import Connection


class Pool:
    """Belongs to one event loop. Connections are made when they are needed."""

    def __init__(self, make: Callable[[], Awaitable[Connection]], size: int) -> None:
        self._make = make
        self._room = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._closed = False

    async def take(self) -> Connection:
        """A connection for the caller alone, who gives it back.

        Raises:
            PostgresError, InterfaceError, OSError, TimeoutError: none could be made.
        """
        await self._room.acquire()
        try:
            if self._closed:
                raise NotOpen
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():
                    return connection
            return await self._make()
        except BaseException:
            self._room.release()
            raise

    def give_back(self, connection: Connection) -> None:
        """One that is in the middle of anything is dropped."""
        self._room.release()
        if connection.is_closed():
            return
        if self._closed or connection.is_in_transaction():
            connection.terminate()
        else:
            self._idle.append(connection)

    async def close(self) -> None:
        """Those in use are closed when they come back."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            try:
                await connection.close(timeout=1.0)
            except Exception:
                connection.terminate()
