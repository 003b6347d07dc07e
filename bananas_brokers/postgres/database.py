"""One namespace of one database, as the event loop of one process uses it."""

from __future__ import annotations

import asyncio
import os
import random
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from bananas_brokers.postgres.bell import Bell
from bananas_brokers.postgres.connect import Facts, connect, look, session_settings
from bananas_brokers.postgres.errors import CAUGHT, to_repeat, usable_after
from bananas_brokers.postgres.pool import Pool
from bananas_brokers.postgres.statements import Statements

if TYPE_CHECKING:
    from bananas_brokers.postgres.connect import Connection
    from bananas_brokers.postgres.settings import Settings

T = TypeVar("T")
Rows = list[Any]
Fetch = Callable[[str, tuple[Any, ...]], Awaitable[Rows]]
"""Text of a statement and its values → rows."""

_TRIES: Final = 20
_UNNAMED: Final = ""


class Tx:
    """One transaction, or one connection of a caller that is in the middle of theirs."""

    def __init__(self, statements: Statements, fetch: Fetch) -> None:
        self._statements = statements
        self._fetch = fetch

    async def run(self, name: str, *values: Any) -> Rows:
        """The rows of a statement of ``sql/``."""
        return await self._fetch(self._statements[name], values)

    async def query(self, text: str, *values: Any) -> Rows:
        """The rows of a statement that was put together; ``{schema}`` is replaced."""
        return await self._fetch(self._statements.fill(text), values)


