"""What one call into the engine reads and writes the ledger with, in batches."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeVar

import msgspec

from bananas_core.blobs import MAX_PAYLOAD
from bananas_core.codec import Codecs
from bananas_core.job import Doc, Job, Ready, Signal, SignalAnswer, SignalKind
from bananas_core.results import ResultBackend
from bananas_core.workflow.node import (
    PAGE,
    Grown,
    NodeInfo,
    grown_key,
    growth_key,
    info_of,
    node_id,
    seal_key,
)

T = TypeVar("T")

log = logging.getLogger("bananas.workflow")

BATCH: Final = 3 * PAGE
"""Records or signals in one call: whole pages, and under 500."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A record and its place."""

    job: Job
    info: NodeInfo


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Some members of a scope, by number."""

    scope: Node
    numbers: range


class Turn:
    """One call into the engine. ``ready`` collects what has to be done after it; ``missed`` says
    that a record was changed between reading it and writing to it, so that the call has to be
    repeated."""

    def __init__(
        self,
        backend: ResultBackend,
        codecs: Codecs | None = None,
        max_payload: int = MAX_PAYLOAD,
    ) -> None:
        self.backend = backend
        self.codecs = codecs or Codecs()
        self.max_payload = max_payload
        self.ready: list[Ready] = []
        self.missed = False
        self.unmarked: list[Job] = []
        """Nodes of started scopes that had ended and not arrived: their own follow-ups see to
        them, unless they were settled long ago."""

    async def get(self, ids: Iterable[str]) -> dict[str, Job]:
        """Those of the records that exist."""
        found: dict[str, Job] = {}
        for batch in batches(dict.fromkeys(ids)):
            for job in await self.backend.get(batch):
                if job is not None:
                    found[job.id] = job
        return found

    async def nodes(self, ids: Iterable[str]) -> dict[str, Node]:
        """Those of the nodes that exist."""
        return {node.job.id: node for node in readable((await self.get(ids)).values())}

    async def docs(self, keys: Iterable[str]) -> dict[str, Doc | None]:
        """Documents by their keys."""
        found: dict[str, Doc | None] = {}
        for batch in batches(dict.fromkeys(keys)):
            docs = await self.backend.get_docs(batch)
            found.update(zip(batch, docs, strict=True))
        return found

    async def values(self, keys: Iterable[str]) -> dict[str, bytes]:
        """What documents say, of those that exist."""
        docs = await self.docs(keys)
        return {key: doc.value for key, doc in docs.items() if doc is not None}

    async def signal(self, signals: Sequence[Signal]) -> list[SignalAnswer]:
        """Send signals; what must be done because of them is added to ``ready``."""
        answers: list[SignalAnswer] = []
        for batch in batches(signals):
            some, ready = await self.backend.signal(batch)
            answers += some
            self.ready += ready
        return answers

    async def sizes(self, scopes: Iterable[Node]) -> dict[str, int | None]:
        """How many nodes are in each scope, by its id; None while it is not sealed."""
        sizes = {scope.job.id: scope.info.size for scope in scopes}
        keys = {
            seal_key(scope.info.id, scope.job.id): scope.job.id
            for scope in scopes
            if scope.info.size is None
        }
        for key, value in (await self.values(keys)).items() if keys else ():
            sizes[keys[key]] = msgspec.json.decode(value, type=int)
        return sizes

    async def grown(self, nodes: Sequence[Node]) -> dict[str, Grown]:
        """By job id, which scopes the jobs among these nodes added to themselves."""
        if not nodes:
            return {}
        flags = await self.values({growth_key(node.info.id) for node in nodes})
        return await self.grown_of([n for n in nodes if growth_key(n.info.id) in flags])

    async def grown_of(self, nodes: Sequence[Node]) -> dict[str, Grown]:
        """The same for nodes of workflows in which something was added."""
        keys = {grown_key(node.info.id, node.job.id): node.job.id for node in nodes}
        found = await self.values(keys)
        return {keys[key]: msgspec.json.decode(value, type=Grown) for key, value in found.items()}


def readable(jobs: Iterable[Job]) -> list[Node]:
    """The records with their places; one whose message can't be read is left out, or it would
    stop all others again and again."""
    nodes = []
    for job in jobs:
        try:
            nodes.append(Node(job=job, info=info_of(job)))
        except msgspec.MsgspecError as error:
            log.error(
                "job %s of workflow %s has no readable place: %s", job.id, job.workflow, error
            )
    return nodes


def parts(scopes: Iterable[Node], sizes: dict[str, int | None]) -> Iterator[list[Part]]:
    """All members of scopes of known size, in lists of ``BATCH`` members at most."""
    found: list[Part] = []
    room = BATCH
    for scope in scopes:
        size = sizes[scope.job.id] or 0
        start = 0
        while start < size:
            # A large scope begins with a list of its own, so that a page is in one list only.
            stop = min(size, start + (room if size <= room else BATCH))
            if stop - start > room:
                if found:
                    yield found
                found, room = [], BATCH
            found.append(Part(scope=scope, numbers=range(start, stop)))
            room -= stop - start
            start = stop
    if found:
        yield found


def member_ids(part: Part) -> list[str]:
    """The job ids of some members of a scope."""
    return [node_id(part.scope.job.id, i) for i in part.numbers]


def batches(items: Iterable[T]) -> Iterator[list[T]]:
    """The items in lists of ``BATCH``."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def release_signal(node: Node) -> Signal:
    """Has effect on the record as it was read only: if it was reset meanwhile, its time is yet to
    come."""
    return Signal(id=node.job.id, kind=SignalKind.RELEASE, gen=node.job.gen)
