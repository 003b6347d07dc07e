"""The two threads of a database: one that writes, one that reads and watches."""

from __future__ import annotations

import asyncio
import queue
import random
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, TypeVar

from bananas_brokers.sqlite.bell import Bell
from bananas_brokers.sqlite.errors import NotOpen, busy
from bananas_brokers.sqlite.settings import Settings
from bananas_brokers.sqlite.turnstile import Turnstile
from bananas_brokers.sqlite.tx import Operation, Tx

T = TypeVar("T")

_BATCH: Final = 256
"""Most operations in one commit."""
_WATCH: Final = (0.02, 0.05)
"""Seconds between two looks for other processes' commits: after one was seen, and when idle."""


class _Call:
    __slots__ = ("error", "future", "loop", "operation", "result")

    def __init__(
        self,
        operation: Operation[Any],
        loop: asyncio.AbstractEventLoop,
        future: asyncio.Future[Any],
    ) -> None:
        self.operation = operation
        self.loop = loop
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None


class Lane(ABC):
    """A thread with a connection of its own that runs operations in the order given."""

    patience = 0.0
    """Seconds that SQLite itself waits for a lock, with sleeps that grow to 100 ms."""

    def __init__(self, settings: Settings, bell: Bell, name: str) -> None:
        self.settings = settings
        self.bell = bell
        self._queue: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._connection: sqlite3.Connection | None = None
        self._gate = threading.Lock()
        self._closed = False
        self._stop_by = float("inf")
        self._thread = threading.Thread(target=self._main, name=f"bananas-sqlite-{name}")
        self._thread.daemon = True
        self._thread.start()

    def submit(self, operation: Operation[T]) -> asyncio.Future[T]:
        """Queue an operation. The future fails with an ``sqlite3.Error`` or what it raised."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        with self._gate:
            if self._closed:
                future.set_exception(NotOpen())
            else:
                self._queue.put(_Call(operation, loop, future))
        return future

    def stop(self) -> None:
        """Run what is queued, close the connection, end the thread. Blocks; a file that is
        still locked by others after 2 s fails what is queued."""
        self._stop_by = time.monotonic() + 2
        with self._gate:  # nothing may be queued behind the None
            self._closed = True
            self._queue.put(None)
        self._thread.join(self.settings.busy_timeout + 5)

    def connection(self) -> sqlite3.Connection:
        """The lane's own connection, made when it is first needed."""
        if self._connection is None:
            deadline = time.monotonic() + self.settings.busy_timeout
            self._connection = _connect(self.settings, self.patience, self.expired(deadline))
        return self._connection

    def expired(self, deadline: float) -> Callable[[], bool]:
        """Whether it is time to stop waiting for a lock."""
        return lambda: time.monotonic() >= min(deadline, self._stop_by)

    def reset(self) -> None:
        """Drop the connection after an error that may have left it unusable."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error:
                pass

    def _main(self) -> None:
        running = True
        while running:
            calls = self._next()
            if calls and calls[-1] is None:
                running = False
            work = [call for call in calls if call is not None]
            if work:
                try:
                    self.run(work)
                except BaseException as error:
                    for call in work:
                        call.error = error
                    self.reset()
                _answer(work)
        self.reset()

    def _next(self) -> list[_Call | None]:
        calls = [self.take()]
        while calls[-1] is not None and len(calls) < _BATCH:
            try:
                calls.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return calls

    def take(self) -> _Call | None:
        return self._queue.get()

    @abstractmethod
    def run(self, calls: list[_Call]) -> None:
        """Give each call its result or error; raise if that holds for all of them."""


class WriteLane(Lane):
    """Group commit: all that is queued goes into one transaction, each operation in a savepoint
    of its own, and nobody is answered before the commit."""

    def __init__(self, settings: Settings, bell: Bell) -> None:
        self._turn = Turnstile(settings.path)
        super().__init__(settings, bell, "write")

    def run(self, calls: list[_Call]) -> None:
        connection = self.connection()
        topics: set[str] = set()
        deadline = time.monotonic() + self.settings.busy_timeout
        with self._turn.take(deadline):
            _patiently(lambda: connection.execute("BEGIN IMMEDIATE"), self.expired(deadline))
        try:
            for call in calls:
                topics |= self._one(connection, call, alone=len(calls) == 1)
            if connection.in_transaction:
                connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self.bell.ring(topics)

    def reset(self) -> None:
        super().reset()
        self._turn.close()

    def abandon(self) -> None:
        """In a forked child: keep no lock of the parent's alive."""
        self._turn.close()

    def _one(self, connection: sqlite3.Connection, call: _Call, *, alone: bool) -> set[str]:
        if call.future.cancelled():
            return set()  # nobody wants it any more, and it hasn't happened
        tx = Tx(connection)
        if not alone:
            connection.execute("SAVEPOINT one")
        try:
            call.result = call.operation(tx)
        except Exception as error:
            if not connection.in_transaction:
                raise  # SQLite rolled all of it back (disk full, I/O error)
            connection.execute("ROLLBACK" if alone else "ROLLBACK TO one")
            call.error = error
            tx.topics.clear()
        if not alone:
            connection.execute("RELEASE one")
        return tx.topics


