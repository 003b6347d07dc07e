"""``chain``, ``group``, ``chord`` and ``dag``: how workflows are written down."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Sequence
from datetime import timedelta
from typing import Any

from bananas_core.errors import InvalidWorkflow
from bananas_core.workflow.spec import Chain, Dag, Group, Piece


def chain(*parts: Piece, deadline: timedelta | float | None = None) -> Chain:
    """Run parts one after the other: the result of each goes to the first argument of the next
    that is not given (``.options(bind=False)`` keeps a job's own arguments). The result is that of
    the last. ``a | b`` is a chain too.

    Args:
        deadline: seconds from its start after which it fails if it has not ended.

    Raises:
        InvalidWorkflow: no parts, or something that is none.
    """
    if len(parts) == 1 and isinstance(parts[0], (list, tuple)):
        parts = tuple(parts[0])
    return Chain(parts, deadline=deadline)


def group(
    *members: Piece | Iterable[Piece] | AsyncIterable[Piece],
    on_failure: str = "fail",
    quorum: int | None = None,
    deadline: timedelta | float | None = None,
) -> Group:
    """Run parts at the same time. The result is the list of their results, in order.

    Args:
        members: the parts, or one list, iterator or async iterator of them. What is no list is
            read in batches while it is submitted, so it may be longer than the memory.
        on_failure: ``"fail"``: the first failure fails the group and cancels the rest;
            ``"ignore"``: it goes on and a failed one's result is None; ``"collect"``: it goes on
            and a failed one's result is ``{"error": {"type": …, "message": …}}``.
        quorum: the group completes once this many have succeeded, and the rest is cancelled; it
            fails once that is impossible.
        deadline: seconds from its start after which it fails if it has not ended.

    Raises:
        InvalidWorkflow: something that is no part, or an impossible option.
    """
    given: Any = members
    if len(members) == 1 and not isinstance(members[0], Piece):
        given = members[0]
    return Group(given, on_failure=on_failure, quorum=quorum, deadline=deadline)


def chord(
    header: Group | Iterable[Piece] | AsyncIterable[Piece],
    body: Piece,
    *,
    on_failure: str = "fail",
    quorum: int | None = None,
    deadline: timedelta | float | None = None,
) -> Chain:
    """Run a group, then ``body`` with the list of its results.

    Args:
        header: a group, or the members of one.
        body: a job or any other part.
        on_failure, quorum: of the group, unless it is one already.
        deadline: seconds from its start after which it fails if it has not ended.

    Raises:
        InvalidWorkflow: see ``group``.
    """
    if isinstance(header, Group):
        if on_failure != "fail" or quorum is not None:
            raise InvalidWorkflow("give on_failure and quorum to the group, or its members here")
    elif isinstance(header, Piece):
        raise InvalidWorkflow(f"the header of a chord is a group or its members, not {header!r}")
    else:
        header = Group(header, on_failure=on_failure, quorum=quorum)
    return Chain((header, body), deadline=deadline, label="chord")


def dag(
    *,
    on_failure: str = "fail",
    deadline: timedelta | float | None = None,
    results: Sequence[str] | None = None,
) -> Dag:
    """An empty graph; ``add`` fills it.

    Args:
        on_failure: ``"fail"``: a node's failure that no other node handles fails the dag and
            cancels the rest; ``"ignore"``: branches that don't depend on it go on.
        deadline: seconds from its start after which it fails if it has not ended.
        results: names of the nodes whose results make up its own; default: those that no other
            comes after. One: its value; several: an object by name.
    """
    return Dag(on_failure=on_failure, deadline=deadline, results=results)
