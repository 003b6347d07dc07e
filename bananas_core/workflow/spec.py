"""Workflows as they are written down: chains, groups, chords and dags of jobs, nothing sent yet.

These are plain values. What is wrong with them as a whole is found by ``compile.py``.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from bananas_core.arguments import Later
from bananas_core.errors import InvalidWorkflow
from bananas_core.message import check_name
from bananas_core.options import JobOptions
from bananas_core.workflow.node import MAX_EDGES, Path, Policy, Trigger
from bananas_core.workflow.reference import Reference

if TYPE_CHECKING:
    from bananas_core.workflow.handle import Workflow

PieceT = TypeVar("PieceT", bound="Piece")


class Host(Protocol):
    """The app that a workflow's jobs come from."""

    async def submit_workflow(
        self,
        piece: Piece,
        *,
        workflow_id: str | None = None,
        deadline: timedelta | float | None = None,
    ) -> Workflow: ...

    def submit_workflow_blocking(
        self,
        piece: Piece,
        *,
        workflow_id: str | None = None,
        deadline: timedelta | float | None = None,
    ) -> Workflow: ...


class Piece:
    """A part of a workflow: a job that was not sent yet, or what ``chain``, ``group``, ``chord``
    and ``dag`` make of such parts."""

    __slots__ = ()

    @property
    def result(self) -> Any:
        """Stands for its result in the arguments of later parts; ``["key"]`` and ``[0]`` for a
        part of it."""
        return Reference(self)

    def __or__(self, other: Piece) -> Chain:
        """One after the other, as in ``chain``."""
        if not isinstance(other, Piece):
            return NotImplemented
        return Chain((self, other))


class JobPiece(Protocol):
    """What is needed here of a ``JobSpec``."""

    @property
    def host(self) -> Host: ...
    @property
    def name(self) -> str: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def options_given(self) -> JobOptions: ...
    @property
    def lacks(self) -> tuple[str, ...]:
        """Required arguments that are not given yet."""
        ...

    @property
    def later(self) -> tuple[tuple[Path, Later], ...]:
        """References among the arguments, which are null in ``payload``, and where."""
        ...

    @property
    def annotation(self) -> Any: ...

    def free(self) -> list[str] | None:
        """Arguments not given, the required ones first; None: the task is not known here."""
        ...


class Composite(Piece):
    """A part that is made of parts. Submitting it twice makes two workflows, unless they get the
    same ``workflow_id``."""

    __slots__ = ("deadline",)

    deadline: timedelta | float | None

    def parts(self) -> Iterable[Piece]:
        """Those inside that are known without reading a stream."""
        raise TypeError("abstract")

    async def submit(
        self,
        *,
        workflow_id: str | None = None,
        deadline: timedelta | float | None = None,
    ) -> Workflow:
        """Record it, and send what may start. When this returns, it runs.

        Args:
            workflow_id: chosen by the caller, which makes trying again safe: what exists already
                is left as it is.
            deadline: seconds after which it fails if it has not ended; default 7 days.

        Raises:
            InvalidWorkflow: it can't run; nothing was stored (of a group that is read from an
                iterator: what was stored is cancelled).
            TransportError, ResultBackendError: the outcome is unknown.
        """
        return await _host(self).submit_workflow(self, workflow_id=workflow_id, deadline=deadline)

    def submit_blocking(
        self,
        *,
        workflow_id: str | None = None,
        deadline: timedelta | float | None = None,
    ) -> Workflow:
        """``submit`` for code without an event loop."""
        return _host(self).submit_workflow_blocking(
            self, workflow_id=workflow_id, deadline=deadline
        )


class Chain(Composite):
    """Parts that run one after the other."""

    __slots__ = ("label", "steps")

    def __init__(
        self,
        steps: Sequence[Piece],
        *,
        deadline: timedelta | float | None = None,
        label: str = "chain",
    ) -> None:
        if not steps:
            raise InvalidWorkflow(f"a {label} needs at least one part")
        self.steps = tuple(_piece(step, label) for step in steps)
        self.deadline = deadline
        self.label = label

    def __repr__(self) -> str:
        return f"<{self.label} of {len(self.steps)}>"

    def __or__(self, other: Piece) -> Chain:
        if not isinstance(other, Piece):
            return NotImplemented
        # `a | b | c` is one chain of three.
        if self.label == "chain" and self.deadline is None:
            return Chain((*self.steps, other))
        return Chain((self, other))

    def parts(self) -> Iterable[Piece]:
        return self.steps


