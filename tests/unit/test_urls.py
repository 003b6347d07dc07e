"""Broker URLs: what they mean, what is refused, what is never shown."""

from __future__ import annotations

import pytest

from bananas_core.errors import ConfigurationError
from bananas_core.urls import boolean, parse_url, read_options, redact


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
        ("sqlite:///a.db?durable=false", "sqlite:///a.db?durable=false"),
        ("redis://user:pw@host:1/0?a=b", "redis://user:***@host:1/0?a=b"),
        ("redis://:pw@host", "redis://:***@host"),
        ("amqp://user@host/v", "amqp://user@host/v"),
        ("postgresql://u:p@ss@host/db", "postgresql://u:***@host/db"),
        ("redis://host?password=pw&api_key=k", "redis://host?password=***&api_key=***"),
        ("user:pw@host", "user:***@host"),
        ("", ""),
    ],
)
def test_secrets_are_never_shown_and_the_rest_stays(url: str, shown: str) -> None:
    assert redact(url) == shown


def test_paths_have_the_slashes_of_sqlalchemy() -> None:
    assert parse_url("sqlite:///relative.db").path == "relative.db"
    assert parse_url("sqlite:////absolute.db").path == "/absolute.db"


def test_a_url_is_taken_apart() -> None:
    url = parse_url("redis://us%40er:p%3Aw@host:6380/1?shards=4")
    assert (url.scheme, url.user, url.password) == ("redis", "us@er", "p:w")
    assert (url.host, url.port, url.path, url.options) == ("host", 6380, "1", {"shards": "4"})
    assert "p:w" not in repr(url)


def test_a_url_may_name_several_hosts() -> None:
    url = parse_url("redis+cluster://user:p%2Cw@one:1,[::2],three:3/0")
    assert url.hosts == (("one", 1), ("::2", None), ("three", 3))
    assert (url.host, url.port, url.password) == ("one", 1, "p,w")
    with pytest.raises(ConfigurationError, match="bad port"):
        parse_url("redis+cluster://one:1,two:x")


@pytest.mark.parametrize("bad", ["", "no-scheme", "redis://host:port/0", "redis://h?a=1&a=2"])
def test_what_is_no_url_is_refused(bad: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_url(bad)


def test_options_are_known_and_converted_or_refused() -> None:
    url = parse_url("sqlite:///a.db?durable=no&extra=1")
    assert read_options(url, {"durable": boolean}, also=("extra",)) == {"durable": False}
    with pytest.raises(ConfigurationError, match="no option 'extra'"):
        read_options(url, {"durable": boolean})
    with pytest.raises(ConfigurationError, match="durable='maybe'"):
        read_options(parse_url("sqlite:///a?durable=maybe"), {"durable": boolean})
