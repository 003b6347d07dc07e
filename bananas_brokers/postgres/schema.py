"""The tables, their version and its migration.

A newer version of this program finds older tables and migrates them, in one transaction and under
a lock, so that any number of processes may start at once. An older one refuses newer tables. A
migration may add tables, columns with a constant default, and indexes; what an older program
needs is not removed before the version after, so that workers can be replaced one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bananas_brokers.postgres.database import Tx
from bananas_core.errors import ConfigurationError

VERSION: Final = 1
OLDEST: Final = 130_000
"""The first server with all that is used: PostgreSQL 13."""
BLOCK: Final = 1000
"""Numbers of ``ord`` that one call of ``nextval`` gives out, for as many records."""
LOCK: Final = 0x62616E61
"""Of whoever prepares the tables, and first half of the locks of ``event_number``."""

_BUSY: Final = (
    "autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, "
    "autovacuum_analyze_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 1"
)
"""Rows live for a moment, so that dead ones are soon many."""

TABLES: Final = (
    "CREATE TABLE {schema}.meta (key text PRIMARY KEY, value int NOT NULL)",
    """
CREATE TABLE {schema}.namespaces (
    ns int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    last_due float8,           -- when `due` ran last
    grace_until float8,        -- no claim lapses before this
    events_from bigint NOT NULL DEFAULT 0  -- events up to this one may be pruned
)""",
    f"CREATE SEQUENCE {{schema}}.ord INCREMENT BY {BLOCK}",
    "CREATE SEQUENCE {schema}.version",
    "CREATE SEQUENCE {schema}.lease",
    "CREATE SEQUENCE {schema}.event",
    "SELECT nextval('{schema}.event')",  # from now on its last value is below the next one
    # `rank` and `due_at` only serve indexes. The message is written once: PostgreSQL keeps it apart
    # if it is long, and does not copy it when the rest changes. `detail` is what only some records
    # have; with `claimed_at` the last entry of the timeline is said by the columns instead.
    # Statements that name records say `ns + 0` and `state + 0`: so no index but the primary key can
    # serve them. Planned while the table was empty, they would walk through all that there is.
    f"""
CREATE TABLE {{schema}}.jobs (
    ns int NOT NULL,
    state smallint NOT NULL,
    priority smallint NOT NULL,
    id text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    routing_key text COLLATE "C" NOT NULL,
    worker text COLLATE "C",
    workflow text COLLATE "C", -- this and the next never change
    unique_key text COLLATE "C",
    tags text[] COLLATE "C",
    head smallint NOT NULL,
    rank smallint NOT NULL,
    is_foreign smallint NOT NULL,
    ord bigint NOT NULL,
    gen bigint NOT NULL,
    fence bigint NOT NULL,
    failures bigint NOT NULL,
    deaths bigint NOT NULL,
    max_attempts bigint NOT NULL,
    created_at float8 NOT NULL,
    changed_at float8 NOT NULL,
    keep_until float8 NOT NULL,
    guard_hold float8 NOT NULL,
    pending_at float8,
    claimed_at float8,
    started_at float8,
    finished_at float8,
    run_at float8,
    expires_at float8,
    queue_timeout float8,
    start_by float8,
    guard_at float8,
    due_at float8,
    detail bytea,
    result bytea,
    message bytea NOT NULL,
    PRIMARY KEY (id, ns)
) WITH ({_BUSY})""",
    "CREATE INDEX jobs_created ON {schema}.jobs (ns, created_at, id)",
    "CREATE INDEX jobs_pending ON {schema}.jobs (ns, routing_key, rank, ord) WHERE state = 2",
    "CREATE INDEX jobs_running ON {schema}.jobs (ns, worker) WHERE state = 3",
    "CREATE INDEX jobs_final ON {schema}.jobs (ns, state, finished_at, id) WHERE state >= 4",
    "CREATE INDEX jobs_due ON {schema}.jobs (ns, due_at) WHERE due_at IS NOT NULL",
    "CREATE INDEX jobs_workflow ON {schema}.jobs (ns, workflow, created_at) "
    "WHERE workflow IS NOT NULL",
    "CREATE INDEX jobs_unique ON {schema}.jobs (ns, unique_key, created_at) "
    "WHERE unique_key IS NOT NULL",
    "CREATE INDEX jobs_tags ON {schema}.jobs USING gin (tags) WHERE tags IS NOT NULL",
    """
CREATE TABLE {schema}.sessions (
    ns int,
    id text COLLATE "C",
    body bytea,                -- NULL until it describes itself
    renewed_at float8 NOT NULL,
    expires_at float8 NOT NULL,
    PRIMARY KEY (ns, id)
)""",
    # Deaths that are forgiven if the session turns out to be alive.
    """
CREATE TABLE {schema}.lapses (
    ns int, session text COLLATE "C", id text COLLATE "C", at float8 NOT NULL,
    PRIMARY KEY (ns, session, id)
)""",
    f"""
