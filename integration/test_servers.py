"""The servers that other tests, faults and benchmarks start."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration.servers import RedisServer, SentinelServer, Server, ServerFailed, ValkeyServer
from integration.servers import __main__ as local
from integration.servers.base import HOST, ServerMissing, free_port
from integration.servers.need import need
from integration.servers.resp import ReplyError


def eventually(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def as_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers are tested in test_containers.py."""
    monkeypatch.setenv("BANANAS_SERVERS", "process")


@pytest.fixture(params=[RedisServer, ValkeyServer], ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> type[RedisServer]:
    found: type[RedisServer] = request.param
    need(found)
    return found


@pytest.fixture
def redis(kind: type[RedisServer]) -> Iterator[RedisServer]:
    with kind() as server:
        yield server


async def test_a_server_runs_on_loopback_in_a_folder_that_goes_away(
    kind: type[RedisServer],
) -> None:
    async with kind() as server:
        pid, folder = server.pid, server.folder
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
        assert server.call("SET", "a", "1") == "OK"
        assert server.info("server")["process_id"] == str(pid)
        assert server.call("CONFIG", "GET", "bind") == ["bind", HOST]
    assert not server.running
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "kill -9"])
def test_a_restart_keeps_port_and_data(redis: RedisServer, kill: bool) -> None:
    redis.call("SET", "kept", "yes")
    pid, port = redis.pid, redis.port
    redis.restart(kill=kill)
    assert redis.pid != pid
    assert redis.port == port
    assert redis.call("GET", "kept") == "yes"


def test_a_paused_server_answers_when_resumed(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("integration.servers.redis.SLOW", 0.2)
    redis.pause()
    with pytest.raises(TimeoutError):
        redis.call("PING")
    redis.resume()
    assert redis.call("PING") == "PONG"


def test_a_paused_server_can_be_stopped(kind: type[RedisServer]) -> None:
    server = kind().start()
    server.pause()
    server.stop()
    assert not server.running


def test_a_server_that_does_not_start_says_why(kind: type[RedisServer]) -> None:
    server = kind(settings={"no-such-directive": "1"})
    with pytest.raises(ServerFailed, match=r"(?s)ended at its start.*no-such-directive"):
        server.start()
    assert not server.folder.exists()


def test_a_port_that_was_taken_meanwhile_is_replaced(kind: type[RedisServer]) -> None:
    server = kind()
    with socket.socket() as other:
        other.bind((HOST, server.port))
        other.listen()
        taken = server.port
        with server:
            assert server.port != taken
            assert server.call("PING") == "PONG"


def test_a_missing_program_is_skipped_but_not_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ServerMissing, match=r"scripts/install_servers\.sh"):
        RedisServer()
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception):
        need(RedisServer)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(ServerMissing):
        need(RedisServer)


def test_containers_without_an_engine_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANANAS_SERVERS", "docker")
    monkeypatch.setattr("integration.servers.base.engine_answers", lambda: False)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(ServerMissing, match="BANANAS_SERVERS is docker"):
        RedisServer()
    with pytest.raises(pytest.skip.Exception):
        need(RedisServer)


def test_passwords_and_users(kind: type[RedisServer]) -> None:
    users = {"reader": "on >s3cret ~* +get"}
    with kind(password="pass word", users=users) as server:
        assert server.url.startswith("redis://:pass%20word@")
        assert server.call("SET", "a", "1") == "OK"
        assert "reader" in str(server.call("ACL", "LIST"))
        password, server.password = server.password, None
        with pytest.raises(ReplyError, match="NOAUTH"):
            server.call("PING")
        server.password = password


def test_limited_memory(kind: type[RedisServer]) -> None:
    with kind(maxmemory="3mb", appendonly=False) as server:
        server.call("SET", "a", "x" * 100_000)
        server.call("CONFIG", "SET", "maxmemory", "1mb")
        with pytest.raises(ReplyError, match="OOM"):
            server.call("SET", "b", "x")
        assert server.call("GET", "a") == "x" * 100_000
        assert server.call("CONFIG", "GET", "maxmemory-policy") == [
            "maxmemory-policy",
            "noeviction",
        ]


