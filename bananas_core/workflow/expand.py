"""A running job adds to its own workflow."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from bananas_core.clock import Clock
from bananas_core.errors import InvalidWorkflow
from bananas_core.job import Claim
from bananas_core.message import Message
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


def expansion(app: Grower, claim: Claim, message: Message) -> Expansion | None:
    """What a job may add to its workflow; None if it is in none."""
    return None if message.workflow is None else Expansion(app, claim, message.workflow)


class Expansion:
    """What one run of a job adds to its workflow."""

    def __init__(self, app: Grower, claim: Claim, place: Mapping[str, Any]) -> None:
        self._app = app
        self._claim = claim
        self._info: NodeInfo = to_info(dict(place))
        self._added = 0

    async def add(self, piece: Any) -> None:
        """See ``JobContext.expand``."""
        compiled = self._compiled(piece)
        await self._put(self._app.connections.here(), compiled)

    def add_blocking(self, piece: Any) -> None:
        """See ``JobContext.expand``."""
        compiled = self._compiled(piece)
        self._app.connections.elsewhere(lambda door: self._put(door, compiled))

    def _compiled(self, piece: Any) -> Compiled:
        if not isinstance(piece, Piece):
            raise InvalidWorkflow(
                f"what is added to a workflow is a job (task.job(…)), chain, group, chord or dag, "
                f"not {piece!r:.80}"
            )
        number = self._added
        compiled = compile_grown(
            piece,
            self._info,
            self._claim.id,
            grown_id(self._claim.id, self._claim.fence, number),
            f"{self._info.node}+{number or ''}",
            tasks=self._app.tasks,
            use=self._app.use_options,
            host=self._app,
        )
        self._added += 1
        return compiled

    async def _put(self, door: Door, compiled: Compiled) -> None:
        claim, scope = self._claim, compiled.records[0].id
        await note_growth(door.backend, self._info.id, claim.id, claim.fence, [scope])
        await submit_compiled(door, compiled, now=self._app.clock.now(), hold=True)