class Database:
    """Connections, statements and the bell. All methods raise what asyncpg raises."""

    def __init__(self, settings: Settings, namespace: str) -> None:
        self.settings = settings
        self.namespace = namespace
        self.users = 0
        self.fused = 0
        """Ledgers whose pending records are received without messages."""
        self.ns = 0
        self.place = 0
        self.facts = Facts()
        self.ready = asyncio.Lock()
        """Held while somebody prepares the tables."""
        self.statements = Statements(settings.schema)
        self._known = False
        self._pool = Pool(self._make, settings.pool_size)
        self._running: set[asyncio.Task[Any]] = set()
        self.bell = Bell(self)

    async def run(self, name: str, values: tuple[Any, ...]) -> Rows:
        """One statement of ``sql/`` as a transaction of its own; repeated if it met another's."""
        return await self.select(self.statements[name], values)

    async def select(self, text: str, values: tuple[Any, ...]) -> Rows:
        """The same for the text of a statement, in which ``{schema}`` is replaced."""
        filled = self.statements.fill(text)

        async def once(connection: Connection) -> Rows:
            if not self.facts.pooled:
                rows: Rows = await connection.fetch(filled, *values)
                return rows
            return await self._framed(connection, lambda tx: tx.query(filled, *values))

        return await self._repeated(once)

    async def loosely(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        """Run ``work`` with each statement a transaction of its own; once."""

        async def fetch(text: str, values: tuple[Any, ...]) -> Rows:
            return await self.select(text, values)

        return await work(Tx(self.statements, fetch))

    async def transact(self, work: Callable[[Tx], Awaitable[T]], *, reading: bool = False) -> T:
        """Run ``work`` in a transaction; again from the start if it met another's."""
        return await self._repeated(
            lambda connection: self._framed(connection, work, reading=reading)
        )

    async def shielded(self, call: Awaitable[T]) -> T:
        """Whoever waits may be cancelled; what was begun goes on, and its connection with it."""
        task = asyncio.ensure_future(call)
        self._running.add(task)
        task.add_done_callback(self._ran)
        return await asyncio.shield(task)

    async def connection(self) -> Connection:
        """A connection outside the pool, of whoever asks."""
        return await self._make()

    async def close(self) -> None:
        await self.bell.close()
        if self._running:
            await asyncio.wait(self._running)
        await self._pool.close()

    async def _repeated(self, once: Callable[[Connection], Awaitable[T]]) -> T:
        for turn in range(_TRIES):
            try:
                return await self._alone(once)
            except CAUGHT as error:
                if turn == _TRIES - 1 or not to_repeat(error):
                    raise
                await asyncio.sleep(random.uniform(0, 0.005 * 2 ** min(turn, 6)))
        raise AssertionError("unreachable")

    async def _alone(self, once: Callable[[Connection], Awaitable[T]]) -> T:
        """``once`` with a connection, within the time that a call may take."""
        loop = asyncio.get_running_loop()
        connection = await self._pool.take()
        timer = loop.call_later(self.settings.timeout, connection.terminate)
        try:
            result = await once(connection)
        except BaseException as error:
            late = timer.when() <= loop.time()
            if not usable_after(error):
                connection.terminate()
            self._pool.give_back(connection)
            if late and not isinstance(error, asyncio.CancelledError):
                seconds = self.settings.timeout
                raise TimeoutError(f"no answer within {seconds:g} s") from error
            raise
        finally:
            timer.cancel()
        self._pool.give_back(connection)
        return result

    async def _framed(
        self, connection: Connection, work: Callable[[Tx], Awaitable[T]], *, reading: bool = False
    ) -> T:
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if reading else "BEGIN"
        if self.facts.pooled or reading:
            told = session_settings(self.settings, self.facts, reading=reading)
            begin = f"{begin};{told}"
        await connection.execute(begin)

        async def fetch(text: str, values: tuple[Any, ...]) -> Rows:
            rows: Rows
            if not self.facts.pooled:
                rows = await connection.fetch(text, *values)
            else:
                statement = await connection.prepare(text, name=_UNNAMED)
                rows = await statement.fetch(*values)
            return rows

        try:
            result = await work(Tx(self.statements, fetch))
        except Exception:
            if not connection.is_closed():
                await connection.execute("ROLLBACK")
            raise
        await connection.execute("COMMIT")
        return result

    async def _make(self) -> Connection:
        """A connection on which statements may run."""
        plain = self.facts.pooled or not self._known
        connection = await connect(self.settings, plain=plain)
        try:
            async with asyncio.timeout(self.settings.timeout):
                if not self._known:
                    self.facts = await look(connection, self.settings)
                    self._known = True
                    if not self.facts.pooled:  # made without what a direct one can do
                        await connection.close(timeout=1.0)
                        connection = await connect(self.settings, plain=False)
                if not self.facts.pooled:
                    await connection.execute(session_settings(self.settings, self.facts))
        except BaseException:
            connection.terminate()
            raise
        return connection

    def _ran(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited was told, or is gone


class _Registry:
    """The databases of this process, by event loop. A forked child begins anew and never touches
    what it inherited, which stays referenced so that nothing of it is finalized there."""

    def __init__(self, inherited: _Registry | None = None) -> None:
        self.pid = os.getpid()
        self.inherited = inherited
        self.loops: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, dict[tuple[Settings, str], Database]
        ] = weakref.WeakKeyDictionary()
        self.kept: list[object] = []
        if inherited is not None:
            self.kept = [*inherited.kept, *inherited.loops.items()]


_current: _Registry | None = None


def acquire(settings: Settings, namespace: str) -> Database:
    """The database that all drivers of this loop and process share."""
    global _current
    if _current is None or _current.pid != os.getpid():
        _current = _Registry(_current)
    for loop in [loop for loop in _current.loops if loop.is_closed()]:
        del _current.loops[loop]  # left open there; nothing can be said over it any more
    mine = _current.loops.setdefault(asyncio.get_running_loop(), {})
    database = mine.get((settings, namespace))
    if database is None:
        database = mine[settings, namespace] = Database(settings, namespace)
    database.users += 1
    return database


async def release(database: Database) -> None:
    """The last user closes it."""
    database.users -= 1
    if database.users or _current is None:
        return
    mine = _current.loops.get(asyncio.get_running_loop(), {})
    if mine.get((database.settings, database.namespace)) is database:
        del mine[database.settings, database.namespace]
    await database.close()
