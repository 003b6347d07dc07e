"""Waiting for a token and taking what it tells of, in one go.

The call of the script that receives is sent right behind the command that waits, so the server
runs it the moment a token comes: a job for an idle worker arrives without another round trip.
Whoever does not want the answer any more says so to the server first, and then the script takes
nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import count
from typing import Any, Final

from redis.exceptions import RedisError, ResponseError

from bananas_brokers.redis.connect import connector
from bananas_brokers.redis.errors import NotOpen
from bananas_brokers.redis.store import Store
from bananas_brokers.redis.wire import Wire
from bananas_core.errors import BananasError

SLICE: Final = 1.0
"""Seconds of one wait at most; then one looks: leases end, and the inbox fills, silently."""
_KEPT: Final = 60_000
"""Milliseconds for which a wait that was called off is known."""


class _Line:
    """A connection of one waiter."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.client: int | None = None
        """What the server calls it, if it says so."""
        self._turn = 0

    async def connect(self) -> None:
        await self.wire.open()
        if not self.wire.connected:
            await self.wire.connect()
        if self._turn != self.wire.turn:
            self._turn, self.client = self.wire.turn, None
            try:
                self.client = int(await self.wire.call("CLIENT", "ID"))
            except ResponseError:
                pass  # not allowed: a wait that is called off ends with its slice


class Waits:
    """One connection for each receive that waits at the same time; they are kept for the next."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._connect = connector(store.settings, store.keys)
        self._free: list[_Line] = []
        self._busy: dict[str, _Line] = {}
        self._name, self._numbers = secrets.token_hex(6), count()

    def ticket(self) -> str:
        """The name of one wait."""
        return f"{self._name}-{next(self._numbers)}"

    async def take(
        self,
        ticket: str,
        queues: Sequence[str],
        seconds: float,
        script: tuple[str, tuple[str, ...], Sequence[Any]],
    ) -> Any | None:
        """The script's answer once something is in one of ``queues``, or after ``seconds``. None:
        the server did not know the script. Not to be cancelled; see ``call_off``.

        Raises:
            BananasError: unavailable; it may have happened or not.
        """
        store = self._store
        line = self._free.pop() if self._free else _Line(self._wire())
        self._busy[ticket] = line
        try:
            await line.connect()
            bells = [store.keys.wake(queue) for queue in queues]
            token = line.wire.post("BLPOP", *bells, max(0.01, min(seconds, SLICE)))
            answer = await store.answer(line.wire, *script)
            await token
        except (RedisError, OSError, NotOpen) as error:
            await line.wire.close()
            raise store.translated(error) from error
        finally:
            del self._busy[ticket]
            if line.wire.is_open():
                self._free.append(line)
        return answer

    async def call_off(self, ticket: str) -> None:
        """From now on the wait takes nothing. Safe to repeat."""
        line = self._busy.get(ticket)
        if line is None:
            return
        try:
            await self._store.call("SET", self._store.keys.off(ticket), 1, "PX", _KEPT)
            if line.client is not None:
                await self._store.call("CLIENT", "UNBLOCK", line.client)
        except BananasError:
            pass  # what it still takes is given back

    async def call_all_off(self) -> None:
        for ticket in list(self._busy):
            await self.call_off(ticket)

    async def close(self) -> None:
        """After the last wait."""
        free, self._free = self._free, []
        for line in free:
            await line.wire.close()

    def _wire(self) -> Wire:
        return Wire(self._connect, self._store.settings.socket_timeout + SLICE)
