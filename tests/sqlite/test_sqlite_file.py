"""What is special to the file: its schema, its place, its options, group commit."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bananas_brokers.sqlite import schema
from bananas_brokers.sqlite.results import SQLiteResultBackend
from bananas_brokers.sqlite.settings import check_place, file_system, read_settings
from bananas_brokers.sqlite.transport import SQLiteTransport
from bananas_core.errors import (
    ConfigurationError,
    ResultBackendError,
    ResultBackendUnavailable,
    UnsupportedCapability,
)
from bananas_core.job import JobState, PutKind, Write
from bananas_core.pair import Pair, load_pair
from bananas_core.transport import Outgoing

Puts = Callable[[list[str]], Any]

MOUNTS = r"""
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/vdb /home/local xfs rw 0 0
//nas/x /mnt/with\040space cifs rw 0 0
me@host:/ /mnt/ssh fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/jobs.db", "ext4"),
        ("/home/me/jobs.db", "nfs4"),
        ("/home/local/jobs.db", "xfs"),
        ("/homes/jobs.db", "ext4"),
        ("/mnt/with space/jobs.db", "cifs"),
        ("/mnt/ssh/jobs.db", "fuse.sshfs"),
    ],
)
def test_the_innermost_mount_holds_the_file(path: str, kind: str) -> None:
    assert file_system(path, MOUNTS) == kind


def test_a_network_file_system_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: MOUNTS)
    check_place("/var/jobs.db")
    with pytest.raises(ConfigurationError, match="network file system"):
        check_place("/home/me/jobs.db")


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite://host/jobs.db",
        "sqlite:///a.db?durable=perhaps",
        "sqlite:///a.db?busy_timeout=0",
        "sqlite:///a.db?colour=red",
    ],
)
def test_a_bad_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        read_settings(url)


def test_options_are_read(tmp_path: Path) -> None:
    settings = read_settings(f"sqlite:///{tmp_path}/a.db?durable=no&busy_timeout=2.5")
    assert (settings.path, settings.durable, settings.busy_timeout) == (
        f"{tmp_path}/a.db",
        False,
        2.5,
    )


def test_only_the_same_file_and_namespace_is_shared(tmp_path: Path) -> None:
    transport = SQLiteTransport(f"sqlite:///{tmp_path}/a.db", "one")
    (tmp_path / "link").symlink_to(tmp_path)
    same = SQLiteResultBackend(f"sqlite:///{tmp_path}/link/a.db", "one")
    assert transport.shares(same)
    assert not transport.shares(SQLiteResultBackend(f"sqlite:///{tmp_path}/a.db", "two"))
    assert not transport.shares(SQLiteResultBackend(f"sqlite:///{tmp_path}/b.db", "one"))


def test_doctor_is_told_what_is_weak(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 3))
    assert SQLiteResultBackend(url, "test").warnings() == []
    weak = SQLiteResultBackend(f"{url}?durable=false", "test")
    assert weak.capabilities.durability == "memory"
    assert "durable=false" in weak.warnings()[0]
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 2))
    assert "3.51.3" in SQLiteResultBackend(url, "test").warnings()[0]


async def test_a_newer_schema_is_refused(url: str, pair: Pair) -> None:
    await pair.close()
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (schema.VERSION + 1,))
    connection.close()
    with pytest.raises(ConfigurationError, match="upgrade"):
        await pair.open()


async def test_somebody_elses_file_is_left_alone(url: str) -> None:
    path = url.removeprefix("sqlite:///")
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE users (id INTEGER)")
    connection.close()
    with pytest.raises(ConfigurationError, match="its own file"):
        await SQLiteResultBackend(url, "test").open()
    Path(path).write_text("this is no database, " * 100)
    with pytest.raises(ResultBackendError, match="not a database"):
        await SQLiteResultBackend(url, "test").open()


async def test_a_file_that_can_not_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "taken.db").mkdir()
    with pytest.raises(ResultBackendUnavailable):
        await SQLiteResultBackend(f"sqlite:///{tmp_path}/taken.db", "test").open()


async def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no folder"):
        await SQLiteResultBackend(f"sqlite:///{tmp_path}/typo/a.db", "test").open()
    assert list(tmp_path.iterdir()) == []


