"""Jobs that are submitted in a caller's own transaction, on every kind of connection: they exist if
and only if it commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg.rows import dict_row

from bananas import Bananas
from bananas_core.errors import ConfigurationError, ResultBackendError, UnsupportedCapability
from bananas_core.job import JobState
from bananas_core.testing.conformance.harness import eventually
from bananas_core.testing.conformance.support import a_job
from bananas_plugins.unique import Unique
from integration.postgres.support import pair_on, received
from integration.servers import PostgresServer
from integration.servers.need import need


class Undone(Exception):
    """Makes a transaction roll back."""


@pytest.fixture
async def app(url: str, namespace: str) -> AsyncIterator[Bananas]:
    found = Bananas(url, namespace=namespace)

    @found.task(name="add")
    async def add(a: int, b: int = 1) -> int:
        return a + b

    async with found:
        yield found


@asynccontextmanager
async def on_asyncpg(url: str) -> AsyncIterator[Any]:
    connection: Any = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def on_asyncpg_pool(url: str) -> AsyncIterator[Any]:
    async with (
        asyncpg.create_pool(url, min_size=1, max_size=1) as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        yield connection


@asynccontextmanager
async def on_psycopg(url: str) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(url, row_factory=dict_row) as connection:
        yield connection


@asynccontextmanager
async def on_blocking_psycopg(url: str) -> AsyncIterator[Any]:
    with psycopg.connect(url) as connection:
        yield connection


def alchemy(url: str, driver: str) -> str:
    return url.replace("postgresql://", f"postgresql+{driver}://")


@asynccontextmanager
async def on_sqlalchemy(url: str) -> AsyncIterator[Any]:
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(alchemy(url, "asyncpg"))
    try:
        async with engine.begin() as connection:
            yield connection
    finally:
        await engine.dispose()


@asynccontextmanager
async def on_sqlalchemy_session(url: str) -> AsyncIterator[Any]:
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    engine = create_async_engine(alchemy(url, "psycopg"))
    try:
        async with AsyncSession(engine) as session, session.begin():
            yield session
    finally:
        await engine.dispose()


@asynccontextmanager
async def on_blocking_sqlalchemy(url: str) -> AsyncIterator[Any]:
    from sqlalchemy import create_engine

    engine = create_engine(alchemy(url, "psycopg"))
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


@asynccontextmanager
async def on_blocking_session(url: str) -> AsyncIterator[Any]:
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session

    engine = create_engine(alchemy(url, "psycopg"))
    try:
        with Session(engine) as session, session.begin():
            yield session
    finally:
        engine.dispose()


KINDS = [
    on_asyncpg,
    on_asyncpg_pool,
    on_psycopg,
    on_blocking_psycopg,
    on_sqlalchemy,
    on_sqlalchemy_session,
    on_blocking_sqlalchemy,
    on_blocking_session,
]
every_kind = pytest.mark.parametrize("begin", KINDS, ids=lambda kind: kind.__name__)


@every_kind
async def test_jobs_exist_once_it_commits(app: Bananas, url: str, begin: Any) -> None:
    add = app.tasks["add"]
    async with begin(url) as tx:
        jobs = [await add.job(1).submit(tx=tx)]
        jobs += await add.submit_many([{"a": n} for n in range(3)], tx=tx)
        jobs.append(await app.submit_job("add", {"a": 1}, tx=tx, delay=60))
        jobs.append(await add.job(1).options(job_id=jobs[0].id).submit(tx=tx))
        ids = [job.id for job in jobs]
        assert await app.backend.get(ids) == [None] * 6
    states = [job and job.state for job in await app.backend.get(ids)]
    assert states == [JobState.PENDING] * 4 + [JobState.SCHEDULED, JobState.PENDING]


@every_kind
async def test_they_never_do_if_it_rolls_back(app: Bananas, url: str, begin: Any) -> None:
    add, ids = app.tasks["add"], []
    with suppress(Undone):
        async with begin(url) as tx:
            ids.append((await add.job(1).submit(tx=tx)).id)
            ids.append((await add.job(1).options(delay=1).submit(tx=tx)).id)
            raise Undone
    assert await app.backend.get(ids) == [None, None]
    assert (await app.backend.events("")).events == ()


async def test_who_waits_gets_them_soon(app: Bananas, url: str, namespace: str) -> None:
    pair = pair_on(url, namespace)
    await pair.open()
    waiting = asyncio.create_task(received(pair, "s", 1, 20.0))
    async with on_asyncpg(url) as tx:
        job = await app.tasks["add"].job(1).submit(tx=tx)
        done, _ = await asyncio.wait({waiting}, timeout=1.3)
        assert not done
    async with asyncio.timeout(3.0):
        (claim,) = await waiting
    assert claim.id == job.id
    await pair.close()


async def test_for_another_transport_due_sends_them(url: str, namespace: str) -> None:
    backend = pair_on(url, namespace).backend
    await backend.open(guard=True)
    put = a_job()
    async with on_asyncpg(url) as tx:
        (answer,) = await backend.put([put], tx=tx)
        assert not answer.send
        assert await backend.due(10) == ([], False)

    async def sent() -> bool:
        ready, _ = await backend.due(10)
        return [item.id for item in ready] == [put.id]

    await eventually(sent, 3.0)
    await backend.close()


async def test_what_protects_nothing_is_refused(app: Bananas, url: str) -> None:
    spec = app.tasks["add"].job(1)
    connection: Any = await asyncpg.connect(url)
    with pytest.raises(ConfigurationError, match="no transaction"):
        await spec.submit(tx=connection)
    await connection.close()
    with (
        psycopg.connect(url, autocommit=True) as plain,
        pytest.raises(ConfigurationError, match="no transaction"),
    ):
        await spec.submit(tx=plain)
    with pytest.raises(UnsupportedCapability, match="object"):
        await spec.submit(tx=object())


async def test_a_unique_key_is_refused(app: Bananas, url: str) -> None:
    spec = app.tasks["add"].job(1).options(unique=Unique())
    async with on_asyncpg(url) as tx:
        with pytest.raises(UnsupportedCapability, match="unique"):
            await spec.submit(tx=tx)


async def test_another_database_is_refused(app: Bananas, namespace: str) -> None:
    need(PostgresServer)
    with PostgresServer() as other:
        pair = pair_on(other.url, namespace)
        await pair.open()
        async with on_asyncpg(other.url) as tx:
            with pytest.raises(ConfigurationError, match="not to postgresql"):
                await app.tasks["add"].job(1).submit(tx=tx)
        await pair.close()
    async with on_psycopg(app.settings.broker_url) as tx:
        with pytest.raises(Exception, match="division"):
            await tx.execute("SELECT 1 / 0")
        with pytest.raises(ResultBackendError, match="rolled back") as caught:
            await app.tasks["add"].job(1).submit(tx=tx)
        assert isinstance(caught.value.__cause__, psycopg.Error)


@pytest.fixture
def django(url: str) -> Iterator[Any]:
    from django import setup
    from django.conf import settings
    from django.db import connections

    parts = psycopg.conninfo.conninfo_to_dict(url)
    place = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts["dbname"],
        "USER": parts["user"],
        "HOST": parts["host"],
        "PORT": parts["port"],
    }
    if not settings.configured:
        settings.configure(DATABASES={"default": place})
        setup()
    yield connections["default"]
    connections.close_all()


@contextmanager
def blocking_app(url: str, namespace: str) -> Iterator[Bananas]:
    app = Bananas(url, namespace=namespace)

    @app.task(name="add")
    def add(a: int, b: int = 1) -> int:
        return a + b

    try:
        yield app
    finally:
        app.close_blocking()


def test_django_and_blocking_code(django: Any, url: str, namespace: str) -> None:
    from django.db import connection, transaction

    with blocking_app(url, namespace) as app:
        add = app.tasks["add"]

        def states(ids: list[str]) -> list[JobState | None]:
            found = app.run_blocking(lambda desk: desk.backend.get(ids))
            return [job and job.state for job in found]

        with transaction.atomic():
            jobs = [add.job(1).submit_blocking(tx=connection)]
            jobs.append(add.job(2).options(delay=60).submit_blocking(tx=django))
            jobs += add.submit_many_blocking([{"a": 1}], tx=connection)
            ids = [job.id for job in jobs]
            assert states(ids) == [None, None, None]
        assert states(ids) == [JobState.PENDING, JobState.SCHEDULED, JobState.PENDING]
        with suppress(Undone), transaction.atomic():
            lost = add.job(1).submit_blocking(tx=connection)
            raise Undone
        assert states([lost.id]) == [None]
        with pytest.raises(ConfigurationError, match="atomic"):
            add.job(1).submit_blocking(tx=connection)
        with psycopg.connect(url) as plain:
            kept = add.job(1).submit_blocking(tx=plain)
            assert states([kept.id]) == [None]
        assert states([kept.id]) == [JobState.PENDING]
