"""Running a workflow that has ended again, from where it failed or from a chosen node.

What is to run again is reset from the inside outwards: the nodes of a scope, its pages, then the
scope itself, the workflow last. Until then it counts as ended, so nobody decides anything about a
scope whose nodes are only half reset. Only then it is started, like any other scope, and what has
all its predecessors is released.

A document says that this is going on and how far it is, so that whoever asks again after a crash
completes it; and it is gone when there is nothing left to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from bananas_core.codec import Codecs
from bananas_core.errors import InvalidWorkflow, JobNotFound
from bananas_core.job import FINAL, JobState, Query, Ready, Signal, SignalKind, Write
from bananas_core.results import ResultBackend
from bananas_core.workflow.completion import write_sums
from bananas_core.workflow.engine import REPEATS, advance
from bananas_core.workflow.node import PAGE, End, Grown, node_id, page_key, resume_key
from bananas_core.workflow.pages import ROUNDS, give_up, marked
from bananas_core.workflow.release import release
from bananas_core.workflow.turn import BATCH, Node, Part, Turn, batches, member_ids

RUNNING: Final = (JobState.PENDING, JobState.SCHEDULED, JobState.PROCESSING)


class Intent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is being done, in ``resume_key``."""

    phase: Literal["reset", "release"] = "reset"
    again: tuple[str, ...] = ()
    """Job ids of nodes that run again although they succeeded, with all that follows."""


async def resume(
    backend: ResultBackend, workflow: str, *, codecs: Codecs | None = None
) -> list[Ready]:
    """Run again what did not succeed, outside of scopes that completed (what failed in these was
    tolerated). What succeeded stays. Safe to repeat: after an error or a crash that completes it.

    Returns:
        What must be done now, as ``engine.advance`` does.

    Raises:
        JobNotFound: there is no such workflow.
        InvalidWorkflow: it has not ended, or jobs of it still run.
        ResultBackendError: it is not complete; call it again.
    """
    return await _resume(backend, workflow, (), codecs)


async def rerun(
    backend: ResultBackend, workflow: str, node: str, *, codecs: Codecs | None = None
) -> list[Ready]:
    """Run a node again and all that comes after it, also what succeeded; besides, what did not
    succeed anywhere. Safe to repeat, but a repetition after its end runs them once more.

    Args:
        node: its name in the workflow, or its job id.

    Returns:
        What must be done now, as ``engine.advance`` does.

    Raises:
        JobNotFound: there is no such workflow or node.
        InvalidWorkflow: it has not ended, or jobs of it still run.
        ResultBackendError: it is not complete; call ``resume`` to complete it.
    """
    found = (await Turn(backend).nodes([node])).get(node)
    if found is None or found.info.id != workflow:
        found = await _named(backend, workflow, node)
    return await _resume(backend, workflow, (found.job.id,), codecs)


async def _resume(
    backend: ResultBackend, workflow: str, again: tuple[str, ...], codecs: Codecs | None
) -> list[Ready]:
    turn = Turn(backend, codecs)
    root = (await turn.nodes([workflow])).get(workflow)
    if root is None:
        raise JobNotFound(f"there is no workflow {workflow}: it was never accepted, or was pruned")
    if root.info.scope is not None or not root.job.scope:
        raise InvalidWorkflow(f"job {workflow} is no workflow; a node's workflow is {root.info.id}")
    key = resume_key(workflow)
    old = (await turn.values([key])).get(key)
    intent = Intent() if old is None else msgspec.json.decode(old, type=Intent)
    if root.job.state in FINAL:
        if root.job.state is JobState.COMPLETED and not (again or intent.again):
            return []
        if old is None:
            await _nothing_runs(backend, workflow)
        intent = Intent(again=tuple(dict.fromkeys((*intent.again, *again))))
        await backend.cas([Write(key=key, value=msgspec.json.encode(intent))])
    elif old is None:
        raise InvalidWorkflow(f"workflow {workflow} is still running: cancel it or wait")
    if intent.phase == "reset":
        await _Reset(turn, root, await _following(turn, intent.again)).run()
        intent = replace(intent, phase="release")
        await backend.cas([Write(key=key, value=msgspec.json.encode(intent))])
    for _ in range(REPEATS):
        turn.missed, turn.unmarked = False, []
        await release(turn, (await turn.nodes([workflow])).values())
        if not turn.missed:
            break
    ready = turn.ready
    for batch in batches(turn.unmarked):
        ready += await advance(backend, batch, codecs=codecs)
    await backend.cas([Write(key=key, value=None)])
    return ready


class Following(msgspec.Struct, kw_only=True):
    """What a rerun adds to what did not succeed."""

    again: set[str]
    """Nodes that run again with all that is in them."""
    around: set[str]
    """Nodes in which something runs again: scopes, and jobs that added scopes to themselves."""


async def _following(turn: Turn, again: Sequence[str]) -> Following:
    """The nodes after some, in their scopes and in those around them."""
    found = Following(again=set(), around=set())
    for node in (await turn.nodes(again)).values():
        found.again.add(node.job.id)
        inner: Node | None = node
        while inner is not None:
            await _add_downstream(turn, inner, found.again)
            info = inner.info
            outer = info.scope if info.stands_for is None else info.stands_for
            if outer is None:
                break
            found.around.add(outer)
            inner = (await turn.nodes([outer])).get(outer)
            if info.stands_for is not None and inner is not None and inner.info.scope is not None:
                found.around.add(inner.info.scope)
    return found


