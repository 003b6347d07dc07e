"""What may go goes: final records, their documents, events, forgotten lapses."""

from __future__ import annotations

from typing import Final

from bananas_brokers.postgres.database import Tx
from bananas_brokers.postgres.store import Store
from bananas_brokers.sql.rows import NUMBERS
from bananas_core.job import FINAL, Retention

_YOUNGEST: Final = 600.0
_FORGIVEN_FOR: Final = 86_400.0
"""Seconds for which a lapse can still be forgiven."""
_MOST_SEEN: Final = 20_000
"""Records that a call looks at for each rule."""
_START: Final = (float("-inf"), "")
_EXCESS: Final = (
    "SELECT count(*) FROM (SELECT 1 FROM {schema}.jobs WHERE ns = $1::int AND state >= 4 "
    "OFFSET $2::bigint LIMIT $3::bigint) AS over"
)
_FIRST: Final = (
    "SELECT finished_at FROM {schema}.jobs WHERE ns = $1::int AND state = $2::smallint "
    "AND state >= 4 AND finished_at <= $3::float8 ORDER BY ns, state, finished_at, id LIMIT $4::int"
)

_Mark = tuple[float, str]
"""(finished_at, id) of a record."""


class Bookmarks:
    """How far a ledger's calls came, for each state: the nodes of a live workflow may be many and
    in the way. Not shared among processes."""

    def __init__(self) -> None:
        self.old: dict[int, _Mark] = {}
        self.excess: dict[int, _Mark] = {}


async def prune(store: Store, policy: Retention, limit: int, bookmarks: Bookmarks) -> int:
    """L42, L43, L51."""
    (row,) = await store.run("now", store.now())
    now = row["now"]
    bounds = {NUMBERS[state]: now - max(_YOUNGEST, getattr(policy, state.value)) for state in FINAL}
    gone = await _sweep(store, bounds, bounds, limit, bookmarks.old)
    if gone < limit:
        gone += await _excess(store, now, policy.most, limit - gone, bookmarks.excess)
    await store.transact(lambda tx: _rest(tx, store.ns, now, policy))
    return gone


async def _sweep(
    store: Store,
    bounds: dict[int, float],
    wholes: dict[int, float],
    limit: int,
    bookmarks: dict[int, _Mark],
) -> int:
    """Delete up to ``limit`` records that ended before their state's bound. ``wholes``: the bounds
    for the workflow that a record is a node of."""
    gone = 0
    order = [wholes[number] for number in sorted(wholes)]
    for number, bound in bounds.items():
        anew, left = number not in bookmarks, _MOST_SEEN
        while gone < limit and left > 0:
            at, job_id = bookmarks.get(number, _START)
            (row,) = await store.run(
                "prune",
                store.ns,
                store.now(),
                number,
                bound,
                at,
                job_id,
                min(left, 2 * (limit - gone) + 500),
                limit - gone,
                order,
            )
            gone += row["gone"]
            left -= max(1, row["seen"])
            if row["chosen"] >= limit - gone + row["gone"]:
                break  # what was looked at behind the last of them is looked at again
            if row["seen"]:
                bookmarks[number] = (row["at"], row["id"])
                continue
            bookmarks.pop(number, None)
            if anew:
                break
            anew = True
    return gone


async def _excess(
    store: Store, now: float, most: int, limit: int, bookmarks: dict[int, _Mark]
) -> int:
    """By count: the first finished go, of whatever state, if they may go at all."""
    ns, youngest = store.ns, now - _YOUNGEST

    async def look(tx: Tx) -> tuple[int, dict[int, float]]:
        (row,) = await tx.query(_EXCESS, ns, most, limit)
        over = int(row[0])
        ends: list[tuple[float, int]] = []
        if over:
            for state in FINAL:
                number = NUMBERS[state]
                rows = await tx.query(_FIRST, ns, number, youngest, over)
                ends += [(row[0], number) for row in rows]
        bounds: dict[int, float] = {}
        for at, number in sorted(ends)[:over]:
            bounds[number] = at
        return over, bounds

    over, bounds = await store.transact(look)
    if not over:
        return 0
    wholes = {NUMBERS[state]: youngest for state in FINAL}
    gone = await _sweep(store, bounds, wholes, over, bookmarks)
    if gone < over:  # some of the first must stay, so that later ones go instead
        gone += await _sweep(store, wholes, wholes, over - gone, bookmarks)
    return gone


async def _rest(tx: Tx, ns: int, now: float, policy: Retention) -> None:
    await tx.query(
        # The last one before the first that stays: only what goes is walked through.
        "UPDATE {schema}.namespaces AS n SET events_from = greatest(n.events_from, coalesce(("
        "SELECT max(seq) FROM {schema}.events WHERE ns = $1::int AND seq < coalesce(("
        "SELECT min(seq) FROM {schema}.events WHERE ns = $1::int AND seq > n.events_from "
        "AND at >= $2::float8), 9223372036854775807)), 0)) WHERE n.ns = $1::int",
        ns,
        now - policy.events,
    )
    await tx.query(
        "DELETE FROM {schema}.events WHERE ns = $1::int AND seq <= "
        "(SELECT events_from FROM {schema}.namespaces WHERE ns = $1::int)",
        ns,
    )
    await tx.query(
        "DELETE FROM {schema}.docs WHERE (ns, key) IN (SELECT ns, key FROM {schema}.docs "
        "WHERE ns = $1::int AND expires_at IS NOT NULL AND expires_at <= $2::float8 "
        "FOR UPDATE SKIP LOCKED)",
        ns,
        now,
    )
    await tx.query(
        "DELETE FROM {schema}.lapses WHERE ns = $1::int AND at < $2::float8",
        ns,
        now - _FORGIVEN_FOR,
    )
