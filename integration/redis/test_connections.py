"""Sockets, logins and TLS."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from bananas_core.errors import ResultBackendError, ResultBackendUnavailable
from bananas_core.testing.conformance.support import a_job
from integration.redis.server import Server, free_port, program_path
from integration.redis.support import pair_on, received

pytestmark = pytest.mark.skipif(program_path() is None, reason="no redis-server here")


@pytest.fixture
def started() -> Iterator[list[Server]]:
    servers: list[Server] = []
    yield servers
    for server in servers:
        server.stop()


async def works(url: str) -> None:
    """A job goes there and comes back."""
    pair = pair_on(url, "connections")
    await pair.open()
    await pair.backend.put([put := a_job()])
    (claim,) = await received(pair, "s")
    assert claim.id == put.id
    assert await pair.backend.wait([put.id], 0.1) == []
    await pair.close()


async def test_a_unix_socket(tmp_path: Path, started: list[Server]) -> None:
    socket = tmp_path / "redis.sock"
    started.append(Server(tmp_path, "--unixsocket", str(socket)))
    started[0].start()
    await works(f"redis+unix://{socket}?db=3")


async def test_a_login(tmp_path: Path, started: list[Server]) -> None:
    file = tmp_path / "redis.conf"
    file.write_text("user jobs on >secret ~{connections}:* &* +@all\n")
    server = Server(tmp_path, config=file)
    started.append(server)
    server.start()
    await works(server.url.replace("//", "//jobs:secret@"))
    with pytest.raises(ResultBackendError) as caught:
        await pair_on(server.url.replace("//", "//jobs:wrongword@"), "connections").open()
    assert not isinstance(caught.value, ResultBackendUnavailable)
    assert "wrongword" not in str(caught.value)
    # A user of one namespace is kept out of the others by the server.
    pair = pair_on(server.url.replace("//", "//jobs:secret@"), "other")
    with pytest.raises(ResultBackendError, match="permission"):
        await pair.open()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
async def test_tls(tmp_path: Path, started: list[Server]) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost".split()
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    port = free_port()
    server = Server(
        tmp_path,
        *("--tls-port", str(port), "--tls-cert-file", str(cert), "--tls-key-file", str(key)),
        *("--tls-ca-cert-file", str(cert), "--tls-auth-clients", "no"),
    )
    started.append(server)
    try:
        server.start()
    except redis.RedisError:
        if "tls" not in (tmp_path / "log").read_text().lower():
            raise
        pytest.skip("this server was built without TLS")
    await works(f"rediss://localhost:{port}/0?ssl_ca_certs={cert}")
    with pytest.raises(ResultBackendError):
        await pair_on(f"rediss://localhost:{port}/0", "connections").open()