async def test_namespaces_do_not_meet(url: str, pair: Pair, puts: Puts) -> None:
    other = load_pair(url, None, "other")
    await other.open()
    try:
        await pair.backend.put(puts(["a"]))
        assert await other.backend.get(["a"]) == [None]
        assert await other.transport.receive_claimed("s", ["default"], 1, 0.0) == []
        assert (await other.backend.events("")).events == ()
        assert (await other.transport.stats(["default"]))[0].ready == 0
    finally:
        await other.close()


async def test_one_bad_call_spoils_no_other_of_its_commit(pair: Pair, puts: Puts) -> None:
    bad: Any = {"not": "a write"}
    calls: list[Any] = []
    for i in range(20):
        calls += [
            pair.backend.put(puts([f"job-{i}"])),
            pair.backend.cas([Write(key=bad, value=b"")]),
        ]
    answers: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(answer, ResultBackendError) for answer in answers[1::2])
    assert [answer[0].kind for answer in answers[::2]] == [PutKind.CREATED] * 20
    found = await pair.backend.get([f"job-{i}" for i in range(20)])
    assert all(job is not None for job in found)


async def test_everything_survives_closing(pair: Pair, puts: Puts) -> None:
    await pair.backend.put(puts(["a"]))
    await pair.transport.send([Outgoing(body=b"raw")])
    await pair.close()
    await pair.open()
    (job,) = await pair.backend.get(["a"])
    assert job is not None
    assert job.state is JobState.PENDING
    received = await pair.transport.receive_claimed("s", ["default"], 10, 1.0)
    bodies = [r.delivery.body for r in received if r.delivery is not None]
    claims = [r.verdict.id for r in received if r.verdict is not None]
    assert (bodies, claims) == ([b"raw"], ["a"])


async def test_a_cancelled_receive_gives_its_claims_back_at_once(pair: Pair, puts: Puts) -> None:
    for i in range(30):
        job_id = f"job-{i}"
        waiting = asyncio.ensure_future(pair.transport.receive_claimed("gone", ["default"], 1, 5.0))
        await asyncio.sleep(0)
        put = asyncio.ensure_future(pair.backend.put(puts([job_id])))
        for _ in range(i * 10):
            await asyncio.sleep(0)  # cancels at another moment each time
        waiting.cancel()
        await asyncio.wait([waiting, put])
        if waiting.cancelled():
            (received,) = await pair.transport.receive_claimed("here", ["default"], 1, 5.0)
            assert received.verdict is not None
            assert received.verdict.id == job_id


async def test_put_in_a_foreign_transaction_is_refused(pair: Pair, puts: Puts) -> None:
    with pytest.raises(UnsupportedCapability):
        await pair.backend.put(puts(["a"]), tx=object())


async def test_records_and_foreign_messages_are_one_queue(pair: Pair, puts: Puts) -> None:
    await pair.backend.put([replace(put, priority=50) for put in puts(["a", "b"])])
    await pair.transport.send(
        [Outgoing(body=b"high", priority=90), Outgoing(body=b"low", priority=10)]
    )
    await pair.backend.put(puts(["c"]))
    assert (await pair.transport.stats(["default"]))[0].ready == 5
    order = []
    for limit in (1, 2, 2):
        for item in await pair.transport.receive_claimed("s", ["default"], limit, 1.0):
            if item.verdict is not None:
                order.append(item.verdict.id)
            if item.delivery is not None:
                order.append(item.delivery.body.decode())
    assert order == ["high", "a", "b", "c", "low"]


async def test_a_quiet_queue_gets_its_turn_beside_a_busy_one(pair: Pair, puts: Puts) -> None:
    busy = [replace(put, priority=90) for put in puts([f"busy-{i}" for i in range(100)])]
    quiet = [replace(put, priority=10, routing_key="quiet") for put in puts(["quiet"])]
    await pair.backend.put(busy + quiet)
    got: list[str] = []
    while "quiet" not in got and len(got) < 60:
        received = await pair.transport.receive_claimed("s", ["default", "quiet"], 4, 1.0)
        got += [item.verdict.id for item in received if item.verdict is not None]
    assert "quiet" in got
    assert got[:8] == [f"busy-{i}" for i in range(8)]


async def test_a_purge_removes_messages_and_no_records(pair: Pair, puts: Puts) -> None:
    await pair.backend.put(puts(["a"]))
    await pair.transport.send([Outgoing(body=b"raw")])
    assert await pair.transport.purge("default") == 1
    assert (await pair.transport.stats(["default"]))[0].ready == 1