async def _add_downstream(turn: Turn, node: Node, again: set[str]) -> None:
    todo = [node]
    while todo:
        ids = {
            node_id(item.info.scope, n)
            for item in todo
            if item.info.scope is not None
            for n in item.info.outs
        }
        new = ids - again
        again |= new
        todo = list((await turn.nodes(new)).values())


class _Reset:
    """One walk from the inside outwards."""

    def __init__(self, turn: Turn, root: Node, following: Following) -> None:
        self._turn = turn
        self._root = root
        self._following = following

    async def run(self) -> None:
        await self._inside(self._root, everything=self._root.job.id in self._following.again)
        if self._root.job.state in FINAL:
            await self._turn.signal([_reset(self._root)])

    async def _inside(self, scope: Node, *, everything: bool) -> None:
        """Reset the nodes of a scope which is to be reset after them."""
        size = (await self._turn.sizes([scope]))[scope.job.id]
        start = 0
        while size is None or start < size:
            stop = start + BATCH if size is None else min(size, start + BATCH)
            part = Part(scope=scope, numbers=range(start, stop))
            if not await self._part(part, everything=everything):
                break
            start = stop

    async def _part(self, part: Part, *, everything: bool) -> int:
        """Reset some nodes and all that is in them; how many exist."""
        found = await self._turn.nodes(member_ids(part))
        grown = await self._turn.grown([n for n in found.values() if not n.job.scope])
        for node in found.values():
            if node.job.scope:
                if self._runs_again(node, everything) or node.job.id in self._following.around:
                    inner = everything or node.job.id in self._following.again
                    await self._inside(node, everything=inner)
            elif node.job.id in grown and not self._runs_again(node, everything):
                await self._added(node, grown[node.job.id])
        await self._mark(part, everything=everything)
        return len(found)

    async def _added(self, node: Node, grown: Grown) -> None:
        """What a job that completed had added to itself, as far as that did not succeed."""
        ids = [id for id, fence in grown.scopes.items() if fence == node.job.fence]
        scopes = [
            scope
            for scope in (await self._turn.nodes(ids)).values()
            if self._runs_again(scope, everything=False) or scope.job.id in self._following.around
        ]
        for scope in scopes:
            await self._inside(scope, everything=scope.job.id in self._following.again)
        if scopes:
            self._following.around.add(node.job.id)
            await self._turn.signal([_reset(scope) for scope in scopes if _may_be_reset(scope)])

    async def _mark(self, part: Part, *, everything: bool) -> None:
        """Reset the records of some nodes, and say in their pages that they are open."""
        scope, turn = part.scope, self._turn
        keys = {_page(scope, i): i // PAGE for i in part.numbers}
        for _ in range(ROUNDS):
            # First the pages, then the records; see engine.py.
            docs = await turn.docs(keys)
            found = await turn.nodes([self._root.job.id, *member_ids(part)])
            root = found[self._root.job.id].job
            if root.state is JobState.WAITING and root.started_at is not None:
                return  # somebody else went on from here
            signals, opened = [], dict[str, dict[int, End]]()
            for i, id in zip(part.numbers, member_ids(part), strict=True):
                node = found.get(id)
                if node is None:
                    continue
                around = id in self._following.around
                if self._runs_again(node, everything) or (around and node.job.scope):
                    if _may_be_reset(node):
                        signals.append(_reset(node))
                elif not around:
                    continue
                opened.setdefault(_page(scope, i), {})[i] = End.OPEN
            await turn.signal(signals)
            # Written even if they say so already: whoever read them before is to be refused.
            writes = []
            for key, ends in opened.items():
                doc = docs[key]
                value = marked(None if doc is None else doc.value, ends)
                writes.append(
                    Write(key=key, value=value, version=0 if doc is None else doc.version)
                )
            answers = await turn.backend.cas(writes) if writes else []
            if all(answer.done for answer in answers):
                break
        else:
            raise give_up(next(iter(keys)))
        if opened and (scope.info.size is None or scope.info.size > PAGE):
            await write_sums(turn, scope, sorted({keys[key] for key in opened}))

    def _runs_again(self, node: Node, everything: bool) -> bool:
        return (
            everything
            or node.job.state is not JobState.COMPLETED
            or node.job.id in self._following.again
        )


def _may_be_reset(node: Node) -> bool:
    """What waits already was reset before, or never started."""
    started = node.job.scope and node.job.started_at is not None
    return node.job.state in FINAL or (node.job.state is JobState.WAITING and started)


def _reset(node: Node) -> Signal:
    return Signal(id=node.job.id, kind=SignalKind.RESET, gen=node.job.gen)


async def _nothing_runs(backend: ResultBackend, workflow: str) -> None:
    page = await backend.query(Query(workflow=workflow, states=RUNNING, limit=1))
    if page.jobs:
        job = page.jobs[0]
        raise InvalidWorkflow(
            f"job {job.id} ({job.name}) of workflow {workflow} is still {job.state.value}; "
            "wait until it has ended"
        )


async def _named(backend: ResultBackend, workflow: str, name: str) -> Node:
    """A node by its name. Raises JobNotFound."""
    turn = Turn(backend)
    cursor = None
    while True:
        page = await backend.query(Query(workflow=workflow, limit=BATCH, cursor=cursor))
        for node in (await turn.nodes(job.id for job in page.jobs)).values():
            if node.info.node == name:
                return node
        cursor = page.cursor
        if cursor is None:
            raise JobNotFound(f"workflow {workflow} has no node {name!r}")


def _page(scope: Node, i: int) -> str:
    return page_key(scope.info.id, scope.job.id, i // PAGE)
