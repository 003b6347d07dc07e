"""What transport and ledger have in common: opening, translated errors, the time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from bananas_brokers.postgres import schema
from bananas_brokers.postgres.database import Database, Rows, Tx, acquire, release
from bananas_brokers.postgres.errors import CAUGHT, Changed, NotOpen, translate
from bananas_brokers.postgres.records import Records
from bananas_brokers.postgres.settings import Settings
from bananas_core.clock import Clock
from bananas_core.errors import BananasError, ConfigurationError
from bananas_core.job import Ready

T = TypeVar("T")

_LOOSELY: Final = 2
"""Tries without locks, before others' changes are kept waiting."""
_OPEN_WITHIN: Final = 8.0
"""Seconds: with what closing takes, an open fails within 10."""


class Store:
    """One driver's hold on a database. ``clock``: for tests that move time; else the server's
    clock counts, and only that. On another event loop, or after a fork, it connects anew."""

    def __init__(
        self,
        settings: Settings,
        namespace: str,
        clock: Clock | None,
        refused: type[BananasError],
        unavailable: type[BananasError],
    ) -> None:
        self.settings = settings
        self.namespace = namespace
        self.guard = True
        self.horizon = 0.0
        self._fused = False
        self._clock = clock
        self._errors = (refused, unavailable)
        self._opened = False
        self._database: Database | None = None
        self._home: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._ns = 0
        self.place = 0
        """A number that these tables have, and no others."""

    def is_open(self) -> bool:
        return self._opened

    def is_here(self) -> bool:
        """Whether it was last used on this loop and in this process."""
        return self._home == (os.getpid(), asyncio.get_running_loop())

    @property
    def database(self) -> Database:
        """Of this loop and process. Raises what an unopened driver raises."""
        if not self._opened:
            raise self.translated(NotOpen())
        if self._database is None or not self.is_here():
            self._join()
        assert self._database is not None
        return self._database

    @property
    def ns(self) -> int:
        return self._ns

    def now(self) -> float | None:
        """What statements take as the time: None where the server's clock counts."""
        return None if self._clock is None else self._clock.now()

    async def open(self) -> None:
        """Connect and prepare the tables. Safe to repeat.

        Raises:
            BananasError: unavailable within 10 s, or refused.
            ConfigurationError: tables of a newer version, or a server that can't be used.
        """
        if self._opened:
            return
        self._opened = True
        self._join()
        try:
            async with asyncio.timeout(_OPEN_WITHIN):
                database = self.database
                async with database.ready:
                    if not database.ns:
                        await self._prepare(database)
            self._ns, self.place = database.ns, database.place
        except CAUGHT as error:
            await self.close()
            raise self.translated(error) from error
        except BaseException:
            await self.close()
            raise

    def fuse(self) -> None:
        """Tell the transports of this process that pending records need no messages."""
        if not self._fused:
            self._fused = True
            self.database.fused += 1

    async def close(self) -> None:
        """Waits for what is under way. Safe to repeat."""
        database, self._database = self._database, None
        self._opened = False
        if database is None or not self.is_here():
            return  # it is the parent process's, or its loop is closed
        if self._fused:
            self._fused = False
            database.fused -= 1
        await release(database)

    async def run(self, name: str, *values: Any) -> Rows:
        """One statement of ``sql/``. A cancelled call has happened or not."""
        return await self._call(lambda database: database.run(name, values))

    async def select(self, text: str, *values: Any) -> Rows:
        """One statement that only reads; ``{schema}`` is replaced."""
        return await self._call(lambda database: database.select(text, values))

    async def transact(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        """Run ``work`` in a transaction, maybe several times until it succeeds."""
        return await self._call(lambda database: database.transact(work))

    async def read(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        """Run ``work`` in a snapshot."""
        return await self._call(lambda database: database.transact(work, reading=True))

    async def decide(
        self, ids: Sequence[str], decision: Callable[[Records], T]
    ) -> tuple[T, list[Ready]]:
        """Read records, let ``decision`` change them, write them and wake who waits; all in two
        trips, unless somebody else changes one of them meanwhile. What must be done now is the
        second value."""

        async def work(records: Records, *, lock: bool = True) -> tuple[T, list[Ready]]:
            await records.load(ids, lock=lock)
            answer = decision(records)
            await records.flush()
            return answer, await records.ready()

        async def loosely(tx: Tx) -> tuple[Records, tuple[T, list[Ready]]]:
            records = self.records(tx)
            return records, await work(records, lock=False)

        for _ in range(_LOOSELY):
            try:
                database = self.database
                records, result = await database.shielded(database.loosely(loosely))
            except Changed:
                continue
            except CAUGHT as error:
                raise self.translated(error) from error
            self.tell(records)
            return result
        return await self.change(work)

    async def change(self, work: Callable[[Records], Awaitable[T]]) -> T:
        """Run ``work`` on records in a transaction, write what it changed, and wake who waits."""
        made: list[Records] = []

        async def run(tx: Tx) -> T:
            made[:] = [self.records(tx)]
            return await work(made[0])

        result = await self.transact(run)
        self.tell(made[0])
        return result

    def records(self, tx: Tx) -> Records:
        return Records(tx, self.ns, self.now(), guard=self.guard, horizon=self.horizon)

    def tell(self, records: Records) -> None:
        """Wake who waits for what was committed."""
        topics = [f"q{queue}" for queue in records.woken]
        topics += [f"j{job_id}" for job_id in records.ended]
        self.database.bell.tell(topics)

    def translated(self, error: Exception) -> BananasError:
        return translate(error, self.settings.label, *self._errors)

    async def _call(self, call: Callable[[Database], Awaitable[T]]) -> T:
        database = self.database
        try:
            return await database.shielded(call(database))
        except CAUGHT as error:
            raise self.translated(error) from error

    def _join(self) -> None:
        self._database = acquire(self.settings, self.namespace)
        self._home = (os.getpid(), asyncio.get_running_loop())
        if self._ns:
            self._database.ns, self._database.place = self._ns, self.place
        if self._fused:
            self._database.fused += 1

    async def _prepare(self, database: Database) -> None:
        label = self.settings.label

        async def prepare(tx: Tx) -> tuple[int, int]:
            facts = database.facts
            if facts.version < schema.OLDEST:
                raise ConfigurationError(
                    f"{label}: PostgreSQL {facts.version_name} is too old; 13 or later is needed"
                )
            if facts.encoding != "UTF8":
                raise ConfigurationError(
                    f"{label}: the database's encoding is {facts.encoding}; UTF8 is needed"
                )
            if facts.standby:
                raise TimeoutError("this server is a standby, which takes no writes")
            return await schema.prepare(tx, self.namespace)

        database.ns, database.place = await database.transact(prepare)
