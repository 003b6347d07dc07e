"""URLs of the Redis driver; needs no server."""

from __future__ import annotations

import pytest

from bananas_brokers.redis.keys import Keys
from bananas_brokers.redis.results import RedisResultBackend
from bananas_brokers.redis.settings import read_settings
from bananas_brokers.redis.transport import RedisTransport
from bananas_core.errors import ConfigurationError
from bananas_core.pair import load_pair


def test_forms_of_urls() -> None:
    plain = read_settings("redis://me:p%40ss@cache:7000/3?socket_timeout=2.5")
    assert (plain.nodes, plain.db, plain.user, plain.password) == (
        (("cache", 7000),),
        3,
        "me",
        "p@ss",
    )
    assert plain.socket_timeout == 2.5
    assert read_settings("redis://").nodes == (("localhost", 6379),)
    assert read_settings("rediss://h?ssl_ca_certs=/ca.pem").tls
    assert read_settings("redis+unix:///run/redis.sock?db=2").socket == "/run/redis.sock"
    sentinel = read_settings("redis+sentinel://:pw@a,b:7001/mymaster/1")
    assert sentinel.nodes == (("a", 26379), ("b", 7001))
    assert (sentinel.master, sentinel.db, sentinel.password) == ("mymaster", 1, "pw")
    cluster = read_settings("redis+cluster://a:1,[::1]:2,[::2]")
    assert cluster.nodes == (("a", 1), ("::1", 2), ("::2", 6379))


@pytest.mark.parametrize(
    "url",
    [
        "redis://h/x",
        "redis://h?shards=0",
        "redis://h?shards=65",
        "redis://h?socket_timeout=0",
        "redis://h?socket_timeout=soon",
        "redis://h?ssl_ca_certs=/a",
        "redis://h?durable=perhaps",
        "redis://h?wait_replicas=-1",
        "redis://h?db=1",
        "redis+unix://",
        "redis+unix://host/path",
        "redis+sentinel://a:26379",
        "redis+sentinel://a:x/mymaster",
        "redis+cluster://a/1",
        "redis+tls://h",
        "redis+cluster://a?shards=many",
    ],
)
def test_what_is_wrong_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        read_settings(url)


def test_no_secret_is_shown() -> None:
    for url in (
        "redis://me:secret@h/0",
        "redis+sentinel://me:secret@h/m?sentinel_password=secret",
        "redis+cluster://me:secret@h,i",
    ):
        settings = read_settings(url)
        assert "secret" not in repr(settings) + settings.label
        for driver in (RedisTransport(url, "ns"), RedisResultBackend(url, "ns")):
            assert "secret" not in repr(driver)
    for url in ("redis://me:secret@h/x", "redis+sentinel://me:secret@h"):
        with pytest.raises(ConfigurationError) as caught:
            read_settings(url)
        assert "secret" not in str(caught.value)


def test_every_form_is_found_by_its_scheme() -> None:
    for url in (
        "redis://h/1",
        "rediss://h/1",
        "redis+unix:///s",
        "redis+sentinel://h/m",
        "rediss+cluster://h",
    ):
        pair = load_pair(url, None, "ns")
        assert pair.fused
        assert isinstance(pair.transport, RedisTransport)


def test_a_pair_of_two_places_is_not_fused() -> None:
    for other in ("redis://h/2", "redis://i/1", "redis+unix:///s?db=1"):
        assert not load_pair("redis://h/1", other, "ns").fused
    assert load_pair("redis://h/1", "redis://h/1?socket_timeout=3", "ns").fused


def test_options_name_the_durability() -> None:
    for option, word in (
        ("", "memory"),
        ("?durable=true", "disk"),
        ("?wait_replicas=1", "replicated"),
    ):
        pair = load_pair(f"redis://h/1{option}", None, "ns")
        assert pair.transport.capabilities.durability == word
        assert pair.backend.capabilities.durability == word


def test_all_keys_of_a_namespace_have_one_tag() -> None:
    keys = Keys("shop")
    names = [value for value in vars(keys).values() if isinstance(value, str)]
    names += [keys.claims("s"), keys.ready("q", 5), keys.aside("w"), keys.wake("q")]
    assert all(name.startswith("{shop}:") for name in names)
    for bad in ("", "a{b", "a}b"):
        with pytest.raises(ConfigurationError):
            Keys(bad)
