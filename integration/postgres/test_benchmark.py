"""The loop that Bananas is measured against leaves the rows behind that Bananas leaves."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import psycopg

from benchmarks.rounds import sample
from integration.servers import PostgresServer

JOBS = 300


def left_behind(url: str) -> tuple[dict[str, int], list[Any]]:
    """How many jobs have a value in each column, and how many changes of state were noted."""
    with psycopg.connect(url) as connection:
        columns = [
            row[0]
            for row in connection.execute(
                "SELECT column_name FROM information_schema.columns "
                "WHERE table_schema = 'bananas' AND table_name = 'jobs' ORDER BY 1"
            )
        ]
        counts = ", ".join(f"count({column})" for column in columns)
        found = connection.execute(f"SELECT {counts} FROM bananas.jobs WHERE state = 4").fetchone()  # type: ignore[call-overload]
        assert found is not None
        noted = connection.execute(
            "SELECT old, new, sum(cardinality(ids)) FROM bananas.events GROUP BY 1, 2 ORDER BY 2"
        ).fetchall()
        return dict(zip(columns, found, strict=True)), noted


def test_both_write_the_same(server: PostgresServer) -> None:
    urls = [f"{server.url.rpartition('/')[0]}/{name}" for name in ("bench_bare", "bench_ours")]
    with psycopg.connect(server.url, autocommit=True) as connection:
        for url in urls:
            connection.execute(f"CREATE DATABASE {url.rpartition('/')[2]}")  # type: ignore[call-overload]
    for subject, url in zip(("bare", "ours"), urls, strict=True):
        sample(f"benchmarks.postgres.{subject}", "drain", JOBS, lambda url=url: nullcontext(url))
    of_bare, of_ours = map(left_behind, urls)
    assert of_bare == of_ours
    assert of_bare[0]["state"] == JOBS
