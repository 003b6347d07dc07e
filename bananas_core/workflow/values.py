"""The results of nodes: of one job, of a group in order, of a dag, and as inputs of others.

Values are put together as JSON text, so that a result is decoded only by who looks into it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from bananas_core.blobs import Stores, decode_result_value
from bananas_core.errors import InvalidPayload, PayloadTooLarge
from bananas_core.job import Job, JobState
from bananas_core.message import encode_payload
from bananas_core.workflow.node import (
    PAGE,
    SKIPPED,
    Kind,
    NodeInfo,
    Path,
    Policy,
    grown_key,
    node_id,
)
from bananas_core.workflow.rules import dig
from bananas_core.workflow.turn import Node, Turn, readable

STEP: Final = 3 * PAGE
"""Members read at once."""
NULL: Final = b"null"


async def value_of(stores: Stores, job: Job) -> Any:
    """The value of a node that has ended, job or scope; None if it keeps none.

    Raises:
        InvalidPayload: a result can't be decoded here; PayloadTooLarge: all of it together is over
            ``max_payload``.
        ResultBackendError: it could not be read.
    """
    return msgspec.json.decode(await _Reader(stores).of(_node(job), Policy.IGNORE))


async def members(stores: Stores, group: Job) -> AsyncIterator[Any]:
    """The values of the members of a group that has ended, in order, read batch by batch.

    Raises:
        InvalidPayload, ResultBackendError: see ``value_of``.
    """
    async for raw in _Reader(stores).members(_node(group)):
        yield msgspec.json.decode(raw)


async def fill_inputs(stores: Stores, info: NodeInfo, payload: bytes) -> bytes:
    """The payload with the values of ancestors where ``inputs`` say so.

    Raises:
        InvalidPayload: a value has no such part, can't be decoded, or the payload no such place;
            PayloadTooLarge: it is over ``max_payload`` then.
        ResultBackendError: a value could not be read.
    """
    if not info.inputs:
        return payload
    reader = _Reader(stores)
    nodes = await Turn(stores.backend).nodes(item.of for item in info.inputs)
    values: dict[str, Any] = {}
    arguments = msgspec.json.decode(payload)
    for item in info.inputs:
        node = nodes.get(item.of)
        if node is None:
            raise InvalidPayload(f"an input of node {info.node!r} is gone: job {item.of}")
        if item.of not in values:
            policy = node.info.on_failure
            values[item.of] = msgspec.json.decode(await reader.of(node, policy))
        name = node.info.node or node.job.name
        try:
            value = dig(values[item.of], item.path)
        except LookupError as error:
            where = "".join(f"[{step!r}]" for step in item.path)
            raise InvalidPayload(
                f"node {info.node!r} needs result{where} of node {name!r}: {error}"
            ) from None
        _place(arguments, item.into, value, info)
    return encode_payload(arguments, max_bytes=stores.max_payload)


class _Reader:
    """Reads values, keeping count of their bytes."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._turn = Turn(stores.backend)
        self._left = stores.max_payload
        self._growing: dict[str, bool] = {}

    async def of(self, node: Node, policy: Policy) -> bytes:
        """The value of a node as JSON. ``policy``: what its failure gives."""
        job, info = node.job, node.info
        if job.state is not JobState.COMPLETED:
            return self._count(_failure(job) if policy is Policy.COLLECT else NULL)
        if info.kind is Kind.GROUP:
            return b"[" + b",".join([raw async for raw in self._members(node)]) + b"]"
        if info.kind is Kind.DAG:
            return await self._dag(node)
        if await self._grows(info.id):
            added = await self._added(node)
            if added:
                values = [await self.of(item, Policy.FAIL) for item in added]
                return values[0] if len(values) == 1 else b"[" + b",".join(values) + b"]"
        raw = await decode_result_value(
            job,
            codecs=self._stores.codecs,
            backend=self._stores.backend,
            max_size=self._stores.max_payload,
        )
        return self._count(NULL if raw is None else raw)

    async def members(self, group: Node) -> AsyncIterator[bytes]:
        """The values of a group's members, without a limit on all of them together."""
        async for raw in self._members(group):
            self._left = self._stores.max_payload
            yield raw

    async def _members(self, group: Node) -> AsyncIterator[bytes]:
        size = (await self._turn.sizes([group]))[group.job.id]
        start = 0
        while size is None or start < size:
            stop = start + STEP if size is None else min(size, start + STEP)
            ids = [node_id(group.job.id, i) for i in range(start, stop)]
            start = stop
            found = await self._turn.nodes(ids)
            if size is None:  # it reached its quorum before all were there
                ids = [id for id in ids if id in found]
                size = None if len(ids) == STEP else start
            for id in ids:
                if id in found:
                    yield await self.of(found[id], group.info.policy)
                else:
                    yield self._count(NULL)

    async def _dag(self, dag: Node) -> bytes:
        results = dag.info.results
        ids = [node_id(dag.job.id, i) for i in results]
        found = await self._turn.nodes(ids)
        nodes = [found[id] for id in ids if id in found]
        if len(results) == 1:
            return await self.of(nodes[0], nodes[0].info.on_failure) if nodes else NULL
        if not results:
            return NULL
        prefix = f"{dag.info.node}/" if dag.info.node else ""
        parts = []
        for node in nodes:
            key = msgspec.json.encode(node.info.node.removeprefix(prefix))
            parts.append(key + b":" + await self.of(node, node.info.on_failure))
        return b"{" + b",".join(parts) + b"}"

    async def _grows(self, workflow: str) -> bool:
        """Whether any job of the workflow has added something to itself."""
        if workflow not in self._growing:
            found = await self._stores.backend.docs(grown_key(workflow, ""), limit=1)
            self._growing[workflow] = bool(found)
        return self._growing[workflow]

    async def _added(self, node: Node) -> list[Node]:
        grown = (await self._turn.grown_of([node])).get(node.job.id)
        if grown is None:
            return []
        ids = [id for id, fence in grown.scopes.items() if fence == node.job.fence]
        found = await self._turn.nodes(ids)
        return [found[id] for id in ids if id in found]

    def _count(self, raw: bytes) -> bytes:
        self._left -= len(raw) + 1
        if self._left < 0:
            raise PayloadTooLarge(
                f"results together are over max_payload = {self._stores.max_payload}; "
                "read the members of the group one by one"
            )
        return raw


def _node(job: Job) -> Node:
    nodes = readable([job])
    return nodes[0] if nodes else Node(job=job, info=NodeInfo(id=job.workflow or job.id))


def _failure(job: Job) -> bytes:
    """What a collected failure looks like. A skipped node is none."""
    if job.error is not None and job.error.type == SKIPPED:
        return NULL
    if job.error is not None:
        error = {"type": job.error.type, "message": job.error.message}
    else:
        reason = job.cancel.reason if job.cancel is not None else None
        error = {"type": "JobCancelled", "message": reason or "it was cancelled"}
    return msgspec.json.encode({"error": error})


def _place(arguments: Any, into: Path, value: Any, info: NodeInfo) -> None:
    """Put ``value`` at ``into``; the last step may be a new key."""
    try:
        if not into:
            raise LookupError("an input must have a place")
        target = dig(arguments, into[:-1])
        last = into[-1]
        if isinstance(target, dict) and isinstance(last, str):
            target[last] = value
            return
        dig(target, (last,))
        target[last] = value
    except LookupError as error:
        raise InvalidPayload(
            f"the payload of node {info.node!r} has no place for an input: {error}"
        ) from None
