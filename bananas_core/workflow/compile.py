"""From a workflow as it is written down to the records of its scopes and nodes.

Pure, and complete: what is wrong is told here, by the name of the node, before anything is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from datetime import timedelta
from typing import Any, Final

import msgspec

from bananas_core.arguments import Later, encode_value
from bananas_core.clock import seconds
from bananas_core.errors import InvalidPayload, InvalidWorkflow
from bananas_core.options import JobOptions
from bananas_core.workflow.layout import Place, comes_before, lay_out, member_place
from bananas_core.workflow.node import (
    Input,
    Kind,
    NodeInfo,
    Policy,
    Test,
    Trigger,
)
from bananas_core.workflow.reference import Condition, Reference
from bananas_core.workflow.spec import (
    Chain,
    Composite,
    Dag,
    Group,
    JobPiece,
    Node,
    Piece,
    check_edges,
    trigger,
)

DEADLINE: Final = 7 * 86_400.0
"""Seconds that a workflow may take, unless it says otherwise."""
MOST_VALUE: Final = 10_000
"""Bytes of a value in a condition."""


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One record to be put."""

    id: str
    info: NodeInfo
    waiting: bool
    """False: it may run as soon as it is there."""
    job: Any = None
    """The unsent job (``JobPiece``); None of a scope."""
    payload: bytes = b"{}"
    deadline: float | None = None
    """Of a scope: seconds from its start."""
    place: Place | None = None
    """Of a group whose members are still to be read."""


