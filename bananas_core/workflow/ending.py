"""What becomes of the nodes inside a scope that ended early, and of those that a job added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from bananas_core.job import FINAL, Doc, Job, JobState, Signal, SignalKind
from bananas_core.workflow.node import (
    PAGE,
    End,
    Grown,
    NodeInfo,
    Policy,
    growth_key,
    page_key,
)
from bananas_core.workflow.pages import end_at
from bananas_core.workflow.release import release
from bananas_core.workflow.rules import counted, end_of, worst
from bananas_core.workflow.turn import BATCH, Node, Part, Turn, member_ids, parts


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """A node that has ended, together with all that it added to itself."""

    id: str
    info: NodeInfo
    end: End
    cause: Job
    """The record that says why, if it failed."""
    proofs: tuple[tuple[str, int], ...]
    """Ids and generations of the records that say so: were one of them reset meanwhile, it isn't
    true any more."""

    def counts_in(self, scope: NodeInfo) -> End:
        """What the page of its scope is to say."""
        return counted(scope, self.info, self.end)


async def arrivals(
    turn: Turn, nodes: Sequence[Node], docs: Mapping[str, Doc | None]
) -> list[Arrival]:
    """Which nodes have ended as seen from their scopes. A job that added scopes to itself has when
    these have; they are started here, once it completed.

    Args:
        docs: with those of ``growth_key``.
    """
    found: list[Arrival] = []
    jobs = [node for node in nodes if not node.job.scope]
    grows = [node for node in jobs if docs.get(growth_key(node.info.id)) is not None]
    grown = await turn.grown_of(grows) if grows else {}
    for node in jobs:
        if node.job.id in grown:
            found += await _with_growth(turn, node, grown[node.job.id], start=True)
        elif node.info.scope is not None:
            found.append(_plain(node))
    standing = [node for node in nodes if node.info.stands_for is not None]
    for node in nodes:
        if node.job.scope and node.info.scope is not None and node.info.stands_for is None:
            found.append(_plain(node))
    if standing:
        found += await _stood_for(turn, standing)
    return found


async def cancel_insides(turn: Turn, scopes: Sequence[Node]) -> None:
    """Cancel all that has not ended in scopes that have. Safe to repeat."""
    early = [
        scope
        for scope in scopes
        if scope.job.state is not JobState.COMPLETED or scope.info.policy is Policy.QUORUM
    ]
    if not early:
        return
    sizes = await turn.sizes(early)
    for some in parts(early, sizes):
        await _cancel(turn, await _still_ended(turn, some))
    for scope in early:
        start = 0
        while sizes[scope.job.id] is None:
            part = Part(scope=scope, numbers=range(start, start + BATCH))
            if not await _cancel(turn, await _still_ended(turn, [part])):
                break
            start += BATCH


async def _still_ended(turn: Turn, some: Sequence[Part]) -> list[Part]:
    """Without the scopes that were reset since this began: their nodes are to run again."""
    now = await turn.get(part.scope.job.id for part in some)
    return [
        part
        for part in some
        if (job := now.get(part.scope.job.id)) is not None and job.gen == part.scope.job.gen
    ]


async def _cancel(turn: Turn, some: Sequence[Part]) -> int:
    """Cancel some members; how many of them exist."""
    pages = await turn.values(
        _page(part.scope, number * PAGE)
        for part in some
        for number in {i // PAGE for i in part.numbers}
    )
    signals, ended = [], 0
    for part in some:
        reason = _reason(part.scope)
        for i, id in zip(part.numbers, member_ids(part), strict=True):
            if end_at(pages.get(_page(part.scope, i)), i) is End.OPEN:
                signals.append(_cancel_signal(id, reason))
            else:
                ended += 1
    answers = await turn.signal(signals)
    # Those that completed and have not arrived may have added scopes, which still run.
    done = [answer.id for answer in answers if answer.state is JobState.COMPLETED]
    if done:
        nodes = [node for node in (await turn.nodes(done)).values() if not node.job.scope]
        added = [id for grown in (await turn.grown(nodes)).values() for id in grown.scopes]
        await turn.signal([_cancel_signal(id, "its workflow goes no further") for id in added])
    return ended + sum(answer.state is not None for answer in answers)


async def _with_growth(turn: Turn, node: Node, grown: Grown, *, start: bool) -> list[Arrival]:
    """The arrival of a final job that added scopes to itself, if these have ended too. Those of a
    run that did not complete it are cancelled."""
    completed = node.job.state is JobState.COMPLETED
    added = await turn.nodes(grown.scopes)
    mine = [
        added[id]
        for id, fence in grown.scopes.items()
        if id in added and completed and fence == node.job.fence
    ]
    if start:
        scope = None
        if node.info.scope is not None:
            scope = (await turn.get([node.info.scope])).get(node.info.scope)
        goes_on = scope is not None and scope.state not in FINAL
        kept = {item.job.id for item in mine} if goes_on else set()
        over = [item for item in added.values() if item.job.id not in kept]
        why = "the run that added it did not complete" if goes_on else "its workflow has ended"
        await turn.signal([_cancel_signal(n.job.id, why) for n in over if n.job.state not in FINAL])
        await release(turn, [item for item in mine if item.job.id in kept])
    if not mine:
        return [_plain(node)] if node.info.scope is not None else []
    if any(item.job.state not in FINAL for item in mine):
        return []
    ends = [end_of(item.job) for item in mine]
    end = worst(ends)
    cause = mine[ends.index(end)].job if end in ends else node.job
    proofs = tuple((item.job.id, item.job.gen) for item in (node, *mine))
    return [Arrival(id=node.job.id, info=node.info, end=end, cause=cause, proofs=proofs)]


async def _stood_for(turn: Turn, standing: Sequence[Node]) -> list[Arrival]:
    """Jobs that added these scopes, as far as nothing that they added is open any more."""
    ids = dict.fromkeys(node.info.stands_for for node in standing if node.info.stands_for)
    nodes = [n for n in (await turn.nodes(ids)).values() if n.job.state is JobState.COMPLETED]
    grown = await turn.grown_of(nodes)
    found: list[Arrival] = []
    for node in nodes:
        if node.job.id in grown:
            found += await _with_growth(turn, node, grown[node.job.id], start=False)
    return found


def _plain(node: Node) -> Arrival:
    return Arrival(
        id=node.job.id,
        info=node.info,
        end=end_of(node.job),
        cause=node.job,
        proofs=((node.job.id, node.job.gen),),
    )


def _cancel_signal(id: str, reason: str) -> Signal:
    return Signal(id=id, kind=SignalKind.CANCEL, by="workflow", reason=reason)


def _reason(scope: Node) -> str:
    job = scope.job
    if job.state is JobState.COMPLETED:
        return "enough others succeeded"
    if job.cancel is not None and job.cancel.reason:
        return job.cancel.reason
    if job.error is not None:
        return f"the workflow ended here: {job.error.message}"
    return "the workflow was cancelled here"


def _page(scope: Node, i: int) -> str:
    return page_key(scope.info.id, scope.job.id, i // PAGE)
