"""Sockets, logins and TLS."""

from __future__ import annotations

import shutil

import pytest

from bananas_core.errors import ResultBackendError, ResultBackendUnavailable
from bananas_core.testing.conformance.support import a_job
from integration.redis.support import pair_on, received
from integration.servers import RedisServer
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


async def test_a_unix_socket(kind: type[RedisServer]) -> None:
    with kind(unix_socket=True) as server:
        await works(f"redis+unix://{server.socket_path}?db=3")


async def test_a_login(kind: type[RedisServer]) -> None:
    with kind(users={"jobs": "on >secret ~{connections}:* &* +@all"}) as server:
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
async def test_tls() -> None:
    need(RedisServer)  # the packaged Valkey is built without TLS
    with RedisServer(tls=True) as server:
        await works(server.url)
        await works(server.url.replace("127.0.0.1", "localhost"))
        with pytest.raises(ResultBackendError):  # nobody vouches for its certificate
            await pair_on(f"rediss://localhost:{server.port}/0", "connections").open()