class Compiled:
    """The records of a workflow, the root first, scopes before what is in them; and what is
    needed to add the members of its streams."""

    def __init__(
        self,
        workflow: str,
        tasks: Container[str] | None,
        use: Callable[[JobOptions], None] | None,
        host: Any,
    ) -> None:
        self.workflow = workflow
        self.records: list[Record] = []
        self._tasks = tasks
        self._use = use
        self._host: Any = host
        self._nodes: dict[int, Place] = {}
        self._pieces: dict[int, list[Place]] = {}

    def member(self, group: Record, i: int, piece: Piece) -> list[Record]:
        """The records of the next member of a stream. Raises InvalidWorkflow."""
        assert group.place is not None
        if not isinstance(piece, Piece):
            raise InvalidWorkflow(
                f"node {group.info.node or 'group'!r}: members are jobs (task.job(…)) or parts, "
                f"not {piece!r:.80}"
            )
        place = member_place(group.place, i, piece)
        if not isinstance(piece, Composite):
            return [self._record(place)]
        inside: list[Place] = []
        lay_out(place, inside.append)
        for one in inside:
            self._remember(one)
        records = [self._record(one) for one in inside]
        for one in inside:
            self._forget(one)
        return records

    def _fill(self, root: Place, deadline: float | None, stands_for: str | None) -> None:
        places: list[Place] = []
        lay_out(root, places.append)
        for place in places:
            self._remember(place)
        self.records = [self._record(place) for place in places]
        first = self.records[0]
        if stands_for is not None:
            scope, i = root.scope, root.i
            assert scope is not None
            info = msgspec.structs.replace(
                first.info, scope=scope.id, i=i, stands_for=stands_for, after=(), outs=()
            )
            self.records[0] = msgspec.structs.replace(first, info=info)
        else:
            self.records[0] = msgspec.structs.replace(first, deadline=deadline)

    def _remember(self, place: Place) -> None:
        self._pieces.setdefault(id(place.piece), []).append(place)
        if place.node is not None:
            self._nodes[id(place.node)] = place

    def _forget(self, place: Place) -> None:
        self._pieces[id(place.piece)].remove(place)
        if place.node is not None:
            self._nodes.pop(id(place.node), None)

    def _record(self, place: Place) -> Record:
        piece = place.piece
        if isinstance(piece, Composite):
            return self._scope(place, piece)
        return self._leaf(place, piece)

    def _scope(self, place: Place, piece: Composite) -> Record:
        size: int | None = len(place.children)
        if isinstance(piece, Group) and piece.stream is not None:
            size = None
        return Record(
            id=place.id,
            info=NodeInfo(
                **self._common(place),
                kind=Kind.GROUP if isinstance(piece, Group) else Kind.DAG,
                size=size,
                policy=piece.policy if isinstance(piece, (Group, Dag)) else Policy.FAIL,
                quorum=piece.quorum if isinstance(piece, Group) else 0,
                results=_results(place, piece),
            ),
            waiting=not place.started,
            deadline=deadline_of(piece.deadline, place.name),
            place=place if size is None else None,
        )

    def _leaf(self, place: Place, piece: Any) -> Record:
        job: JobPiece = piece
        self._check_job(place, job)
        inputs: list[Input] = []
        payload = job.payload
        for path, later in job.later:
            reference: Any = Reference(later) if isinstance(later, Node) else later
            of = self._resolve(place, reference)
            inputs.append(Input(into=path, of=of.id, path=reference.path))
        bound = self._bound(place, job)
        for argument, places in bound.items():
            if len(places) == 1:
                inputs.append(Input(into=(argument,), of=places[0].id))
                continue
            inputs += [Input(into=(argument, n), of=p.id) for n, p in enumerate(places)]
            payload = _with_list(payload, argument, len(places))
        missing = [name for name in job.lacks if name not in bound]
        if missing:
            raise InvalidWorkflow(
                f"node {place.name!r}: {job.name} needs argument {missing[0]!r}, and nothing "
                "gives it"
            )
        info = NodeInfo(**self._common(place), inputs=tuple(inputs))
        return Record(id=place.id, info=info, waiting=not place.started, job=job, payload=payload)

    def _check_job(self, place: Place, job: JobPiece) -> None:
        if self._host is None:
            self._host = job.host
        elif job.host is not self._host:
            raise InvalidWorkflow(f"node {place.name!r}: {job.name} is a task of another app")
        if self._tasks is not None and job.name not in self._tasks:
            raise InvalidWorkflow(f"node {place.name!r}: the app has no task {job.name!r}")
        if "job_id" in job.options_given:
            raise InvalidWorkflow(
                f"node {place.name!r}: a job_id can't be chosen inside a workflow; give a "
                "workflow_id to submit instead"
            )
        if self._use is not None:
            self._use(job.options_given)

    def _common(self, place: Place) -> dict[str, Any]:
        """What scopes and jobs have in common."""
        common: dict[str, Any] = {"id": self.workflow, "node": place.name}
        if place.scope is not None:
            common |= {"scope": place.scope.id, "i": place.i}
        common |= {"after": place.after, "outs": place.outs}
        node = place.node
        if node is not None:
            common["on_failure"] = node.on_failure
            common["trigger"], common["tests"] = self._condition(place, node)
        return common

    def _condition(self, place: Place, node: Node) -> tuple[Trigger, tuple[Test, ...]]:
        triggers = [trigger(one, place.name) for one in node.run_if if isinstance(one, str)]
        if len(triggers) > 1:
            raise InvalidWorkflow(f"node {place.name!r}: run_if has more than one of success, …")
        if triggers and triggers[0] is Trigger.FAILURE and not place.after:
            raise InvalidWorkflow(
                f"node {place.name!r}: run_if='failure' of a node that comes after none"
            )
        tests = [self._test(place, one) for one in node.run_if if not isinstance(one, str)]
        return (triggers[0] if triggers else Trigger.SUCCESS), tuple(tests)

    def _test(self, place: Place, given: Any) -> Test:
        condition = Condition(given, "truthy") if isinstance(given, Reference) else given
        if isinstance(given, Node):
            condition = Condition(Reference(given), "truthy")
        if not isinstance(condition, Condition):
            trigger(condition, place.name)
            raise InvalidWorkflow(f"node {place.name!r}: {given!r} is no condition")
        if isinstance(condition.value, Later):
            raise InvalidWorkflow(
                f"node {place.name!r}: two results can't be compared in run_if; do it in a task"
            )
        try:
            raw = encode_value(condition.value, "value in run_if", MOST_VALUE)
        except InvalidPayload as error:
            raise InvalidWorkflow(f"node {place.name!r}: {error}") from error
        of = self._resolve(place, condition.reference)
        return Test(
            of=of.id,
            op=condition.op,
            value=msgspec.json.decode(raw),
            path=condition.reference.path,
        )

    def _resolve(self, place: Place, reference: Any) -> Place:
        """Where the node is that a reference means."""
        target = reference.target
        if isinstance(target, Node):
            known = self._nodes.get(id(target))
            found = [] if known is None else [known]
        else:
            found = self._pieces.get(id(target), [])
        if not found:
            raise InvalidWorkflow(
                f"node {place.name!r} uses the result of {target!r}, which is not in this workflow"
            )
        if len(found) > 1:
            raise InvalidWorkflow(
                f"node {place.name!r} uses the result of {target!r}, which is in this workflow "
                f"{len(found)} times"
            )
        if not comes_before(found[0], place):
            raise InvalidWorkflow(
                f"node {place.name!r} uses the result of {found[0].name!r}, which doesn't come "
                f"before it: add after=[{found[0].name.rpartition('/')[2]!r}]"
            )
        return found[0]

    def _bound(self, place: Place, job: JobPiece) -> dict[str, tuple[Place, ...]]:
        """Which arguments get the results of the parts before."""
        feed = place.feed
        if feed is None:
            return {}
        bind = job.options_given.get("bind", feed.bind)
        if bind is False:
            return {}
        if isinstance(bind, str):
            free = job.free()
            if free is not None and bind not in free:
                raise InvalidWorkflow(
                    f"node {place.name!r}: {job.name} has no free argument {bind!r} to bind"
                )
            return {bind: feed.places}
        if bind is None:
            if len(job.lacks) == len(feed.places):
                return {name: (of,) for name, of in zip(job.lacks, feed.places, strict=True)}
            return {job.lacks[0]: feed.places} if job.lacks else {}
        free = job.free()
        if not free:
            why = "has no free argument" if free is not None else "is not registered here"
            raise InvalidWorkflow(
                f"node {place.name!r}: {job.name} {why} for the result of the part before; "
                "use .options(bind=False), or bind='name' of an argument"
            )
        return {free[0]: feed.places}


