"""What a postgresql:// URL may say."""

from __future__ import annotations

import pytest

from bananas_brokers.postgres.connect import Facts, session_settings
from bananas_brokers.postgres.settings import read_settings
from bananas_core.errors import ConfigurationError
from bananas_core.pair import load_pair


def test_a_url_names_a_place() -> None:
    found = read_settings("postgresql://me:p%40ss@db.example:6543/shop?schema=jobs&durable=no")
    assert found.hosts == (("db.example", 6543),)
    assert (found.user, found.password, found.database) == ("me", "p@ss", "shop")
    assert (found.schema, found.durable, found.durability) == ("jobs", False, "memory")
    assert "p@ss" not in repr(found)
    assert not found.local


def test_hosts_and_sockets() -> None:
    assert read_settings("postgres:///jobs").hosts == (("localhost", 5432),)
    several = read_settings("postgresql://a,b:6000/jobs")
    assert several.hosts == (("a", 5432), ("b", 6000))
    socket = read_settings("postgresql://me@:6000/jobs?host=/run/postgresql")
    assert socket.hosts == (("/run/postgresql", 6000),)
    assert socket.local


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://host/0", "not postgresql"),
        ("postgresql://host", "names no database"),
        ("postgresql://host/a/b", "names no database"),
        ("postgresql://host/a?shards=2", "no option 'shards'"),
        ("postgresql://host/a?schema=Jobs", "schema='Jobs'"),
        ("postgresql://host/a?schema=a;drop", "schema="),
        ("postgresql://host/a?schema=pg_jobs", "schema="),
        ("postgresql://host/a?sslmode=sometimes", "sslmode='sometimes'"),
        ("postgresql://host/a?sslrootcert=/ca.crt", "needs sslmode"),
        ("postgresql://host/a?sslmode=require&sslkey=/key", "belongs to an sslcert"),
        ("postgresql://host/a?pool_size=0", "pool_size='0'"),
        ("postgresql://host/a?timeout=0", "timeout='0'"),
        ("postgresql://host/a?host=/run", "names a host, and a socket"),
        ("postgresql:///a?host=run", "folder of a socket"),
    ],
)
def test_what_makes_no_sense_is_refused(url: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        read_settings(url)


def test_one_url_is_enough() -> None:
    pair = load_pair("postgresql://me@host/jobs?pool_size=2", None, "shop")
    assert pair.fused
    other = load_pair("postgresql://me@host/jobs", "postgresql://me@host/others", "shop")
    assert not other.fused


def test_sessions_commit_as_durably_as_was_asked() -> None:
    careful = read_settings("postgresql://host/a")
    quick = read_settings("postgresql://host/a?durable=false")
    assert "synchronous_commit" not in session_settings(careful, Facts())
    weak = Facts(synchronous_commit="off")
    assert "SET synchronous_commit = on" in session_settings(careful, weak)
    assert "SET synchronous_commit = off" in session_settings(quick, Facts())
    pooled = session_settings(quick, Facts(pooled=True)).split(";")
    assert all(word.startswith("SET LOCAL ") for word in pooled)
