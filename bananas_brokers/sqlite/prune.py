"""What may go goes: final records, their documents, events, forgotten lapses."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from typing import Final

import msgspec

from bananas_brokers.sql import rows
from bananas_brokers.sqlite.records import Place
from bananas_brokers.sqlite.tx import Tx, marks, padded
from bananas_core.job import FINAL, Retention

_YOUNGEST: Final = 600.0
_AT_ONCE: Final = Retention(completed=0.0, failed=0.0, cancelled=0.0, quarantined=0.0)
_FORGIVEN_FOR: Final = 86_400.0
"""Seconds for which a lapse can still be forgiven."""
_PAGE: Final = 500
_MOST_SEEN: Final = 20_000
"""Records that a call looks at for each rule."""

_Mark = tuple[float, int]
"""(finished_at, seq) of a record."""


class Bookmarks:
    """How far a ledger's calls came, for each rule and number of a state. Not shared among
    processes: each passes over what must stay at its own pace."""

    def __init__(self) -> None:
        self.old: dict[int, _Mark] = {}
        self.excess: dict[int, _Mark] = {}


class _Rule(msgspec.Struct, frozen=True, kw_only=True):
    """``state.prunable`` as bounds: when a record of a state must have ended to go now."""

    ns: int
    now: float
    bounds: dict[int, float]

    def lets_go(
        self, state: int, finished_at: float | None, keep_until: float, unsettled: bool
    ) -> bool:
        """``unsettled``: its follow-up is not settled."""
        if finished_at is None or state not in self.bounds or unsettled:
            return False
        return finished_at <= self.bounds[state] and keep_until <= self.now


def prune(tx: Tx, place: Place, policy: Retention, limit: int, bookmarks: Bookmarks) -> int:
    """L42, L43, L51. In a write transaction."""
    gone = _sweep(tx, _rule(place, policy), limit, bookmarks.old)
    if gone < limit:
        over = min(limit - gone, _finals(tx, place.ns) - policy.most)
        gone += _sweep(tx, _rule(place, _AT_ONCE), over, bookmarks.excess)
    execute = tx.connection.execute
    execute(
        # The last one before the first that stays: only what goes is walked through.
        "UPDATE namespaces SET events_from = max(events_from, coalesce((SELECT max(seq) FROM "
        "events WHERE ns = :ns AND seq < coalesce((SELECT min(seq) FROM events "
        "WHERE ns = :ns AND seq > events_from AND at >= :before), 1 << 62)), 0)) WHERE ns = :ns",
        {"ns": place.ns, "before": place.now - policy.events},
    )
    execute(
        "DELETE FROM events WHERE ns = :ns AND seq <= "
        "(SELECT events_from FROM namespaces WHERE ns = :ns)",
        {"ns": place.ns},
    )
    execute(
        "DELETE FROM docs WHERE ns = ? AND expires_at IS NOT NULL AND expires_at <= ?",
        (place.ns, place.now),
    )
    execute("DELETE FROM lapses WHERE ns = ? AND at < ?", (place.ns, place.now - _FORGIVEN_FOR))
    return gone


def _rule(place: Place, policy: Retention) -> _Rule:
    bounds = {
        rows.NUMBERS[final]: place.now - max(_YOUNGEST, getattr(policy, final.value))
        for final in FINAL
    }
    return _Rule(ns=place.ns, now=place.now, bounds=bounds)


def _finals(tx: Tx, ns: int) -> int:
    (count,) = tx.connection.execute(
        "SELECT count(*) FROM jobs WHERE ns = ? AND state >= 4", (ns,)
    ).fetchone()
    return int(count)


def _sweep(tx: Tx, rule: _Rule, limit: int, bookmarks: dict[int, _Mark]) -> int:
    """Delete up to ``limit`` records, first finished first. The nodes of a live workflow may be
    many and in the way, so a call goes on where the last one stopped, then from the beginning."""
    gone, left = 0, _MOST_SEEN
    while gone < limit:
        anew = not bookmarks
        looked, found = _look(tx, rule, limit - gone, left, bookmarks)
        _delete(tx, rule.ns, found)
        gone += len(found)
        left -= looked
        if gone >= limit or left <= 0:
            break
        bookmarks.clear()
        if anew:
            break
    return gone


def _look(
    tx: Tx, rule: _Rule, limit: int, most: int, bookmarks: dict[int, _Mark]
) -> tuple[int, list[tuple[int, str]]]:
    """How many records were looked at, and (seq, id) of those that may go."""
    wholes: dict[str, bool] = {}
    sources = [
        _pages(tx, rule, number, bookmarks.get(number, (-1.0, 0)), wholes) for number in rule.bounds
    ]
    looked = 0
    found: list[tuple[int, str]] = []
    for finished_at, seq, number, job_id, may_go in merge(*sources):
        looked += 1
        bookmarks[number] = (finished_at, seq)
        if may_go:
            found.append((seq, job_id))
        if looked >= most or len(found) >= limit:
            break
    return looked, found


def _pages(
    tx: Tx, rule: _Rule, number: int, mark: _Mark, wholes: dict[str, bool]
) -> Iterator[tuple[float, int, int, str, bool]]:
    """The old enough records of a state behind ``mark`` in order, and whether they may go."""
    cursor = tx.connection.execute(
        "SELECT finished_at, seq, id, workflow, keep_until, guard_at IS NOT NULL FROM jobs "
        "WHERE ns = ? AND state = ? AND state >= 4 AND finished_at <= ? "
        "AND (finished_at, seq) > (?, ?) ORDER BY finished_at, seq",
        (rule.ns, number, rule.bounds[number], *mark),
    )
    while page := cursor.fetchmany(_PAGE):
        _load_wholes(tx, rule, {row[3] for row in page if row[3] is not None}, wholes)
        for finished_at, seq, job_id, workflow, keep_until, unsettled in page:
            may_go = rule.lets_go(number, finished_at, keep_until, unsettled)
            yield finished_at, seq, number, job_id, may_go and wholes.get(workflow, True)


def _load_wholes(tx: Tx, rule: _Rule, workflows: set[str], wholes: dict[str, bool]) -> None:
    """L51: whether the records of these workflows may go; one that is gone is left out."""
    unknown = [workflow for workflow in workflows if workflow not in wholes]
    if not unknown:
        return
    for job_id, *stands in tx.connection.execute(
        "SELECT id, state, finished_at, keep_until, guard_at IS NOT NULL FROM jobs "
        f"WHERE ns = ? AND id IN ({marks(len(unknown))})",
        (rule.ns, *padded(unknown)),
    ):
        wholes[job_id] = rule.lets_go(*stands)


def _delete(tx: Tx, ns: int, gone: list[tuple[int, str]]) -> None:
    seqs = [(seq,) for seq, _ in gone]
    for table in ("jobs", "bodies", "tags"):
        tx.connection.executemany(f"DELETE FROM {table} WHERE seq = ?", seqs)
    tx.connection.executemany(
        "DELETE FROM docs WHERE ns = ? AND key >= ? AND key < ?",
        [(ns, f"job/{job_id}/", f"job/{job_id}0") for _, job_id in gone],  # "0" follows "/"
    )