def compile_workflow(
    piece: Piece,
    workflow: str,
    *,
    deadline: timedelta | float | None = None,
    tasks: Container[str] | None = None,
    use: Callable[[JobOptions], None] | None = None,
    host: Any = None,
) -> Compiled:
    """All that is known of a workflow without reading its streams.

    Args:
        workflow: its id.
        deadline: over the one of ``piece``, and ``DEADLINE``.
        tasks: names of known tasks; None: nobody knows.
        use: told of each job's options.
        host: the app that all jobs must come from; None: that of the first.

    Raises:
        InvalidWorkflow: it can't run; the text names the node.
    """
    whole = piece if isinstance(piece, Composite) else Chain((piece,))
    compiled = Compiled(workflow, tasks, use, host)
    root = Place(whole, id=workflow, name="", scope=None, i=0, started=True)
    wanted = deadline if deadline is not None else whole.deadline
    compiled._fill(root, deadline_of(wanted, "") or DEADLINE, None)
    return compiled


def compile_grown(
    piece: Piece,
    into: NodeInfo,
    node: str,
    id: str,
    name: str,
    *,
    tasks: Container[str] | None = None,
    use: Callable[[JobOptions], None] | None = None,
    host: Any = None,
) -> Compiled:
    """What the running job ``node``, whose info is ``into``, adds to itself as scope ``id``.
    Raises InvalidWorkflow."""
    whole = piece if isinstance(piece, Composite) else Chain((piece,))
    compiled = Compiled(into.id, tasks, use, host)
    assert into.scope is not None
    scope = Place(Chain((whole,)), id=into.scope, name="", scope=None, i=0, started=False)
    root = Place(whole, id=id, name=name, scope=scope, i=into.i, started=False)
    compiled._fill(root, None, node)
    return compiled


def annotation_of(piece: Piece) -> Any:
    """Of the result, if it is that of one job; else None."""
    while isinstance(piece, Chain):
        piece = piece.steps[-1]
    return None if isinstance(piece, Composite) else getattr(piece, "annotation", None)


def deadline_of(given: timedelta | float | None, node: str) -> float | None:
    """Seconds. Raises InvalidWorkflow."""
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, (int, float, timedelta)):
        raise InvalidWorkflow(f"node {node!r}: deadline is a timedelta or seconds, not {given!r}")
    value = seconds(given)
    if not 0 < value < 1e10:
        raise InvalidWorkflow(f"node {node!r}: deadline must be positive, not {given!r}")
    return value


def _results(place: Place, piece: Composite) -> tuple[int, ...]:
    """Numbers of the nodes whose results make up a dag's own."""
    if isinstance(piece, Chain):
        return (len(place.children) - 1,)
    if not isinstance(piece, Dag):
        return ()
    if piece.results is None:
        found = tuple(child.i for child in place.children if not child.outs)
    else:
        numbers = {id(child.node): child.i for child in place.children}
        found = tuple(numbers[id(piece[name])] for name in piece.results)
    check_edges(place.name or "dag", len(found), "final nodes")
    return found


def _with_list(payload: bytes, argument: str, length: int) -> bytes:
    """The payload with a list of nulls to be filled."""
    values = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    filler = msgspec.json.encode([None] * length)
    return msgspec.json.encode({**values, argument: msgspec.Raw(filler)})
