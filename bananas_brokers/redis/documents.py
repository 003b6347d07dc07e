"""Small versioned documents."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

from bananas_brokers.redis.shards import job_of
from bananas_brokers.redis.store import BATCH, BYTES, Store
from bananas_core.errors import ResultBackendError
from bananas_core.job import Doc, Write, WriteAnswer

LARGEST: Final = 256 << 10
_HEAD: Final = struct.Struct(">Qd")


async def cas(store: Store, writes: Sequence[Write]) -> list[WriteAnswer]:
    """L38, L39.

    Raises:
        ResultBackendError: a value is too large; nothing is written.
    """
    check(writes)
    keys = store.keys
    calls: list[list[Any]] = [[]]
    size = 0
    for write in writes:
        value = write.value or b""
        if calls[-1] and (len(calls[-1]) >= 6 * BATCH or size + len(value) > BYTES):
            calls.append([])
            size = 0
        size += len(value)
        calls[-1] += (
            write.key,
            "d" if write.value is None else "w",
            value,
            "" if write.version is None else write.version,
            "" if write.ttl is None else repr(write.ttl),
            job_of(write.key),
        )
    if not writes:
        return []
    names = (keys.docs, keys.doc_keys, keys.doc_expiries, keys.meta, keys.job_docs)
    name = "cas_new" if any(_is_payload(write.key) for write in writes) else "cas"

    async def write_all() -> list[Any]:
        return await store.run_all(name, names, calls)

    kept = any(map(_is_kept, (write.key for write in writes)))
    parts = await (store.kept(write_all) if kept else write_all())
    answers = [answer for part in parts for answer in part]
    return [
        WriteAnswer(done=bool(done), doc=_doc(write.key, stored))
        for write, (done, stored) in zip(writes, answers, strict=True)
    ]


def check(writes: Sequence[Write]) -> None:
    """Raises ResultBackendError if a value is too large."""
    for write in writes:
        size = len(write.value or b"")
        if size > LARGEST:
            raise ResultBackendError(f"document {write.key!r:.80} has {size} bytes, over {LARGEST}")


async def docs(store: Store, prefix: str, after: str, limit: int) -> list[Doc]:
    """L40."""
    names = (store.keys.docs, store.keys.doc_keys)
    found = await store.run("docs", names, prefix, after, limit)
    made = [_doc(key.decode(), stored) for key, stored in zip(found[::2], found[1::2], strict=True)]
    return [doc for doc in made if doc is not None]


async def get_docs(store: Store, keys: Sequence[str]) -> list[Doc | None]:
    """L50."""
    if not keys:
        return []
    parts = [keys[i : i + BATCH] for i in range(0, len(keys), BATCH)]
    answers = await store.run_all("get_docs", (store.keys.docs,), parts)
    stored = [one for answer in answers for one in answer]
    return [_doc(key, one) for key, one in zip(keys, stored, strict=True)]


def _is_payload(key: str) -> bool:
    """Whether it is a part of a job that is about to be put (see ``wire-format.md``)."""
    return key.startswith("job/") and "/payload/" in key


def _is_kept(key: str) -> bool:
    """Whether something that replicas must have depends on it. What running jobs write themselves
    is as safe as their claims, and limits as long as they are renewed."""
    return _is_payload(key) or not key.startswith(("job/", "limit/"))


def _doc(key: str, stored: bytes) -> Doc | None:
    if not stored:
        return None
    version, _ = _HEAD.unpack_from(stored)
    return Doc(key=key, value=stored[_HEAD.size :], version=version)
