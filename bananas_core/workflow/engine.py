"""The engine of workflows: what follows from the end of a node.

W1. Of the successors of a node, and of a workflow as a whole, each comes to its turn exactly once,
    whoever runs the engine, how often, and wherever it crashes.
W2. A node runs when all its predecessors have ended as its trigger and conditions want; else it is
    skipped, which is an end like others and no failure.
W3. A scope ends when its last member has: completed, or failed as its policy has it. An empty one
    completes at once.
W4. A failure that nobody handles ends a scope of policy ``fail`` at once, and cancels all in it
    that has not ended; the error names the node in which it began.
W5. A quorum completes a group with the success that reaches it and fails it with the failure that
    makes it impossible; the rest is cancelled.
W6. The deadline of a scope, and a cancel, end it and everything inside.
W7. What a job adds to itself stands for it: it is started when the job completes, and what comes
    after the job waits for it.
W8. No document grows with a scope, and a member's end costs as much in a large one as in a small.
W9. A resumed workflow runs again what did not succeed, a rerun what follows from a node; a crash in
    between is made good by asking again.

Ends are kept as marks in pages (``pages.py``) that everybody sets in the same way, so a call may be
repeated and may race with others. One rule of order holds it together: *write your own part, then
read that of the others*. And one more: a failure that ends its scope does so before it is marked,
so that nobody completes a scope in which it is marked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bananas_core.codec import Codecs
from bananas_core.job import FINAL, Doc, Job, JobState, Ready, Signal
from bananas_core.results import ResultBackend
from bananas_core.workflow.completion import Touched, complete, end_signal
from bananas_core.workflow.ending import Arrival, arrivals, cancel_insides
from bananas_core.workflow.node import PAGE, End, growth_key, node_id, page_key
from bananas_core.workflow.pages import ROUNDS, end_at, give_up, marked, pages_in, write_round
from bananas_core.workflow.release import Candidate, admit, open_scopes, release
from bananas_core.workflow.rules import Ending, failed_by, fails_scope
from bananas_core.workflow.turn import Node, Turn, readable

REPEATS = 5
"""Tries of a call whose records others change meanwhile; then it is left to its guards."""


async def advance(
    backend: ResultBackend, jobs: Sequence[Job], *, codecs: Codecs | None = None
) -> list[Ready]:
    """Do what follows from the end of some nodes. Safe to repeat, and to race with others.

    Args:
        jobs: final records of nodes, at most some hundred.
        codecs: of the app, for conditions on results.

    Returns:
        What must be done now: messages to send, and further ends to follow up.

    Raises:
        ResultBackendError: it is not complete; call it again.
    """
    turn = Turn(backend, codecs)
    wanted = {job.id: job.gen for job in jobs}
    for _ in range(REPEATS):
        nodes = readable(jobs)
        await cancel_insides(turn, [node for node in nodes if node.job.scope])
        inner = [node for node in nodes if node.info.scope is not None]
        # Pages are read before the records that prove the ends: a reset writes them afterwards,
        # so a mark that it made untrue is refused.
        docs = await turn.docs(_to_read(inner))
        await _arrive(turn, await arrivals(turn, inner, docs), docs)
        if not turn.missed:
            break
        turn.missed = False
        found = (await turn.get(wanted)).values()
        jobs = [job for job in found if job.gen == wanted[job.id]]
    return turn.ready


async def check_scope(
    backend: ResultBackend,
    scope_id: str,
    *,
    repair: bool = False,
    codecs: Codecs | None = None,
) -> list[Ready]:
    """See to a scope whose last members were put, after it was sealed if it needed that: it may be
    empty, all of them may have ended already, or it may have ended early. Safe to repeat.

    Args:
        repair: release those of its members again that should have been.

    Returns:
        What must be done now, as ``advance`` does.

    Raises:
        ResultBackendError: it is not complete; call it again.
    """
    turn = Turn(backend, codecs)
    scope = (await turn.nodes([scope_id])).get(scope_id)
    if scope is None:
        return []
    if scope.job.state in FINAL:
        await cancel_insides(turn, [scope])
    elif scope.job.started_at is not None:
        size = (await turn.sizes([scope]))[scope_id]
        if repair:
            await open_scopes(turn, [scope])
        if size is not None:
            number = max(0, pages_in(size) - 1)  # all earlier ones were full before the seal
            key = page_key(scope.info.id, scope_id, number)
            pages = await turn.values([key])
            last = {number: pages[key]} if key in pages else {}
            await complete(turn, [Touched(scope=scope, pages=last)])
    return turn.ready


async def start_scope(
    backend: ResultBackend, scope_id: str, *, codecs: Codecs | None = None
) -> list[Ready]:
    """Start a scope that waits, with its first nodes; of a started one, release what should have
    been. Safe to repeat.

    Returns:
        What must be done now, as ``advance`` does.

    Raises:
        ResultBackendError: it is not complete; call it again.
    """
    turn = Turn(backend, codecs)
    await release(turn, (await turn.nodes([scope_id])).values())
    return turn.ready


async def _arrive(turn: Turn, ends: Sequence[Arrival], docs: Mapping[str, Doc | None]) -> None:
    """Mark ends in the pages of their scopes; release successors and end scopes by them."""
    if not ends:
        return
    by_id = {item.id: item for item in ends}
    around = await turn.nodes(
        id for item in by_id.values() for id in (_scope_of(item), *_outs_of(item))
    )
    by_id = await _proved(turn, by_id, around)
    over = await _fail_scopes(turn, list(by_id.values()), around)

    todo = dict(by_id)
    pages: dict[str, bytes] = {}
    for _ in range(ROUNDS):
        values = _marked(todo, around, {k: d.value for k, d in docs.items() if d is not None})
        written = await write_round(turn.backend, docs, values)
        pages.update(written.done)
        todo = {id: item for id, item in todo.items() if _page_of(item) in written.lost}
        if not todo:
            break
        docs = written.lost
        again = await turn.nodes(_scope_of(item) for item in todo.values())
        still = await _proved(turn, todo, again)
        for id in todo.keys() - still.keys():
            del by_id[id]
        todo = still
    else:
        raise give_up(_page_of(next(iter(todo.values()))))

    live = [
        item
        for item in by_id.values()
        if _scope_of(item) not in over and _goes_on(around.get(_scope_of(item)))
    ]
    await _successors(turn, live, around, pages)
    await _complete(turn, live, around, pages)


async def _proved(
    turn: Turn, ends: dict[str, Arrival], around: Mapping[str, Node]
) -> dict[str, Arrival]:
    """Those ends that are true still. Nodes are reset only in scopes that have ended, which are
    reset after them, so for all others there is nothing to ask."""
    found = {id: item for id, item in ends.items() if _scope_of(item) in around}
    doubtful = {}
    for id, item in found.items():
        scope = around[_scope_of(item)].job
        if scope.gen > 1 or scope.state in FINAL:
            doubtful[id] = item
    if not doubtful:
        return found
    now = await turn.get(id for item in doubtful.values() for id, _ in item.proofs)
    for id, item in doubtful.items():
        if any((job := now.get(one)) is None or job.gen != gen for one, gen in item.proofs):
            del found[id]
    return found


async def _fail_scopes(turn: Turn, ends: Sequence[Arrival], around: Mapping[str, Node]) -> set[str]:
    """End the scopes that can't go on after these failures; the ids of those that have ended."""
    signals: dict[str, Signal] = {}
    for item in ends:
        scope = around[_scope_of(item)]
        end = item.counts_in(scope.info)
        outs = [around[id].info for id in _outs_of(item) if id in around]
        if scope.job.state not in FINAL and fails_scope(scope.info, end, outs):
            failure = Ending(state=JobState.FAILED, error=failed_by(item.info, end, item.cause))
            signals.setdefault(scope.job.id, end_signal(scope, failure))
    answers = await turn.signal(list(signals.values()))
    return {answer.id for answer in answers if answer.state in FINAL}


