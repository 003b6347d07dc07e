"""Small versioned documents, and the event feed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from bananas_brokers.sqlite.tx import Tx, marks, padded
from bananas_core.errors import CursorExpired, ResultBackendError
from bananas_core.job import Doc, Event, EventPage, Write, WriteAnswer

LARGEST: Final = 256 << 10
_CHUNK: Final = 1000

_events = msgspec.msgpack.Decoder(list[Event])


def check(writes: Sequence[Write]) -> None:
    """L38. Raises ResultBackendError for a value that is too large."""
    for write in writes:
        if write.value is not None and len(write.value) > LARGEST:
            raise ResultBackendError(
                f"document {write.key!r:.80} has {len(write.value)} bytes, over {LARGEST}"
            )


def cas(tx: Tx, ns: int, now: float, writes: Sequence[Write]) -> list[WriteAnswer]:
    """L38, L39. In a write transaction, after ``check``."""
    return [_write(tx, ns, now, write) for write in writes]


def docs(tx: Tx, ns: int, now: float, prefix: str, after: str, limit: int) -> list[Doc]:
    """L40."""
    # Of two bounds SQLite would begin at the one it likes, so it is given one.
    first, bound = ("key > ?", after) if after >= prefix else ("key >= ?", prefix)
    found: list[Doc] = []
    for key, value, version in tx.connection.execute(
        f"SELECT key, value, version FROM docs WHERE ns = ? AND {first} "
        "AND (expires_at IS NULL OR expires_at > ?) ORDER BY key",
        (ns, bound, now),
    ):
        if not key.startswith(prefix) or len(found) >= limit:
            break
        found.append(Doc(key=key, value=value, version=version))
    return found


def get(tx: Tx, ns: int, now: float, keys: Sequence[str]) -> dict[str, Doc]:
    """L50: the documents there are, by key."""
    found: dict[str, Doc] = {}
    for start in range(0, len(keys), _CHUNK):
        part = list(keys[start : start + _CHUNK])
        for key, value, version in tx.connection.execute(
            f"SELECT key, value, version FROM docs WHERE ns = ? AND key IN ({marks(len(part))}) "
            "AND (expires_at IS NULL OR expires_at > ?)",
            (ns, *padded(part), now),
        ):
            found[key] = Doc(key=key, value=value, version=version)
    return found


def events(tx: Tx, ns: int, after: str, limit: int) -> EventPage:
    """L41. A cursor is a row's number, and how many of the row's events were seen if not all."""
    execute = tx.connection.execute
    (start,) = execute("SELECT events_from FROM namespaces WHERE ns = ?", (ns,)).fetchone()
    if after == "$":
        (last,) = execute("SELECT coalesce(max(seq), 0) FROM events WHERE ns = ?", (ns,)).fetchone()
        return EventPage(events=(), cursor=str(max(last, start)))
    seq, seen = (start, 0) if after == "" else _cursor(after)
    if seq < start:
        raise CursorExpired(f"events after {after} are gone; start again from the oldest")
    found: list[Event] = []
    cursor = f"{seq}.{seen}" if seen else str(seq)
    for number, body in execute(
        "SELECT seq, body FROM events WHERE ns = ? AND seq >= ? ORDER BY seq",
        (ns, seq if seen else seq + 1),
    ):
        if len(found) >= limit:
            break
        batch = _events.decode(body)
        skip = seen if number == seq else 0
        taken = batch[skip : skip + limit - len(found)]
        found += taken
        upto = skip + len(taken)
        cursor = str(number) if upto >= len(batch) else f"{number}.{upto}"
    return EventPage(events=tuple(found), cursor=cursor)


def _write(tx: Tx, ns: int, now: float, write: Write) -> WriteAnswer:
    execute = tx.connection.execute
    row = execute(
        "SELECT value, version FROM docs WHERE ns = ? AND key = ? "
        "AND (expires_at IS NULL OR expires_at > ?)",
        (ns, write.key, now),
    ).fetchone()
    current = None if row is None else Doc(key=write.key, value=row[0], version=row[1])
    if write.version is not None and write.version != (current.version if current else 0):
        return WriteAnswer(done=False, doc=current)
    if write.value is None:
        execute("DELETE FROM docs WHERE ns = ? AND key = ?", (ns, write.key))
        return WriteAnswer(done=True)
    version = tx.take("version")
    execute(
        "INSERT INTO docs (ns, key, value, version, expires_at) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (ns, key) DO UPDATE SET value = excluded.value, version = excluded.version, "
        "expires_at = excluded.expires_at",
        (
            ns,
            write.key,
            write.value,
            version,
            None if write.ttl is None else now + write.ttl,
        ),
    )
    return WriteAnswer(done=True, doc=Doc(key=write.key, value=write.value, version=version))


def _cursor(text: str) -> tuple[int, int]:
    number, _, seen = text.partition(".")
    try:
        return int(number), int(seen or 0)
    except ValueError as error:
        raise ResultBackendError(f"{text!r:.80} is not an event cursor of this ledger") from error
