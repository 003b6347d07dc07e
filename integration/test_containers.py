"""Servers as containers do what servers as processes do. Needs a Docker engine; ``python -m
integration.containers`` brings its own."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pika
import psycopg
import pytest

from bananas_core.pair import load_pair
from integration.servers import (
    PostgresServer,
    RabbitServer,
    RedisServer,
    SentinelServer,
    Server,
    ServerFailed,
    ValkeyServer,
)
from integration.servers import container as containers
from integration.servers.base import HOST
from integration.servers.container import Container, engine_answers, wanted_form

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def as_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    if not engine_answers():
        pytest.skip("no Docker engine answers")
    monkeypatch.setenv("BANANAS_SERVERS", "docker")


@pytest.fixture(params=[RedisServer, ValkeyServer], ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> type[RedisServer]:
    found: type[RedisServer] = request.param
    return found


@pytest.fixture
def server(kind: type[RedisServer]) -> Iterator[RedisServer]:
    with kind() as running:
        yield running


def all_containers() -> list[str]:
    import docker

    client = docker.from_env()
    try:
        return [found.id for found in client.containers.list(all=True)]
    finally:
        client.close()


def test_it_is_a_container_on_loopback_that_goes_away(kind: type[RedisServer]) -> None:
    before = all_containers()
    with kind() as server:
        assert isinstance(server._process, Container)
        assert server.call("SET", "a", "1") == "OK"
        assert server.info("server")["process_id"] == "1"
        (made,) = set(all_containers()) - set(before)
        assert made
        folder, port = server.folder, server.port
        with socket.socket() as elsewhere:
            elsewhere.bind(("127.0.0.2", port))  # published on one address, not on all
    assert all_containers() == before
    assert not folder.exists()
    with pytest.raises(OSError):  # noqa: PT011 - refused
        socket.create_connection((HOST, port), timeout=2).close()


@pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "kill -9"])
def test_a_restart_keeps_port_and_data(server: RedisServer, kill: bool) -> None:
    server.call("SET", "kept", "yes")
    pid, port = server.pid, server.port
    server.restart(kill=kill)
    assert server.pid != pid
    assert (server.port, server.call("GET", "kept")) == (port, "yes")


def test_kill_and_start_are_what_they_say(server: RedisServer) -> None:
    server.kill()
    server.kill()
    assert not server.running
    with pytest.raises(OSError):  # noqa: PT011 - refused or reset
        server.call("PING")
    assert server.start().call("PING") == "PONG"
    assert server.terminate() == 0


def test_a_paused_one_answers_when_resumed(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("integration.servers.redis.SLOW", 0.5)
    server.pause()
    assert server.running
    with pytest.raises(TimeoutError):
        server.call("PING")
    server.resume()
    assert server.call("PING") == "PONG"


@pytest.mark.parametrize("how", ["kill", "restart", "stop"])
def test_a_paused_one_can_be_ended(kind: type[RedisServer], how: str) -> None:
    with kind() as server:
        server.pause()
        getattr(server, how)()
        assert server.running == (how == "restart")


def test_one_that_does_not_start_says_why(kind: type[RedisServer]) -> None:
    before = all_containers()
    server = kind(settings={"no-such-directive": "1"})
    with pytest.raises(ServerFailed, match=r"(?s)ended at its start.*no-such-directive"):
        server.start()
    assert all_containers() == before


def test_a_port_that_was_taken_meanwhile_is_replaced(kind: type[RedisServer]) -> None:
    server = kind()
    with socket.socket() as other:
        other.bind((HOST, server.port))
        other.listen()
        taken = server.port
        with server:
            assert server.port != taken
            assert server.call("PING") == "PONG"


def test_password_and_memory_are_as_asked_for(kind: type[RedisServer]) -> None:
    with kind(password="pass word", maxmemory="8mb") as server:
        assert server.call("CONFIG", "GET", "maxmemory") == ["maxmemory", str(8 << 20)]


async def test_a_driver_comes_back_after_a_kill(server: RedisServer) -> None:
    pair = load_pair(server.url, None, "containers")
    await pair.open()
    try:
        await asyncio.to_thread(server.restart, kill=True)
        assert await pair.backend.now() > 0
    finally:
        await pair.close()


def test_what_must_know_its_address_stays_a_process() -> None:
    assert SentinelServer.usual_form() == "process"
    with RedisServer(process=True) as primary:
        assert primary.form == "process"
        with RedisServer(replicaof=primary) as replica:
            assert replica.form == "process"
    with RedisServer(settings={"cluster-enabled": "yes"}) as node:
        assert node.form == "process"


def test_it_ends_with_the_program_that_started_it() -> None:
    before = all_containers()
    program = (
        "from integration.servers import RedisServer\n"
        "server = RedisServer().start()\n"
        "print(server.form, server.folder)\n"
        "raise SystemExit(3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, cwd=ROOT
    )
    assert done.returncode == 3, done.stderr
    form, folder = done.stdout.split()
    assert form == "docker"
    assert not Path(folder).exists()
    assert all_containers() == before


def test_the_program_of_the_image_says_its_version(kind: type[RedisServer]) -> None:
    said = kind.version_line().partition("v=")[2].split()[0]
    with kind() as server:
        assert said in server.info("server").values()


def test_a_signal_reaches_the_server(server: RedisServer) -> None:
    server.signal(signal.SIGTERM)
    assert isinstance(server._process, Container)
    assert server._process.wait(10) == 0


@pytest.fixture(scope="module", params=[PostgresServer, RabbitServer], ids=lambda kind: kind.name)
def slow(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One that takes seconds to start."""
    if not engine_answers():
        pytest.skip("no Docker engine answers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BANANAS_SERVERS", "docker")
        with request.param() as running:
            yield running


