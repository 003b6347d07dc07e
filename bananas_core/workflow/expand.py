"""A running job adds to its own workflow."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from bananas_core.clock import Clock
from bananas_core.errors import InvalidWorkflow
from bananas_core.job import Claim
from bananas_core.options import JobOptions
from bananas_core.workflow.compile import Compiled, compile_grown
from bananas_core.workflow.growth import note_growth
from bananas_core.workflow.node import NodeInfo, grown_id, to_info
from bananas_core.workflow.spec import Piece
from bananas_core.workflow.submit import Door, submit_compiled

T = TypeVar("T")


class Doors(Protocol):
    """The connections of an app."""

    def here(self) -> Door: ...

    def elsewhere(self, function: Callable[[Any], Coroutine[Any, Any, T]]) -> T: ...


class Grower(Protocol):
    """What is needed of an app."""

    tasks: dict[str, Any]
    clock: Clock

    @property
    def connections(self) -> Doors: ...

    def use_options(self, options: JobOptions) -> None: ...


def expansion(app: Grower, claim: Claim, place: Mapping[str, Any] | None) -> Expansion | None:
    """What a job may add to its workflow, by its place there; None if it is in none."""
    return None if place is None else Expansion(app, claim, place)


class Expansion:
    """What one run of a job adds to its workflow."""

    def __init__(self, app: Grower, claim: Claim, place: Mapping[str, Any]) -> None:
        self._app = app
        self._claim = claim
        self._place = place
        self._added = 0

    async def add(self, piece: Any) -> None:
        """See ``JobContext.expand``."""
        info, compiled = self._compiled(piece)
        await self._put(self._app.connections.here(), info, compiled)

    def add_blocking(self, piece: Any) -> None:
        """See ``JobContext.expand``."""
        info, compiled = self._compiled(piece)
        self._app.connections.elsewhere(lambda door: self._put(door, info, compiled))

    def _compiled(self, piece: Any) -> tuple[NodeInfo, Compiled]:
        if not isinstance(piece, Piece):
            raise InvalidWorkflow(
                f"what is added to a workflow is a job (task.job(…)), chain, group, chord or dag, "
                f"not {piece!r:.80}"
            )
        number, info = self._added, to_info(dict(self._place))
        compiled = compile_grown(
            piece,
            info,
            self._claim.id,
            grown_id(self._claim.id, self._claim.fence, number),
            f"{info.node}+{number or ''}",
            tasks=self._app.tasks,
            use=self._app.use_options,
            host=self._app,
        )
        self._added += 1
        return info, compiled

    async def _put(self, door: Door, info: NodeInfo, compiled: Compiled) -> None:
        claim, scope = self._claim, compiled.records[0].id
        await note_growth(door.backend, info.id, claim.id, claim.fence, [scope])
        await submit_compiled(door, compiled, now=self._app.clock.now(), hold=True)
