"""Where each part of a workflow goes: the first half of compiling it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from bananas_core.errors import InvalidWorkflow
from bananas_core.workflow.node import node_id
from bananas_core.workflow.spec import Chain, Composite, Dag, Group, Node, Piece, check_edges

MOST_DEEP: Final = 50
"""Scopes in scopes."""


class Feed:
    """Whose results a part gets for the arguments that it lacks. ``bind``: True: the first free
    argument gets it; None: the arguments that are required; a name: that one; False: none."""

    __slots__ = ("bind", "places")

    def __init__(self, places: Sequence[Place], bind: bool | str | None) -> None:
        self.places = tuple(places)
        self.bind = bind


class Place:
    """A part in its scope."""

    __slots__ = (
        "after",
        "children",
        "depth",
        "feed",
        "i",
        "id",
        "name",
        "node",
        "outs",
        "piece",
        "scope",
        "started",
    )

    def __init__(
        self,
        piece: Piece,
        *,
        id: str,
        name: str,
        scope: Place | None,
        i: int,
        started: bool,
        after: tuple[int, ...] = (),
        feed: Feed | None = None,
        node: Node | None = None,
    ) -> None:
        self.piece = piece
        self.id = id
        self.name = name
        self.scope = scope
        self.i = i
        self.started = started
        """It may run from the beginning."""
        self.after = after
        self.outs: tuple[int, ...] = ()
        self.feed = feed
        self.node = node
        """Of a node of a dag: its options."""
        self.children: list[Place] = []
        self.depth: int = 0 if scope is None else scope.depth + 1


def lay_out(root: Place, found: Callable[[Place], None]) -> None:
    """Give every part inside ``root`` its place, each told to ``found``, scopes before what is in
    them. Members of streams come later, with ``lay_out_member``.

    Raises:
        InvalidWorkflow: a cycle, an unknown node, or too many edges.
    """
    stack = [root]
    while stack:
        place = stack.pop()
        found(place)
        if not isinstance(place.piece, Composite):
            continue
        if place.depth >= MOST_DEEP:
            raise InvalidWorkflow(f"node {place.name!r} is nested deeper than {MOST_DEEP}")
        if isinstance(place.piece, Chain):
            _lay_out_chain(place, place.piece)
        elif isinstance(place.piece, Group):
            place.children = [
                member_place(place, i, member) for i, member in enumerate(place.piece.members)
            ]
        elif isinstance(place.piece, Dag):
            _lay_out_dag(place, place.piece)
        stack.extend(reversed(place.children))


def member_place(group: Place, i: int, piece: Piece) -> Place:
    """The place of a group's member."""
    return Place(
        piece,
        id=node_id(group.id, i),
        name=_inside(group, f"{label(piece)}[{i}]"),
        scope=group,
        i=i,
        started=group.started,
        feed=group.feed,
    )


def comes_before(first: Place, later: Place) -> bool:
    """Whether ``first`` has ended whenever ``later`` begins."""
    above = {id(place): place for place in _upward(later)}
    for place in _upward(first):
        common = place.scope
        if common is None or id(common) not in above:
            continue
        # Both are in this scope, directly or deeper: there must be a way between their branches.
        branch = next(p for p in above.values() if p.scope is common)
        return place.i in _before(common, branch.i)
    return False


def label(piece: Piece) -> str:
    """What a part is called that nobody has given a name."""
    if isinstance(piece, Chain):
        return piece.label
    if isinstance(piece, Composite):
        return type(piece).__name__.lower()
    return str(getattr(piece, "name", "job"))


def _lay_out_chain(place: Place, chain: Chain) -> None:
    seen: dict[str, int] = {}
    for i, step in enumerate(chain.steps):
        name = label(step)
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            name = f"{name}#{seen[name]}"
        before = place.children[-1:]
        child = Place(
            step,
            id=node_id(place.id, i),
            name=_inside(place, name),
            scope=place,
            i=i,
            started=place.started and i == 0,
            after=(i - 1,) if i else (),
            feed=Feed(before, True) if i else place.feed,
        )
        if before:
            before[0].outs = (i,)
        place.children.append(child)


def _lay_out_dag(place: Place, dag: Dag) -> None:
    numbers = {node.name: i for i, node in enumerate(dag.nodes)}
    afters = [_predecessors(node, dag, numbers) for node in dag.nodes]
    _refuse_cycle([node.name for node in dag.nodes], afters)
    outs: list[list[int]] = [[] for _ in dag.nodes]
    for i, after in enumerate(afters):
        for one in after:
            outs[one].append(i)
    for i, node in enumerate(dag.nodes):
        name = _inside(place, node.name)
        check_edges(name, len(afters[i]), "predecessors")
        check_edges(name, len(outs[i]), "successors")
        place.children.append(
            Place(
                node.piece,
                id=node_id(place.id, i),
                name=name,
                scope=place,
                i=i,
                started=place.started and not afters[i],
                after=afters[i],
                node=node,
            )
        )
    for i, child in enumerate(place.children):
        child.outs = tuple(outs[i])
        node = dag.nodes[i]
        if afters[i]:
            child.feed = Feed([place.children[one] for one in afters[i]], node.bind)
        elif place.feed is not None:
            bind = place.feed.bind if isinstance(place.feed.bind, str) else None
            child.feed = Feed(place.feed.places, bind if node.bind is None else node.bind)


def _predecessors(node: Node, dag: Dag, numbers: dict[str, int]) -> tuple[int, ...]:
    found: dict[int, None] = {}
    for one in node.after:
        if isinstance(one, Node) and one.dag is not dag:
            raise InvalidWorkflow(f"node {node.name!r} comes after {one!r} of another dag")
        name = one.name if isinstance(one, Node) else one
        if not isinstance(name, str) or name not in numbers:
            raise InvalidWorkflow(
                f"node {node.name!r} comes after {name!r}, which the dag doesn't have; it has: "
                f"{', '.join(numbers)}"
            )
        found[numbers[name]] = None
    return tuple(found)


def _refuse_cycle(names: Sequence[str], afters: Sequence[tuple[int, ...]]) -> None:
    """Raises InvalidWorkflow naming the nodes of a cycle."""
    state = [0] * len(names)  # 1: on the way, 2: done
    for start in range(len(names)):
        way: list[tuple[int, Iterable[int]]] = []
        if not state[start]:
            state[start] = 1
            way.append((start, iter(afters[start])))
        while way:
            here, left = way[-1]
            step = next(iter(left), None)
            if step is None:
                state[here] = 2
                way.pop()
            elif state[step] == 1:
                around = [i for i, _ in way]
                cycle = [*around[around.index(step) :], step]
                raise InvalidWorkflow(
                    f"the dag has a cycle: {' → '.join(names[i] for i in reversed(cycle))}"
                )
            elif state[step] == 0:
                state[step] = 1
                way.append((step, iter(afters[step])))


def _before(scope: Place, i: int) -> set[int]:
    """Numbers of all that ends before the ``i``-th node of a scope begins."""
    if isinstance(scope.piece, Chain):
        return set(range(i))
    if isinstance(scope.piece, Group):
        return set()
    found: set[int] = set()
    stack = list(scope.children[i].after)
    while stack:
        one = stack.pop()
        if one not in found:
            found.add(one)
            stack.extend(scope.children[one].after)
    return found


def _upward(place: Place) -> Iterable[Place]:
    here: Place | None = place
    while here is not None:
        yield here
        here = here.scope


def _inside(scope: Place, name: str) -> str:
    return f"{scope.name}/{name}" if scope.name else name
