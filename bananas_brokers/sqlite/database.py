"""One file, opened once per process and shared by all transports and ledgers on it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections import Counter
from pathlib import Path
from typing import TypeVar

import msgspec

from bananas_brokers.sqlite import schema
from bananas_brokers.sqlite.bell import Bell
from bananas_brokers.sqlite.errors import NotOpen, translate
from bananas_brokers.sqlite.lanes import ReadLane, WriteLane
from bananas_brokers.sqlite.settings import Settings, check_place
from bananas_brokers.sqlite.tx import Operation, job_topic
from bananas_core.errors import BananasError, ConfigurationError
from bananas_core.job import FINAL, Event

T = TypeVar("T")

_OPEN_WITHIN = 7.0
"""Seconds; with those that closing may take, an open fails within 10."""

EVENTS = msgspec.msgpack.Decoder(list[Event])


class Database:
    """The lanes and the bell of one file. ``fused``: namespaces whose pending records are
    received without messages."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.users = 0
        self.fused: Counter[int] = Counter()
        self.bell = Bell()
        self.writes = WriteLane(settings, self.bell)
        self.reads = ReadLane(settings, self.bell, self._changed_elsewhere)
        self._seen = 0

    def stop(self) -> None:
        """Blocks until what was queued is done."""
        self.writes.stop()
        self.reads.stop()

    def _changed_elsewhere(self, connection: sqlite3.Connection, first: bool) -> None:
        """Runs in the read lane after another connection's commit (maybe our own writer's)."""
        (last,) = connection.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()
        if first:
            self.bell.ring()  # what happened before we watched is unknown
        else:
            self.bell.ring_queues()
            if last > self._seen and self.bell.waits_for_jobs():
                self.bell.ring(self._finals(connection))
        self._seen = last

    def _finals(self, connection: sqlite3.Connection) -> set[str]:
        rows = connection.execute("SELECT ns, body FROM events WHERE seq > ?", (self._seen,))
        return {
            job_topic(ns, event.id)
            for ns, body in rows
            for event in EVENTS.decode(body)
            if event.new in FINAL
        }


class _Registry:
    """The databases of this process. A child made by fork gets a new one: SQLite connections
    don't survive a fork, and must not even be closed there."""

    def __init__(self, inherited: _Registry | None = None) -> None:
        self.pid = os.getpid()
        self.inherited = inherited
        self._lock = threading.Lock()
        self._databases: dict[Settings, Database] = {}
        if inherited is not None:
            for database in inherited._databases.values():
                database.writes.abandon()

    def acquire(self, settings: Settings) -> Database:
        with self._lock:
            database = self._databases.get(settings)
            if database is None:
                database = self._databases[settings] = Database(settings)
            database.users += 1
            return database

    def release(self, database: Database) -> None:
        """Blocks while the last user waits for the end of what is queued."""
        with self._lock:
            database.users -= 1
            if database.users:
                return
            del self._databases[database.settings]
        database.stop()


_current: _Registry | None = None


def _registry() -> _Registry:
    global _current
    if _current is None or _current.pid != os.getpid():
        _current = _Registry(_current)
    return _current


class Handle:
    """One user's hold on a database: opens, reopens after a fork, translates errors."""

    def __init__(
        self,
        settings: Settings,
        namespace: str,
        refused: type[BananasError],
        unavailable: type[BananasError],
    ) -> None:
        self.settings = settings
        self.namespace = namespace
        self.ns = 0
        self._errors = (refused, unavailable)
        self._fused = False
        self._database: Database | None = None
        self._pid = 0

    def is_open(self) -> bool:
        return self._database is not None

    @property
    def database(self) -> Database:
        """Of this process, also right after a fork.

        Raises:
            BananasError: not open.
        """
        if self._database is None:
            raise self._translated(NotOpen())
        if self._pid != os.getpid():
            self._join()
        return self._database

    async def open(self) -> None:
        """Connects and prepares the tables. Safe to repeat."""
        if self._database is not None:
            return
        if sqlite3.sqlite_version_info < schema.OLDEST_SQLITE:
            raise ConfigurationError(
                f"SQLite {sqlite3.sqlite_version} is too old; 3.35 or later is needed"
            )
        check_place(self.settings.path)
        folder = Path(self.settings.path).parent
        if not folder.is_dir():
            # Made silently, a mistyped path would take jobs that no worker ever sees.
            raise ConfigurationError(
                f"{self.settings.path}: there is no folder {folder}; create it or correct the URL"
            )
        self._join()
        try:
            async with asyncio.timeout(_OPEN_WITHIN):
                self.ns = await self.write(lambda tx: schema.prepare(tx.connection, self.namespace))
        except TimeoutError as error:
            await self.close()
            raise self._translated(TimeoutError(0, "the file stayed locked")) from error
        except BaseException:
            await self.close()
            raise

    def fuse(self) -> None:
        """Tell the transports of this process that pending records need no messages."""
        if not self._fused:
            self._fused = True
            self.database.fused[self.ns] += 1

    async def close(self) -> None:
        """Waits for what is queued. Safe to repeat."""
        database, self._database = self._database, None
        if database is not None and self._fused:
            self._fused = False
            database.fused[self.ns] -= 1
        if database is not None and self._pid == os.getpid():
            await asyncio.to_thread(_registry().release, database)

    async def write(self, operation: Operation[T]) -> T:
        """Run in the next commit; answers after it. A cancelled call has happened or not."""
        try:
            return await self.database.writes.submit(operation)
        except (sqlite3.Error, NotOpen, OSError) as error:
            raise self._translated(error) from error

    async def read(self, operation: Operation[T]) -> T:
        """Run in a snapshot that has all confirmed writes."""
        try:
            return await self.database.reads.submit(operation)
        except (sqlite3.Error, NotOpen, OSError) as error:
            raise self._translated(error) from error

    def _join(self) -> None:
        self._database = _registry().acquire(self.settings)
        self._pid = os.getpid()
        if self._fused:
            self._database.fused[self.ns] += 1

    def _translated(self, error: Exception) -> BananasError:
        return translate(error, self.settings.path, *self._errors)