class Group(Composite):
    """Parts that run at the same time; its result is the list of theirs, in order."""

    __slots__ = ("members", "policy", "quorum", "stream")

    def __init__(
        self,
        members: Any,
        *,
        on_failure: str = "fail",
        quorum: Any = None,
        deadline: timedelta | float | None = None,
    ) -> None:
        """``members``: a sequence, iterable or async iterable of parts."""
        self.members: tuple[Piece, ...] = ()
        self.stream: Iterable[Piece] | AsyncIterable[Piece] | None = None
        """Members that are read while they are submitted, so that they never are in memory at
        once."""
        if isinstance(members, Sequence) and not isinstance(members, (str, bytes)):
            self.members = tuple(_piece(member, "group") for member in members)
        elif isinstance(members, (Iterable, AsyncIterable)) and not isinstance(
            members, (str, bytes, Reference)
        ):
            self.stream = members
        else:
            raise InvalidWorkflow(f"a group is made of jobs or parts, not of {members!r:.80}")
        self.policy = policy(on_failure)
        if quorum is not None:
            if isinstance(quorum, bool) or not isinstance(quorum, int) or quorum < 1:
                raise InvalidWorkflow(f"quorum is a whole number from 1, not {quorum!r}")
            if self.policy is not Policy.FAIL:
                raise InvalidWorkflow("give on_failure or quorum, not both")
            if self.stream is None and quorum > len(self.members):
                raise InvalidWorkflow(f"quorum={quorum} of a group of {len(self.members)}")
            self.policy = Policy.QUORUM
        self.quorum = quorum or 0
        self.deadline = deadline

    def __repr__(self) -> str:
        return f"<group of {'a stream' if self.stream is not None else len(self.members)}>"

    def parts(self) -> Iterable[Piece]:
        return self.members


class Node(Later):
    """A node of a dag, as ``add`` returns it. Goes into ``after`` of others, and into their
    arguments: as the node's result."""

    __slots__ = ("after", "bind", "dag", "name", "on_failure", "piece", "run_if")

    def __init__(
        self,
        dag: Dag,
        name: str,
        piece: Piece,
        after: tuple[Any, ...],
        run_if: tuple[Any, ...],
        on_failure: Policy,
        bind: bool | str | None,
    ) -> None:
        self.dag = dag
        self.name = name
        self.piece = piece
        self.after = after
        self.run_if = run_if
        self.on_failure = on_failure
        self.bind = bind

    def __repr__(self) -> str:
        return f"<node {self.name!r}>"

    @property
    def result(self) -> Any:
        """Stands for its result in arguments and conditions of later nodes."""
        return Reference(self)