class ReadLane(Lane):
    """Reads, each in a snapshot of its own; while somebody waits, looks for other processes'
    commits and rings the bell for them."""

    def __init__(
        self, settings: Settings, bell: Bell, changed: Callable[[sqlite3.Connection, bool], None]
    ) -> None:
        self._changed = changed
        self._pause = _WATCH[0]
        self._look_at = 0.0
        self._version: int | None = None
        self.patience = settings.busy_timeout  # reads meet locks only while a log is recovered
        super().__init__(settings, bell, "read")

    def nudge(self) -> None:
        """Somebody begins to wait: start watching."""
        self.submit(_nothing).add_done_callback(_heed)

    def take(self) -> _Call | None:
        while True:
            if not self.bell.waiting:
                self._version = None
                return self._queue.get()
            left = self._look_at - time.monotonic()
            if left > 0:
                try:
                    return self._queue.get(timeout=left)
                except queue.Empty:
                    pass
            self._watch()

    def run(self, calls: list[_Call]) -> None:
        for call in calls:
            if call.future.cancelled():
                continue
            try:
                connection = self.connection()
                connection.execute("BEGIN")
                try:
                    call.result = call.operation(Tx(connection))
                finally:
                    if connection.in_transaction:
                        connection.execute("COMMIT")
            except Exception as error:
                call.error = error
                if isinstance(error, sqlite3.DatabaseError):
                    self.reset()

    def _watch(self) -> None:
        try:
            connection = self.connection()
            (version,) = connection.execute("PRAGMA data_version").fetchone()
            if version != self._version:
                self._changed(connection, self._version is None)
                self._pause = _WATCH[0]
            else:
                self._pause = min(_WATCH[1], self._pause * 1.2)
            self._version = version
        except sqlite3.Error:
            self.reset()
            self._version, self._pause = None, 1.0  # waiters look for themselves each second
        self._look_at = time.monotonic() + self._pause


def _connect(
    settings: Settings, patience: float, expired: Callable[[], bool]
) -> sqlite3.Connection:
    connection = sqlite3.connect(
        settings.path, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        # Not only the busy handler: changing to WAL and recovering it don't ask it.
        connection.execute("PRAGMA busy_timeout = 100")
        _patiently(lambda: connection.execute("PRAGMA journal_mode = WAL").fetchall(), expired)
        level = "FULL" if settings.durable else "NORMAL"
        connection.execute(f"PRAGMA synchronous = {level}")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA cache_size = -16000")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
        connection.execute(f"PRAGMA busy_timeout = {int(patience * 1000)}")
    except BaseException:
        connection.close()
        raise
    return connection


def _patiently(attempt: Callable[[], object], expired: Callable[[], bool]) -> None:
    """Try until no lock is in the way; raises the last error when the time is over."""
    while True:
        try:
            attempt()
        except sqlite3.Error as error:
            if not busy(error) or expired():
                raise
            time.sleep(random.uniform(0.00005, 0.0003))
        else:
            return


def _nothing(_: Tx) -> None:
    """Wakes a lane."""


def _heed(future: asyncio.Future[None]) -> None:
    """Closed meanwhile, or the file can't be read: whoever waits finds out for themselves."""
    if not future.cancelled():
        future.exception()


def _answer(calls: list[_Call]) -> None:
    loops: dict[asyncio.AbstractEventLoop, list[_Call]] = {}
    for call in calls:
        loops.setdefault(call.loop, []).append(call)
    for loop, group in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve, group)
        except RuntimeError:
            pass  # that loop is closed, so nobody waits in it any more


def _resolve(calls: list[_Call]) -> None:
    for call in calls:
        if call.future.done():
            continue
        if call.error is None:
            call.future.set_result(call.result)
        else:
            call.future.set_exception(call.error)
