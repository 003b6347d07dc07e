"""Reading the records of a workflow in their order, a batch at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import msgspec

from bananas_core.job import Job
from bananas_core.results import ResultBackend
from bananas_core.workflow.node import Grown, Kind, NodeInfo, grown_key, info_of, node_id, seal_key

BATCH: Final = 500


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A record of a workflow. ``depth``: scopes that it is in. ``left_out``: how many members
    after it in its group are not shown."""

    job: Job
    info: NodeInfo
    depth: int
    left_out: int = 0


async def walk(backend: ResultBackend, root: Job, most: int | None = None) -> AsyncIterator[Found]:
    """The records of a scope and all in it, each scope before what is in it, members in order;
    what a job added to itself comes below it.

    Args:
        most: members of one group that are read; the others are left out.
    """
    info = info_of(root)
    async for found in _walk(backend, root, info, 0, most, await _all_grown(backend, info.id)):
        yield found


async def children(
    backend: ResultBackend, scope: Job, info: NodeInfo, most: int | None = None
) -> AsyncIterator[tuple[Job, NodeInfo]]:
    """The records directly in a scope, in order. ``most``: of a group."""
    size = await size_of(backend, scope, info)
    if info.kind is not Kind.GROUP:
        most = None
    last = size if most is None or size is None else min(size, most)
    i = 0
    while last is None or i < last:
        end = i + BATCH if last is None else min(last, i + BATCH)
        if most is not None:
            end = min(end, most)
        jobs = await backend.get([node_id(scope.id, n) for n in range(i, end)])
        for job in jobs:
            if job is not None:
                yield job, info_of(job)
        if last is None and (None in jobs or end == most):
            return  # the end of what was submitted so far
        i = end


async def size_of(backend: ResultBackend, scope: Job, info: NodeInfo) -> int | None:
    """How many members it has; None while they are still being submitted."""
    if info.size is not None:
        return info.size
    (seal,) = await backend.get_docs([seal_key(info.id, scope.id)])
    return None if seal is None else msgspec.json.decode(seal.value, type=int)


async def _all_grown(backend: ResultBackend, workflow: str) -> dict[str, Grown]:
    """By job id, what nodes added to themselves."""
    found: dict[str, Grown] = {}
    prefix = after = grown_key(workflow, "")
    while docs := await backend.docs(prefix, after=after):
        for doc in docs:
            found[doc.key.removeprefix(prefix)] = msgspec.json.decode(doc.value, type=Grown)
        after = docs[-1].key
    return found


async def _walk(
    backend: ResultBackend,
    job: Job,
    info: NodeInfo,
    depth: int,
    most: int | None,
    grown: dict[str, Grown],
) -> AsyncIterator[Found]:
    below: list[Job] = []
    left_out = 0
    if info.kind is None:
        added = grown[job.id].scopes if job.id in grown else {}
        ids = [id for id, fence in added.items() if fence == job.fence]
        below = [scope for scope in await backend.get(ids) if scope is not None] if ids else []
    elif most is not None and info.kind is Kind.GROUP:
        left_out = max(0, (await size_of(backend, job, info) or 0) - most)
    yield Found(job=job, info=info, depth=depth, left_out=left_out)
    for scope in below:
        async for found in _walk(backend, scope, info_of(scope), depth + 1, most, grown):
            yield found
    if info.kind is not None:
        async for child, its in children(backend, job, info, most):
            async for found in _walk(backend, child, its, depth + 1, most, grown):
                yield found