class Dag(Composite):
    """Nodes that run as soon as all nodes that they come after have ended."""

    __slots__ = ("_nodes", "policy", "results")

    def __init__(
        self,
        *,
        on_failure: str = "fail",
        deadline: timedelta | float | None = None,
        results: Sequence[str] | None = None,
    ) -> None:
        self._nodes: dict[str, Node] = {}
        self.policy = policy(on_failure, ("fail", "ignore"))
        self.deadline = deadline
        self.results = None if results is None else tuple(results)

    def __repr__(self) -> str:
        return f"<dag of {len(self._nodes)}>"

    def add(
        self,
        name: str,
        piece: Piece,
        *,
        after: str | Node | Iterable[str | Node] = (),
        run_if: Any = "success",
        on_failure: str = "fail",
        bind: bool | str | None = None,
    ) -> Node:
        """Add a node.

        Args:
            name: unique in this dag.
            piece: an unsent job, or a chain, group, chord or dag.
            after: nodes that must have ended before, by name or as ``add`` returned them. A name
                may be that of a node that is added later.
            run_if: ``"success"``: none of these failed; ``"failure"``: one of them failed;
                ``"done"``: whatever became of them. Or a condition on a result, like
                ``a.result["amount"] > 100``; or a list of conditions, all of which must hold.
                Else the node is skipped.
            on_failure: ``"fail"``: its failure is one of the dag; ``"ignore"``: it goes on and
                the result is None; ``"collect"``: it goes on and the result is
                ``{"error": {"type": …, "message": …}}``.
            bind: default: if the job lacks required arguments, they get the results of ``after``.
                False: they don't. A name: that argument gets the result, or the list of results.

        Raises:
            InvalidWorkflow: the name is taken or not valid, or an option is impossible.
        """
        given: Any = name
        if not isinstance(given, str) or not 0 < len(given) <= 128 or "/" in given:
            raise InvalidWorkflow(
                f"a node's name is a text of 1-128 characters without '/', not {given!r:.80}"
            )
        if name in self._nodes:
            raise InvalidWorkflow(f"the dag has a node {name!r} already")
        if isinstance(after, (str, Node)):
            after = (after,)
        node = Node(
            self,
            name,
            _piece(piece, f"node {name!r}"),
            tuple(after),
            tuple(run_if) if isinstance(run_if, (list, tuple)) else (run_if,),
            policy(on_failure),
            bind,
        )
        self._nodes[name] = node
        return node

    def __getitem__(self, name: str) -> Node:
        """The node of this name. Raises InvalidWorkflow if there is none."""
        node = self._nodes.get(name)
        if node is None:
            raise InvalidWorkflow(f"the dag has no node {name!r}; it has: {_names(self._nodes)}")
        return node

    def __contains__(self, name: object) -> bool:
        return name in self._nodes

    @property
    def nodes(self) -> tuple[Node, ...]:
        """In the order in which they were added."""
        return tuple(self._nodes.values())

    def parts(self) -> Iterable[Piece]:
        return (node.piece for node in self._nodes.values())

    def mermaid(self) -> str:
        """The graph as Mermaid text, for documents. Raises InvalidWorkflow if it can't run."""
        from bananas_core.workflow.compile import compile_workflow
        from bananas_core.workflow.mermaid import mermaid, planned

        return mermaid(planned(compile_workflow(self, "workflow").records))


def policy(text: str, allowed: Sequence[str] = ("fail", "ignore", "collect")) -> Policy:
    """Raises InvalidWorkflow for any other text."""
    if text not in allowed:
        raise InvalidWorkflow(f"on_failure is one of {', '.join(allowed)}, not {text!r}")
    return Policy(text)


def trigger(text: str, node: str) -> Trigger:
    """Raises InvalidWorkflow for any other text."""
    try:
        return Trigger(text)
    except ValueError:
        raise InvalidWorkflow(
            f"node {node!r}: run_if is success, failure, done or a condition like "
            f"a.result['ok'] == True, not {text!r}"
        ) from None


def check_edges(node: str, number: int, what: str) -> None:
    """Raises InvalidWorkflow over ``MAX_EDGES``."""
    if number > MAX_EDGES:
        raise InvalidWorkflow(
            f"node {node!r} has {number} {what}, at most {MAX_EDGES} are possible: make a group "
            "of them"
        )


def check_workflow_id(value: str) -> str:
    """Raises InvalidPayload."""
    return check_name("job_id", value)


def first_job(piece: Piece) -> Any:
    """Any job in it that is known without reading a stream; None if there is none."""
    stack = [piece]
    while stack:
        item = stack.pop()
        if not isinstance(item, Composite):
            return item
        stack.extend(reversed(tuple(item.parts())))
    return None


def _host(piece: Composite) -> Host:
    job = first_job(piece) or _peek(piece)
    if job is None:
        raise InvalidWorkflow(
            f"{piece!r} has no job in it that says which app it is for: use app.submit_workflow(…)"
        )
    host: Host = job.host
    return host


def _peek(piece: Composite) -> Any:
    """The first job of a stream, which is put back."""
    from itertools import chain as joined

    stack: list[Piece] = [piece]
    while stack:
        item = stack.pop()
        if isinstance(item, Group) and isinstance(item.stream, Iterable):
            members = iter(item.stream)
            for first in members:
                _piece(first, "group")
                item.stream = joined((first,), members)
                found = first_job(first)
                if found is not None:
                    return found
                break
        if isinstance(item, Composite):
            stack.extend(item.parts())
    return None


def _piece(value: Any, where: str) -> Piece:
    if isinstance(value, Piece):
        return value
    hint = ""
    if callable(getattr(value, "job", None)):
        hint = f"; call it: {getattr(value, 'name', 'task')}.job(…)"
    elif callable(value):
        hint = "; only tasks (@app.task) have jobs"
    raise InvalidWorkflow(
        f"{where}: parts are jobs (task.job(…)) or chains, groups, chords and dags, "
        f"not {value!r:.80}{hint}"
    )


def _names(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
