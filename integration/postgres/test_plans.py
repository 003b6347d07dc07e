"""What statements were planned to do while the tables were empty is what they do when these are
full, since plans are kept. So the index must be the one by which the work does not grow with what a
namespace has."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest

from bananas_brokers.postgres import documents, reads
from bananas_brokers.postgres.connect import connect, look, session_settings
from bananas_brokers.postgres.results import PostgresResultBackend
from bananas_brokers.postgres.settings import read_settings
from bananas_brokers.postgres.statements import Statements
from integration.servers import PostgresServer
from integration.servers.need import need

SCAN = re.compile(r"(?:Scan using (\w+) on \w+|(Seq Scan on jobs|Bitmap)).*\n\s*(Index Cond: .*)?")
OTHERS = {"get": reads.GET, "ended": reads.ENDED, "docs": documents.DOCS, "get_docs": documents.GET}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Of a server of its own: another test's rows, and what the server has learnt of them, would
    decide."""
    need(PostgresServer)

    async def make_tables(url: str) -> None:
        backend = PostgresResultBackend(url, "plans")
        await backend.open()
        await backend.close()

    with PostgresServer() as found:
        asyncio.run(make_tables(found.url))
        yield found.url


async def plan(url: str, name: str) -> tuple[str, list[tuple[str, str]]]:
    """The plan of a statement on a server whose tables nobody has counted; and the indexes in it,
    with the conditions that they serve."""
    settings = read_settings(url)
    statements = Statements(settings.schema)
    text = statements.fill(OTHERS[name]) if name in OTHERS else statements[name]
    connection = await connect(settings, plain=False)
    try:
        await connection.execute(session_settings(settings, await look(connection, settings)))
        await connection.execute(f"PREPARE tried AS {text}")
        values = ", ".join(["NULL"] * max(map(int, re.findall(r"\$(\d+)", text))))
        rows = await connection.fetch(f"EXPLAIN EXECUTE tried({values})")
    finally:
        await connection.close()
    said = "\n".join(row[0] for row in rows)
    return said, [(found[1] or found[2], found[3] or "") for found in SCAN.finditer(said)]


@pytest.mark.parametrize("name", ["claim", "finish", "settle", "write", "get", "ended"])
async def test_the_primary_key_finds_what_is_named(url: str, name: str) -> None:
    said, scans = await plan(url, name)
    assert {index for index, _ in scans} == {"jobs_pkey"}, said
    assert all("id = ANY" in condition for _, condition in scans), said


@pytest.mark.parametrize("name", ["cas", "docs", "get_docs"])
async def test_documents_are_found_by_their_key(url: str, name: str) -> None:
    said, scans = await plan(url, name)
    assert {index for index, _ in scans} == {"docs_pkey"}, said
    assert all("(key " in condition for _, condition in scans), said


async def test_mail_is_settled_by_its_number(url: str) -> None:
    said, scans = await plan(url, "settle_mail")
    assert {index for index, _ in scans} == {"messages_pkey"}, said


@pytest.mark.parametrize("name", ["receive", "waiting"])
async def test_a_receiver_looks_at_its_own_queues(url: str, name: str) -> None:
    said, scans = await plan(url, name)
    looks = [scan for scan in scans if scan[0] not in ("jobs_pkey", "sessions_pkey")]
    assert {index for index, _ in looks} == {"jobs_pending", "messages_ready", "messages_leased"}, (
        said
    )
    assert all("= q.name" in condition or "= q_" in condition for _, condition in looks), said
