"""Every hook of Bananas. Write ``@bananas.hookimpl`` over a method of the same name in a
``bananas.Plugin``; it may take fewer arguments than are listed here.

Hooks marked *async* may be ``async def`` or ``def``. They run one plugin after another, the one
that was given last going first; ``plugins.py`` awaits them and applies each plugin's policy for
errors and time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pluggy

from bananas_core.job import Outcome

if TYPE_CHECKING:
    from bananas_core.app import Bananas
    from bananas_core.codec import Codec
    from bananas_core.context import JobContext
    from bananas_core.job import Claim, PutAnswer, Session
    from bananas_core.options import Submission

PROJECT: Final = "bananas"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a claim that is not to start just now. Instants are the ledger's.

    With ``outcome`` it ends without a start. Else it starts at ``at``, if that is not later than
    ``until``; then, or where ``again`` says so, the hook is asked again instead. Until then it
    takes no slot. ``otherwise``: its outcome if it can't wait here.
    """

    outcome: Outcome | None = None
    at: float = 0.0
    until: float = float("inf")
    again: bool = False
    otherwise: Outcome | None = None


@hookspec
def task_registered(task: Any) -> None:
    """A ``Task`` was registered; at open at the latest. Raising refuses the app."""


@hookspec
def codecs() -> Sequence[Codec]:
    """Encodings for payloads and results, in the order in which they are applied. Called once,
    when the app opens; producers, workers and readers of results need the same plugin."""
    return ()


@hookspec
def before_submit(
    jobs: list[Submission],
) -> Awaitable[list[Submission | Exception] | None] | list[Submission | Exception] | None:
    """*async* — A batch is about to be recorded. Return None to leave it, or a list of the same
    length: each item the submission, a changed one, or an exception that refuses this one job
    and that its submitter gets."""


@hookspec
def after_submit(jobs: list[Submission], answers: list[PutAnswer]) -> Awaitable[None] | None:
    """*async* — A batch was recorded and sent."""


@hookspec
def before_execute(
    app: Bananas, claims: list[Claim]
) -> Awaitable[list[Decision | None] | None] | list[Decision | None] | None:
    """*async* — Claims of tasks with limits are about to start; each has a free slot. Return None
    to let all of them, or a list of the same length: each item None, or what is to be done instead.
    The first plugin that decides about a claim is right. It may be called again for the same
    claim."""


@hookspec
def around_execute(claim: Claim, context: JobContext) -> AbstractAsyncContextManager[None]:  # type: ignore[empty-body]
    """Return an async context manager that is entered before the body of a job and left after
    it, with the body's exception if it raised one."""


@hookspec
def after_execute(claim: Claim, outcome: Outcome) -> Awaitable[None] | None:
    """*async* — A job's run ended with this outcome, which the ledger gets next. It may still be
    refused there if the claim was lost meanwhile."""


@hookspec
def after_finish(app: Bananas, outcomes: list[Outcome]) -> Awaitable[None] | None:
    """*async* — A batch of outcomes was recorded in the ledger, of whatever kind; one that was
    refused there because its claim was lost is among them."""


@hookspec
def worker_started(session: Session) -> Awaitable[None] | None:
    """*async* — A worker process is about to receive its first jobs."""


@hookspec
def worker_stopping(session: Session) -> Awaitable[None] | None:
    """*async* — A worker process has ended its last job and is about to leave."""
