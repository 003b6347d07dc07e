"""What a change of a record means for the keys: pure functions from old and new to commands.

The commands run in ``_apply.lua`` if the stored header is still the old one; those that begin with
``!`` are its own. Every index of a record is kept here and, for what the quick scripts do, there.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bananas_brokers.redis.header import FENCE, LETTERS, RAN, SHAPE, SIZE, encode
from bananas_brokers.redis.header import changes_of as _changes_of
from bananas_brokers.redis.header import kind_of as _kind_of
from bananas_brokers.redis.keys import Keys
from bananas_core import state
from bananas_core.job import FINAL, Job, JobState

Command = tuple[str | bytes | int | float, ...]

_NO_EXTRAS: Final = ord("0")
LAPSED_FOR: Final = 86_400
"""Seconds for which a lapse can still be forgiven."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """From one value of a record to the next. ``head`` is the stored header of the old one, empty
    if there is none. ``lapse``: the session whose silence is the reason."""

    old: Job | None
    new: Job
    head: bytes = b""
    lapse: str | None = None


def commands(keys: Keys, change: Change, *, guard: bool) -> list[Command]:
    """All that must be written for a change."""
    old, new = change.old, change.new
    count = _changes_of(change.head) + 1 if change.head else 0
    stored = encode(new, count, guard=guard)
    made: list[Command] = [("HSET", keys.heads, new.id, stored.head)]
    if stored.extras is not None:
        made.append(("HSET", keys.extras, new.id, stored.extras))
    elif change.head and change.head[59] != _NO_EXTRAS:
        made.append(("HDEL", keys.extras, new.id))
    if old is None:
        made.append(("ZADD", keys.made, repr(new.created_at), new.id))
    if old is None or new.message is not old.message:
        made.append(("HSET", keys.messages, new.id, new.message))
    if new.result is not None and (old is None or new.result is not old.result):
        made.append(("HSET", keys.results, new.id, new.result))
    elif old is not None and old.state in FINAL and new.state not in FINAL:
        made.append(("HDEL", keys.results, new.id))
    made += _due(keys, old, new)
    kind = _kind_of(change.head) if change.head else ""
    made += _pending(keys, old, new, kind, guard=guard)
    if old is not None and old.state is JobState.PROCESSING and old.state is not new.state:
        made.append(("!unclaim", keys.claims(old.worker or ""), str(old.fence)))
    made += _finals(keys, old, new)
    if change.lapse is not None:
        charged = keys.lapsed(change.lapse)
        made += [("SADD", charged, new.id), ("EXPIRE", charged, LAPSED_FOR)]
    if state.event(old, new) is not None:
        made.append(_event(keys, old, new, stored.head))
    return made


def _due(keys: Keys, old: Job | None, new: Job) -> list[Command]:
    before = None if old is None else old.due_at
    after = new.due_at
    if after is not None and after != before:
        return [("ZADD", keys.due, repr(after), new.id)]
    if after is None and before is not None:
        return [("ZREM", keys.due, new.id)]
    return []


def _pending(keys: Keys, old: Job | None, new: Job, kind: str, *, guard: bool) -> list[Command]:
    """Ready lists, or what stands for them beside another transport."""
    was = old is not None and old.state is JobState.PENDING
    now = new.state is JobState.PENDING
    if was and now and old is not None and old.gen == new.gen and (kind == "Z") is guard:
        return []
    made: list[Command] = []
    if was and old is not None:
        if kind == "Z":
            made.append(("ZREM", keys.pending(old.routing_key), new.id))
        else:  # the entry stays in its list and is passed over there
            made.append(("!add", keys.stale, old.routing_key, 1))
    if now and guard:
        made.append(("ZADD", keys.pending(new.routing_key), repr(new.pending_at or 0.0), new.id))
    elif now:
        entry = new.id if new.gen == 1 else f"{new.id} {new.gen}"
        push = "LPUSH" if new.head else "RPUSH"
        level = new.priority
        made += [
            (push, keys.ready(new.routing_key, level), entry),
            ("ZADD", keys.levels(new.routing_key), level, str(level)),
            ("!wake", new.routing_key),
        ]
    return made


def _finals(keys: Keys, old: Job | None, new: Job) -> list[Command]:
    was = old is not None and old.state in FINAL
    now = new.state in FINAL
    if not was and not now:
        return []
    if now and not was:
        entry = RAN.pack(new.finished_at or 0.0) + new.id.encode()
        return [
            ("RPUSH", keys.finals(new.state), entry),
            ("HINCRBY", keys.meta, "finals", 1),
            ("PUBLISH", keys.done, new.id),
        ]
    if was and not now:
        return [("HINCRBY", keys.meta, "finals", -1), ("ZREM", keys.later, new.id)]
    return [recall_of(keys, new)]


def recall_of(keys: Keys, job: Job) -> Command:
    """Into the order of ends again, if ``prune`` had set the record aside."""
    entry = RAN.pack(job.finished_at or 0.0) + job.id.encode()
    return ("!recall", keys.later, job.id, keys.finals(job.state), entry)


def _event(keys: Keys, old: Job | None, new: Job, head: bytes) -> Command:
    before = b"-" if old is None else LETTERS[old.state]
    size = int.from_bytes(head[SIZE - 2 : SIZE], "big")
    shape = head[SHAPE : SIZE + size]
    what = before + LETTERS[new.state] + RAN.pack(new.changed_at)
    return ("XADD", keys.events, "*", "h", what, shape, FENCE.pack(new.fence) + new.id.encode())
