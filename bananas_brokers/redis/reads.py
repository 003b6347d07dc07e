"""Listing and counting records, and the feed of events. Beside the index of new jobs, which has
the order of listings, there is none: conditions are looked at record by record."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Final

from bananas_brokers.redis import header
from bananas_brokers.redis.store import Store
from bananas_core.errors import CursorExpired, ResultBackendError
from bananas_core.job import Count, Event, EventPage, Job, JobState, Page, Query

_GROUPS: Final = {"state", "name", "routing_key", "worker", "priority", "workflow"}
_ENTRIES: Final = 50
_SCAN: Final = 500


async def query(store: Store, wish: Query) -> Page:
    """L26: by (created_at, id), newest first; the cursor is the last of them."""
    limit = max(1, wish.limit)
    before = None if wish.cursor is None else _cursor(wish.cursor)
    found: list[Job] = []
    async for jobs in _newest_first(store, wish.until, before):
        for job in jobs:
            if wish.since is not None and job.created_at < wish.since:
                return await _page(store, found, limit)
            if (before is None or (job.created_at, job.id) < before) and matches(job, wish):
                found.append(job)
        if len(found) > limit:
            break
    return await _page(store, found, limit)


async def count(store: Store, by: Sequence[str], wish: Query | None) -> list[Count]:
    """L27."""
    unknown = [name for name in by if name not in _GROUPS]
    if unknown:
        raise ResultBackendError(f"can't group by {unknown}; known: {sorted(_GROUPS)}")
    groups: Counter[tuple[str, ...]] = Counter()
    seen: set[bytes] = set()
    cursor = "0"
    while True:
        answer = await store.call("HSCAN", store.keys.heads, cursor, "COUNT", _SCAN)
        cursor = answer[0].decode()
        for job_id, head in zip(answer[1][::2], answer[1][1::2], strict=True):
            if job_id in seen:  # a scan may give a field twice
                continue
            seen.add(job_id)
            job = header.decode(job_id.decode(), head, None)
            if wish is None or matches(job, wish):
                groups[tuple(_text(getattr(job, name)) for name in by)] += 1
        if cursor == "0":
            break
    if not by and not groups:
        groups[()] = 0
    return [Count(group=group, count=number) for group, number in groups.items()]


def matches(job: Job, wish: Query) -> bool:
    """Whether a record fulfils all conditions; the cursor is not one."""
    return (
        (not wish.states or job.state in wish.states)
        and (wish.name is None or job.name == wish.name)
        and (wish.routing_key is None or job.routing_key == wish.routing_key)
        and (wish.worker is None or job.worker == wish.worker)
        and (wish.workflow is None or job.workflow == wish.workflow)
        and (wish.unique is None or job.unique == wish.unique)
        and (wish.tag is None or wish.tag in job.tags)
        and (wish.since is None or job.created_at >= wish.since)
        and (wish.until is None or job.created_at < wish.until)
        and (wish.pending_before is None or _pending_before(job, wish.pending_before))
    )


async def events(store: Store, after: str, limit: int) -> EventPage:
    """L41. A cursor is the id of a stream entry, and how many of its events were seen if not
    all."""
    keys = store.keys
    if after == "$":
        last = await store.call("XREVRANGE", keys.events, "+", "-", "COUNT", 1)
        start = last[0][0].decode() if last else await _first(store) or "0-1"
        return EventPage(events=(), cursor=start)
    entry, seen = _event_cursor(after)
    first = await _first(store)
    if after and first is not None and _number(entry) < _number(first):
        raise CursorExpired(f"events after {after} are gone; start again from the oldest")
    found: list[Event] = []
    cursor = after or first or "0-0"
    begin = entry if seen else f"({entry}"
    while len(found) < limit:
        entries = await store.call("XRANGE", keys.events, begin, "+", "COUNT", 20)
        if not entries:
            break
        for name, fields in entries:
            if len(found) >= limit:
                break
            batch = _events_of(fields)
            skip = seen if name.decode() == entry else 0
            taken = batch[skip : skip + limit - len(found)]
            found += taken
            upto = skip + len(taken)
            cursor = name.decode() if upto >= len(batch) else f"{name.decode()}.{upto}"
        begin = f"({entries[-1][0].decode()}"
    return EventPage(events=tuple(found), cursor=cursor)


async def _first(store: Store) -> str | None:
    """The last event that is gone."""
    gone = await store.call("HGET", store.keys.meta, "events_from")
    return None if gone is None else str(gone.decode())


def _events_of(fields: Sequence[bytes]) -> list[Event]:
    what = fields[1]
    old = None if what[:1] == b"-" else header.STATES[what[:1]]
    new = header.STATES[what[1:2]]
    (at,) = header.RAN.unpack_from(what, 2)
    found = []
    for shape, value in zip(fields[2::2], fields[3::2], strict=True):
        base, spent, deaths = header.of_shape(shape)
        attempt = spent if new is JobState.QUARANTINED and deaths else spent + 1
        (fence,) = header.FENCE.unpack_from(value)
        workflow = None if base.options is None else base.options.workflow
        for job_id in value[8:].decode().split(" "):
            found.append(
                Event(
                    id=job_id,
                    name=base.name,
                    routing_key=base.routing_key,
                    old=old,
                    new=new,
                    at=at,
                    attempt=attempt,
                    fence=fence,
                    workflow=workflow,
                )
            )
    return found


async def _newest_first(
    store: Store, until: float | None, before: tuple[float, str] | None
) -> AsyncIterator[list[Job]]:
    """Records in the order of listings, without messages and results; those of one instant come
    together."""
    top = min([t for t in (until, None if before is None else before[0]) if t is not None],
              default=None)  # fmt: skip
    high = "+inf" if top is None else repr(top)
    same: list[bytes] = []
    instant: bytes | None = None
    offset = 0
    while True:
        page = await store.call(
            "ZREVRANGEBYSCORE", store.keys.made, high, "-inf", "WITHSCORES", "LIMIT", offset,
            _ENTRIES,
        )  # fmt: skip
        for entry, score in zip(page[::2], page[1::2], strict=True):
            if score != instant and same:
                yield await _sorted(store, same)
                same = []
            instant = score
            same += entry.split(b" ")
        if len(page) < 2 * _ENTRIES:
            if same:
                yield await _sorted(store, same)
            return
        # On from the instant of the last entry, past those of it that were seen.
        last = page[-1]
        seen = sum(1 for score in page[1::2] if score == last)
        offset = offset + seen if high == last.decode() else seen
        high = last.decode()


async def _sorted(store: Store, ids: Sequence[bytes]) -> list[Job]:
    loaded = await store.load([job_id.decode() for job_id in dict.fromkeys(ids)], messages=False)
    return sorted(loaded.jobs.values(), key=lambda job: (job.created_at, job.id), reverse=True)


async def _page(store: Store, found: Sequence[Job], limit: int) -> Page:
    cursor = None
    if len(found) > limit:
        cursor = cursor_of(found[limit - 1])
    ids = [job.id for job in found[:limit]]
    whole = (await store.load(ids, messages=True, results=True)).jobs
    return Page(jobs=tuple(whole[i] for i in ids if i in whole), cursor=cursor)


def _pending_before(job: Job, instant: float) -> bool:
    return job.state is JobState.PENDING and job.pending_at is not None and job.pending_at < instant


def _text(value: object) -> str:
    if isinstance(value, JobState):
        return value.value
    return "" if value is None else str(value)


def cursor_of(job: Job) -> str:
    """Where a page that ends with this record goes on."""
    return f"{job.created_at!r}|{job.id}"


def _cursor(text: str) -> tuple[float, str]:
    created_at, _, job_id = text.partition("|")
    try:
        return float(created_at), job_id
    except ValueError as error:
        raise ResultBackendError(f"{text!r:.80} is not a cursor of this ledger") from error


def _event_cursor(text: str) -> tuple[str, int]:
    if text == "":
        return "0-0", 0
    entry, _, seen = text.partition(".")
    try:
        _number(entry)
        return entry, int(seen or 0)
    except ValueError as error:
        raise ResultBackendError(f"{text!r:.80} is not an event cursor of this ledger") from error


def _number(entry: str) -> tuple[int, int]:
    stamp, _, count = entry.partition("-")
    return int(stamp), int(count)