async def _successors(
    turn: Turn, live: Sequence[Arrival], around: Mapping[str, Node], pages: Mapping[str, bytes]
) -> None:
    """Release or skip the nodes of dags that waited for one of these only."""
    wanted: dict[str, Node] = {}
    further: dict[str, None] = {}
    for item in live:
        if around[_scope_of(item)].job.started_at is None:
            continue  # what has ended already is looked at when it is started
        for id in _outs_of(item):
            node = around.get(id)
            if node is None or node.job.state in FINAL:
                continue
            if node.job.scope or node.job.state is JobState.WAITING:
                wanted[id] = node
                if not _one_page(around[_scope_of(item)]):
                    further.update(dict.fromkeys(_page(node, n) for n in node.info.after))
    if not wanted:
        return
    known = {**pages, **await turn.values(further)} if further else pages
    candidates = []
    for node in wanted.values():
        ends = tuple(end_at(known.get(_page(node, n)), n) for n in node.info.after)
        if End.OPEN not in ends:
            candidates.append(Candidate(node=node, ends=ends))
    await admit(turn, candidates)


async def _complete(
    turn: Turn, live: Sequence[Arrival], around: Mapping[str, Node], pages: Mapping[str, bytes]
) -> None:
    touched: dict[str, Touched] = {}
    for item in live:
        scope = around[_scope_of(item)]
        if scope.job.started_at is not None:
            found = touched.setdefault(scope.job.id, Touched(scope=scope, pages={}))
            found.pages[item.info.i // PAGE] = pages[_page_of(item)]
    if touched:
        await complete(turn, list(touched.values()))


def _to_read(nodes: Sequence[Node]) -> list[str]:
    """The pages that nodes or those whom they stand for are in, and whether anything grew."""
    keys = [page_key(n.info.id, n.info.scope, n.info.i // PAGE) for n in nodes if n.info.scope]
    return keys + [growth_key(node.info.id) for node in nodes if not node.job.scope]


def _marked(
    ends: Mapping[str, Arrival], around: Mapping[str, Node], old: Mapping[str, bytes]
) -> dict[str, bytes]:
    """The pages with these ends in them."""
    by_page: dict[str, dict[int, End]] = {}
    for item in ends.values():
        end = item.counts_in(around[_scope_of(item)].info)
        by_page.setdefault(_page_of(item), {})[item.info.i] = end
    return {key: marked(old.get(key), ends) for key, ends in by_page.items()}


def _goes_on(scope: Node | None) -> bool:
    return scope is not None and scope.job.state not in FINAL


def _one_page(scope: Node) -> bool:
    """Then the page as it was written shows all that had arrived before."""
    return scope.info.size is not None and scope.info.size <= PAGE


def _scope_of(item: Arrival) -> str:
    assert item.info.scope is not None, "the workflow itself arrives nowhere"
    return item.info.scope


def _outs_of(item: Arrival) -> list[str]:
    return [node_id(_scope_of(item), n) for n in item.info.outs]


def _page_of(item: Arrival) -> str:
    return page_key(item.info.id, _scope_of(item), item.info.i // PAGE)


def _page(node: Node, i: int) -> str:
    """The page of another node in the scope of ``node``."""
    assert node.info.scope is not None
    return page_key(node.info.id, node.info.scope, i // PAGE)
