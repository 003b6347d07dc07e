"""Sockets, logins, TLS, several hosts, and what a URL may say."""

from __future__ import annotations

import re
import shutil

import pytest

from bananas_core.errors import ResultBackendError, ResultBackendUnavailable
from bananas_core.testing.conformance.support import a_job
from integration.postgres.support import client_of, pair_on, received
from integration.servers import PostgresServer
from integration.servers.base import HOST, free_port
from integration.servers.need import need


async def works(url: str) -> None:
    """A job goes there and comes back."""
    pair = pair_on(url, "connections")
    await pair.open()
    await pair.backend.put([put := a_job()])
    (claim,) = await received(pair, "s")
    assert claim.id == put.id
    assert await pair.backend.wait([put.id], 0.1) == []
    await pair.close()


async def test_it_tells_what_it_talks_to(server: PostgresServer) -> None:
    pair = pair_on(server.url, "connections")
    await pair.open()
    for driver in (pair.transport, pair.backend):
        said = driver.versions()  # type: ignore[attr-defined]
        assert re.fullmatch(r"PostgreSQL \d+\.\d+.*", said["server"])
        assert re.fullmatch(r"asyncpg [\d.]+", said["client"])
    await pair.close()


async def test_a_unix_socket(server: PostgresServer) -> None:
    await works(f"postgresql://postgres@:{server.port}/postgres?host={server.folder}")


async def test_the_first_host_that_takes_writes(server: PostgresServer) -> None:
    await works(server.url.replace(HOST, f"{HOST}:{free_port()},{HOST}"))


async def test_a_login() -> None:
    need(PostgresServer)
    with PostgresServer(password="right word") as server:
        await works(server.url)
        with pytest.raises(ResultBackendError) as caught:
            await pair_on(server.url.replace("right", "wrong"), "connections").open()
        assert not isinstance(caught.value, ResultBackendUnavailable)
        assert "wrong%20word" not in str(caught.value)
        assert "wrong word" not in str(caught.value)


async def test_a_user_who_may_not_make_tables_uses_those_that_are_there(
    server: PostgresServer,
) -> None:
    await works(server.url)
    with client_of(server) as client:
        client.execute("CREATE USER plain")
        url = server.url.replace("postgres@", "plain@")
        with pytest.raises(ResultBackendError, match="permission"):
            await pair_on(url, "connections").open()
        client.execute("GRANT USAGE ON SCHEMA bananas TO plain")
        for kind in ("TABLES", "SEQUENCES", "FUNCTIONS"):
            client.execute(f"GRANT ALL ON ALL {kind} IN SCHEMA bananas TO plain")  # type: ignore[arg-type]
        await works(url)
        with pytest.raises(ResultBackendError, match="permission"):
            await pair_on(url + "?schema=other", "connections").open()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
async def test_tls() -> None:
    need(PostgresServer)
    with PostgresServer(tls=True) as server:
        await works(server.url)
        await works(server.url.replace("127.0.0.1", "localhost"))
        plain = server.url.partition("?")[0]
        await works(plain + "?sslmode=require")
        with pytest.raises(ResultBackendError):  # nobody vouches for its certificate
            await pair_on(plain + "?sslmode=verify-full", "connections").open()
        with pytest.raises(ResultBackendError):
            await pair_on(plain + "?sslmode=disable", "connections").open()