def put(server: Server, name: str) -> None:
    """Something that stays."""
    if isinstance(server, PostgresServer):
        with psycopg.connect(server.url, autocommit=True, connect_timeout=5) as client:
            client.execute(f"CREATE TABLE {name} ()")  # type: ignore[arg-type]
        return
    connection = pika.BlockingConnection(pika.URLParameters(server.url))
    connection.channel().queue_declare(name, durable=True)
    connection.close()


def there(server: Server) -> list[str]:
    if isinstance(server, RabbitServer):
        return server.queues()
    with psycopg.connect(server.url, connect_timeout=5) as client:
        found = client.execute("SELECT relname FROM pg_stat_user_tables ORDER BY 1").fetchall()
    return [name for (name,) in found]


@pytest.mark.parametrize("kill", [False, True], ids=["in order", "kill -9"])
def test_another_kind_restarts_with_port_and_data(slow: Server, kill: bool) -> None:
    assert isinstance(slow._process, Container)
    name = f"kept{kill:d}"
    put(slow, name)
    pid, port = slow.pid, slow.port
    slow.restart(kill=kill)
    assert slow.pid != pid
    assert slow.port == port
    assert name in there(slow)
    put(slow, f"{name}_again")


def test_another_kind_is_paused_and_resumed(slow: Server) -> None:
    slow.pause()
    with socket.create_connection((HOST, slow.port), timeout=1.0) as connection:
        connection.sendall(b"x" * 8)  # both would take that for bad manners, and hang up
        with pytest.raises(TimeoutError):
            connection.recv(1)
    slow.resume()
    put(slow, "resumed")


@pytest.mark.parametrize("kind", [PostgresServer, RabbitServer], ids=lambda kind: kind.name)
def test_another_kind_says_why_it_does_not_start(kind: type[PostgresServer | RabbitServer]) -> None:
    before = all_containers()
    server = kind(settings={"no_such_setting": "1"})
    with pytest.raises(ServerFailed, match=r"(?s)ended at its start.*no_such_setting"):
        server.start()
    assert all_containers() == before
    assert not server.folder.exists()


def test_another_kind_says_its_version(slow: Server) -> None:
    assert re.search(r"\d+\.\d+", slow.version_line())


def test_postgres_takes_a_password_over_tls() -> None:
    with PostgresServer(password="a word", tls=True) as server:
        put(server, "safe")
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(server.url.replace("a%20word", "another"), connect_timeout=5)


def test_rabbitmq_takes_tls() -> None:
    with RabbitServer(tls=True) as server:
        context = ssl.create_default_context(cafile=str(server.ca_file))
        login = pika.PlainCredentials("guest", "guest")
        said = pika.ConnectionParameters(
            HOST, server.port, credentials=login, ssl_options=pika.SSLOptions(context, HOST)
        )
        pika.BlockingConnection(said).close()


@pytest.mark.parametrize(
    ("said", "answers", "form"),
    [
        ("process", True, "process"),
        ("docker", False, "docker"),
        ("", True, "docker"),
        ("", False, "process"),
    ],
)
def test_the_form_is_said_or_found(
    monkeypatch: pytest.MonkeyPatch, said: str, answers: bool, form: str
) -> None:
    monkeypatch.setenv("BANANAS_SERVERS", said)
    monkeypatch.setattr(containers, "engine_answers", lambda: answers)
    assert wanted_form() == form


def test_another_form_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANANAS_SERVERS", "rocket")
    with pytest.raises(ValueError, match="rocket"):
        wanted_form()
