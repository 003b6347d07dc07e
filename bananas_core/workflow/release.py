"""Nodes whose turn it is: they are released, or skipped if their condition does not hold.

A scope is started, and then its own first nodes are released in turn. All of it may be repeated:
what was released before is left as it is, and what a crash left out is made up for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from bananas_core.errors import InvalidPayload
from bananas_core.job import FINAL, ErrorInfo, JobState
from bananas_core.workflow.completion import Touched, complete, end_signal
from bananas_core.workflow.node import PAGE, SKIPPED, End, Test, page_key
from bananas_core.workflow.pages import end_at
from bananas_core.workflow.rules import Ending, holds, why_not
from bananas_core.workflow.turn import BATCH, Node, Part, Turn, member_ids, parts, release_signal
from bananas_core.workflow.values import value_of


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A node all of whose predecessors have ended, and how these count."""

    node: Node
    ends: tuple[End, ...] = ()


async def admit(turn: Turn, candidates: Sequence[Candidate]) -> None:
    """Decide for each whether it runs, and see to that."""
    go: list[Node] = []
    endings: list[tuple[Node, Ending]] = []
    for candidate in candidates:
        node = candidate.node
        if node.job.state in FINAL:
            continue
        why = why_not(node.info, candidate.ends)
        if why is None and node.info.tests and _undecided(node):
            try:
                why = await _untrue(turn, node.info.tests)
            except (InvalidPayload, ValueError) as error:
                info = ErrorInfo(type=type(error).__name__, message=f"its condition: {error}")
                endings.append((node, Ending(state=JobState.FAILED, error=info)))
                continue
        if why is None:
            go.append(node)
        else:
            info = ErrorInfo(type=SKIPPED, message=f"its condition did not hold: {why}")
            endings.append((node, Ending(state=JobState.CANCELLED, error=info)))
    answers = await turn.signal([end_signal(node, ending) for node, ending in endings])
    turn.missed |= any(answer.state is JobState.WAITING for answer in answers)
    await release(turn, go)


async def release(turn: Turn, nodes: Iterable[Node]) -> None:
    """Let nodes run, whatever their conditions. Started scopes are gone through again."""
    live = [node for node in nodes if node.job.state not in FINAL]
    scopes = [node for node in live if node.job.scope]
    jobs = [n for n in live if not n.job.scope and n.job.state is JobState.WAITING]
    unique = [node.job for node in jobs if node.job.unique is not None]
    plain = [node for node in (*jobs, *scopes) if node.job.unique is None]
    answers = await turn.signal([release_signal(node) for node in plain])
    for node, answer in zip(plain, answers, strict=True):
        # A job that waits still was changed since it was read (its priority, say).
        turn.missed |= answer.state is JobState.WAITING and not node.job.scope
    if unique:
        from bananas_core.unique import release as release_unique

        turn.ready += await release_unique(turn.backend, unique)
    live_now = {answer.id for answer in answers if answer.state is JobState.WAITING}
    await open_scopes(turn, [scope for scope in scopes if scope.job.id in live_now])


async def open_scopes(turn: Turn, scopes: Sequence[Node]) -> None:
    """Release those nodes of started scopes that wait for no other."""
    if not scopes:
        return
    sizes = await turn.sizes(scopes)
    empty = [scope for scope in scopes if sizes[scope.job.id] == 0]
    if empty:
        await complete(turn, [Touched(scope=scope, pages={}) for scope in empty])
    for some in parts(scopes, sizes):
        await _open(turn, some)
    for scope in scopes:
        if sizes[scope.job.id] is None:
            await _open_endless(turn, scope)


async def _open_endless(turn: Turn, scope: Node) -> None:
    """The members that were put until now; the others are put as free to run."""
    start = 0
    while await _open(turn, [Part(scope=scope, numbers=range(start, start + BATCH))]):
        start += BATCH


async def _open(turn: Turn, some: Sequence[Part]) -> int:
    """Release what is ready among some members; how many of them exist."""
    found = await turn.nodes(id for part in some for id in member_ids(part))
    places: list[tuple[Part, int, Node]] = []
    keys: dict[str, None] = {}
    for part in some:
        for i, id in zip(part.numbers, member_ids(part), strict=True):
            if id in found:
                node = found[id]
                places.append((part, i, node))
                keys.update(dict.fromkeys(_page(part.scope, n) for n in (i, *node.info.after)))
    pages = await turn.values(keys)
    candidates = []
    for part, i, node in places:
        ends = tuple(end_at(pages.get(_page(part.scope, n)), n) for n in node.info.after)
        if end_at(pages.get(_page(part.scope, i)), i) is End.OPEN and End.OPEN not in ends:
            candidates.append(Candidate(node=node, ends=ends))
            if node.job.state in FINAL:
                turn.unmarked.append(node.job)
    await admit(turn, candidates)
    # What ended before its scope was started has not been looked at.
    touched = []
    for part in some:
        numbers = {i // PAGE for i in part.numbers}
        own = {number: pages.get(_page(part.scope, number * PAGE)) for number in numbers}
        marked = {number: page for number, page in own.items() if page is not None}
        if marked:
            touched.append(Touched(scope=part.scope, pages=marked))
    if touched:
        await complete(turn, touched)
    return len(places)


def _undecided(node: Node) -> bool:
    return node.job.state is JobState.WAITING and node.job.started_at is None


async def _untrue(turn: Turn, tests: Sequence[Test]) -> str | None:
    """The first condition that does not hold, in words."""
    jobs = await turn.get(test.of for test in tests)
    for test in tests:
        job = jobs.get(test.of)
        if job is None or not holds(test, await value_of(turn, job)):
            what = "".join(f"[{step!r}]" for step in test.path)
            against = "" if test.op in ("truthy", "falsy") else f" {test.value!r}"
            return f"result{what} {test.op}{against}"
    return None


def _page(scope: Node, i: int) -> str:
    return page_key(scope.info.id, scope.job.id, i // PAGE)