def test_tls_refuses_plain_connections() -> None:
    need(RedisServer)
    with RedisServer(tls=True) as server:
        assert server.call("PING") == "PONG"
        assert str(server.ca_file.name) in server.url
        server.tls = False
        with pytest.raises((OSError, ReplyError)):
            server.call("PING")
        server.tls = True
        with (
            socket.create_connection((HOST, server.port), timeout=5) as plain,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            ssl.create_default_context().wrap_socket(plain, server_hostname=HOST)


def test_a_unix_socket_is_made_if_asked_for(kind: type[RedisServer]) -> None:
    with kind(unix_socket=True) as server, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(server.socket_path))
        client.sendall(b"PING\r\n")
        assert client.recv(100) == b"+PONG\r\n"


def test_sentinel_promotes_the_replica_of_a_dead_primary() -> None:
    need(RedisServer)
    with RedisServer(process=True) as primary, RedisServer(replicaof=primary) as replica:
        eventually(lambda: replica.info("replication").get("master_link_status") == "up")
        with SentinelServer({"main": primary}, down_after=0.3, failover_timeout=5) as sentinel:
            assert sentinel.url == f"redis+sentinel://{HOST}:{sentinel.port}/main/0"
            assert sentinel.primary("main") == (HOST, primary.port)
            primary.kill()
            eventually(lambda: sentinel.primary("main") == (HOST, replica.port))
            eventually(lambda: replica.info("replication")["role"] == "master")


def test_a_server_ends_with_the_program_that_started_it(tmp_path: Path) -> None:
    need(RedisServer)
    program = (
        "from integration.servers import RedisServer\n"
        "server = RedisServer().start()\n"
        "print(server.pid, server.folder)\n"
        "raise SystemExit(3)\n"
    )
    root = Path(local.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, cwd=root
    )
    assert done.returncode == 3, done.stderr
    pid, folder = done.stdout.split()
    assert local.born(int(pid)) is None
    assert not Path(folder).exists()


def test_local_servers_come_up_and_go_down_by_pid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need(RedisServer)
    state = tmp_path / "state" / "servers.json"
    monkeypatch.setattr(local, "STATE", state)
    monkeypatch.setattr(local, "KINDS", (RedisServer,))
    try:
        assert local.main(["up"]) == 0
        first = local.read_state()["redis"]
        assert first["url"] in capsys.readouterr().out
        assert local.main(["up"]) == 0
        assert local.read_state()["redis"] == first, "a second `up` keeps what runs"
        assert local.alive(first)
    finally:
        assert local.main(["down"]) == 0
    eventually(lambda: not local.alive(first))
    assert not Path(first["folder"]).exists()
    assert not state.parent.exists()


def test_another_process_with_the_pid_of_a_server_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state" / "servers.json"
    monkeypatch.setattr(local, "STATE", state)
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        entry = {"url": "", "pid": other.pid, "born": "1", "folder": str(tmp_path / "none")}
        local.write_state({"redis": entry})
        assert local.main(["down"]) == 0
        assert other.poll() is None
    finally:
        other.kill()
        other.communicate()


async def test_calls_in_threads_do_not_block_the_loop(redis: RedisServer) -> None:
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.005)
            beats += 1

    ticking = asyncio.create_task(beat())
    await asyncio.to_thread(redis.restart)
    ticking.cancel()
    assert beats > 1
    assert redis.call("PING") == "PONG"


def test_free_ports_stay_clear_of_outgoing_connections() -> None:
    assert all(20_000 <= free_port() < 32_000 for _ in range(20))


def test_every_kind_has_a_name_of_its_own() -> None:
    kinds: list[type[Server]] = [RedisServer, ValkeyServer, SentinelServer]
    assert len({kind.name for kind in kinds}) == len(kinds)
