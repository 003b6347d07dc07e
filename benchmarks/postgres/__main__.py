"""``make bench-postgres``: interleaved rounds, medians, ratios; a table, and JSON if asked for.

All run on one server with its defaults (each commit is synced), each in a database of its own.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from benchmarks.rounds import options, run
from integration.servers import PostgresServer

SUBJECTS = {"bare asyncpg loop": "benchmarks.postgres.bare", "bananas": "benchmarks.postgres.ours"}
MEASURES = {
    "postgres bulk submit": ("submit", 0.35),
    "postgres drain with results, one worker": ("drain", 0.35),
}


def main() -> int:
    said = options("benchmarks.postgres", __doc__, 20_000)
    about: dict[str, object] = {"server": PostgresServer.version_line().strip()}
    settings = {"shared_buffers": "128MB"}
    with PostgresServer(fsync=True, settings=settings) as server:

        @contextmanager
        def database() -> Iterator[str]:
            name = f"bench_{uuid.uuid4().hex[:12]}"
            with psycopg.connect(server.url, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
                yield f"{server.url.rpartition('/')[0]}/{name}"
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[call-overload]
                connection.execute("CHECKPOINT")

        return run(said, SUBJECTS, MEASURES, about, database)


if __name__ == "__main__":
    raise SystemExit(main())
