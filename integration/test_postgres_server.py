"""The PostgreSQL servers that other tests start, as processes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psycopg
import pytest

from integration.servers import PgBouncerServer, PostgresServer, ServerFailed
from integration.servers.need import need


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    need(PostgresServer)
    with PostgresServer(process=True) as found:
        yield found


def ask(url: str, question: str) -> object:
    with psycopg.connect(url, autocommit=True, connect_timeout=5) as client:
        cursor = client.execute(question)  # type: ignore[arg-type]
        row = cursor.fetchone() if cursor.description else None
        return row and row[0]


@pytest.mark.parametrize("kill", [False, True], ids=["in order", "kill -9"])
def test_a_restart_keeps_port_and_data(server: PostgresServer, kill: bool) -> None:
    ask(server.url, f"CREATE TABLE kept{kill:d} AS SELECT 1")
    pid, children = server.pid, server.children()
    assert children
    server.restart(kill=kill)
    assert server.pid != pid
    assert not any(os.path.exists(f"/proc/{child}") for child in children)
    assert ask(server.url, f"SELECT count(*) FROM kept{kill:d}") == 1


def test_a_paused_server_answers_when_resumed(server: PostgresServer) -> None:
    server.pause()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.url, connect_timeout=2)
    server.resume()
    assert ask(server.url, "SELECT 1") == 1


def test_a_pooler_is_between(server: PostgresServer) -> None:
    need(PgBouncerServer)
    with PgBouncerServer(server) as pooler, psycopg.connect(pooler.url) as client:
        row = client.execute("SELECT pg_backend_pid()").fetchone()
        assert row is not None
        assert row[0] != client.info.backend_pid


def test_a_server_that_does_not_start_says_why() -> None:
    need(PostgresServer)
    server = PostgresServer(settings={"no_such_setting": "1"}, process=True)
    with pytest.raises(ServerFailed, match=r"(?s)ended at its start.*no_such_setting"):
        server.start()
    assert not server.folder.exists()