CREATE TABLE {{schema}}.docs (
    ns int,
    key text COLLATE "C",
    version bigint NOT NULL,
    expires_at float8,
    value bytea NOT NULL,
    PRIMARY KEY (ns, key)
) WITH ({_BUSY})""",
    "CREATE INDEX docs_expiry ON {schema}.docs (ns, expires_at) WHERE expires_at IS NOT NULL",
    # Events become visible in the order of commits, not of their numbers. Whoever appends holds a
    # lock on a number below its own until it has committed; a reader goes no further than that.
    f"""
CREATE FUNCTION {{schema}}.event_number() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared({LOCK}, (last_value % 2147483648)::int)
        FROM {{schema}}.event;
    RETURN nextval('{{schema}}.event');
END $$""",
    # A batch is a row: `old` and `new` if all events have the same, else `olds` and `news`.
    """
CREATE TABLE {schema}.events (
    seq bigint PRIMARY KEY DEFAULT {schema}.event_number(),
    ns int NOT NULL,
    old smallint,
    new smallint,
    at float8 NOT NULL,
    olds smallint[],
    news smallint[],
    ids text[] NOT NULL,
    names text[] NOT NULL,
    queues text[] NOT NULL,
    attempts bigint[] NOT NULL,
    fences bigint[] NOT NULL,
    workflows text[] NOT NULL
)""",
    # The transport's own messages: foreign ones, or all when the ledger is elsewhere.
    f"""
CREATE TABLE {{schema}}.messages (
    ns int NOT NULL,
    ord bigint PRIMARY KEY,
    queue text COLLATE "C" NOT NULL,
    rank smallint NOT NULL,
    redelivered bool NOT NULL DEFAULT false,
    sent_at float8 NOT NULL,
    lease bigint,              -- whose it is: NULL ready, 0 buried
    leased_until float8,
    reason text,
    body bytea NOT NULL
) WITH ({_BUSY})""",
    "CREATE INDEX messages_ready ON {schema}.messages (ns, queue, rank, ord) WHERE lease IS NULL",
    "CREATE INDEX messages_leased ON {schema}.messages (ns, queue, leased_until) "
    "WHERE leased_until IS NOT NULL",
    "CREATE INDEX messages_buried ON {schema}.messages (ns, queue) WHERE lease = 0",
)

MIGRATIONS: Final[dict[int, Sequence[str]]] = {}
"""Statements from version n to n + 1."""

# Asked of the catalogs as of now: functions such as to_regclass may answer from a cache.
_PRESENT: Final = (
    "SELECT count(*) > 0 AS present FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace "
    "WHERE relname = 'meta' AND nspname = '{schema}'"
)
_MISSING: Final = "SELECT count(*) = 0 AS missing FROM pg_namespace WHERE nspname = '{schema}'"
WHERE: Final = (
    "SELECT ns, (SELECT value FROM {schema}.meta WHERE key = 'place') AS place "
    "FROM {schema}.namespaces WHERE name = $1::text"
)
"""The number of a namespace, and of the place."""
_STANDS: Final = "SELECT value FROM {schema}.meta WHERE key = 'schema'"


async def prepare(tx: Tx, namespace: str) -> tuple[int, int]:
    """Create or migrate the tables if need be; the number of the namespace, and of the place.

    Raises:
        ConfigurationError: the tables were made by a newer version.
    """
    if await _version(tx) != VERSION:
        # A transaction ends this lock, so a pooler can't leave it behind.
        await tx.query(f"SELECT pg_advisory_xact_lock({LOCK})")
        await _build(tx)
    await tx.query(
        "INSERT INTO {schema}.namespaces (name) SELECT $1::text WHERE NOT EXISTS "
        "(SELECT 1 FROM {schema}.namespaces WHERE name = $1) ON CONFLICT DO NOTHING",
        namespace,
    )
    (row,) = await tx.query(WHERE, namespace)
    return row["ns"], row["place"]


async def _version(tx: Tx) -> int | None:
    """None: there are no tables."""
    (row,) = await tx.query(_PRESENT)
    if not row["present"]:
        return None
    (row,) = await tx.query(_STANDS)
    version = int(row["value"])
    if version > VERSION:
        raise ConfigurationError(
            f"the tables have version {version}, and this program knows {VERSION} at most; "
            "upgrade bananas"
        )
    return version


async def _build(tx: Tx) -> None:
    version = await _version(tx)
    if version is None:
        (row,) = await tx.query(_MISSING)
        if row["missing"]:
            await tx.query("CREATE SCHEMA {schema}")
        for statement in TABLES:
            await tx.query(statement)
        await tx.query("INSERT INTO {schema}.meta VALUES ('schema', $1)", VERSION)
        # By which a connection is known to be to these tables, and not to others' elsewhere.
        await tx.query("INSERT INTO {schema}.meta VALUES ('place', (random() * 2147483647)::int)")
        return
    while version < VERSION:
        if version not in MIGRATIONS:
            raise ConfigurationError(f"tables of version {version} can't be migrated to {VERSION}")
        for statement in MIGRATIONS[version]:
            await tx.query(statement)
        version += 1
        await tx.query("UPDATE {schema}.meta SET value = $1 WHERE key = 'schema'", version)
