"""Results of earlier parts of a workflow, as they stand in the arguments and conditions of later
ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from bananas_core.arguments import Later
from bananas_core.errors import InvalidWorkflow
from bananas_core.workflow.node import Path

if TYPE_CHECKING:
    from bananas_core.workflow.spec import Node, Piece


class Reference(Later):
    """The result of an earlier node, or a part of it; goes anywhere in a later node's arguments.

    Comparing it makes a condition for ``run_if``: ``a.result["amount"] > 100``.
    """

    __slots__ = ("path", "target")

    def __init__(self, target: Piece | Node, path: Path = ()) -> None:
        self.target = target
        self.path = path

    def __repr__(self) -> str:
        steps = "".join(f"[{step!r}]" for step in self.path)
        return f"{self.target!r}.result{steps}"

    def __getitem__(self, step: str | int) -> Reference:
        if isinstance(step, bool) or not isinstance(step, (str, int)):
            raise InvalidWorkflow(f"{self!r}: a part is named by a key or an index, not {step!r}")
        return Reference(self.target, (*self.path, step))

    def __iter__(self) -> Any:
        raise TypeError(f"{self!r} is not known yet, so it can't be iterated")

    def __bool__(self) -> bool:
        raise TypeError(_NO_TRUTH.format(self))

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> Condition:  # type: ignore[override]
        return Condition(self, "==", other)

    def __ne__(self, other: object) -> Condition:  # type: ignore[override]
        return Condition(self, "!=", other)

    def __lt__(self, other: object) -> Condition:
        return Condition(self, "<", other)

    def __le__(self, other: object) -> Condition:
        return Condition(self, "<=", other)

    def __gt__(self, other: object) -> Condition:
        return Condition(self, ">", other)

    def __ge__(self, other: object) -> Condition:
        return Condition(self, ">=", other)

    def __invert__(self) -> Condition:
        """It is falsy."""
        return Condition(self, "falsy")

    def is_in(self, values: Iterable[object]) -> Condition:
        """It is one of these."""
        return Condition(self, "in", list(values))


class Condition:
    """Something that must hold for a node to run. Several go into a list: all must hold."""

    __slots__ = ("op", "reference", "value")

    def __init__(self, reference: Reference, op: str, value: object = None) -> None:
        self.reference = reference
        self.op = op
        self.value = value

    def __repr__(self) -> str:
        return f"<Condition {self.reference!r} {self.op} {self.value!r}>"

    def __bool__(self) -> bool:
        raise TypeError(_NO_TRUTH.format(self))


_NO_TRUTH: Final = (
    "{!r} is decided when the workflow runs; give several conditions as a list, without `and`, "
    "`or`, `not` or `if`"
)
