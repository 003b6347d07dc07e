"""One claim from its message to its outcome: decode, call, decide.

``run_body`` is the same function in the worker's loop and in a runner process. It never raises for
what a task does; a ``CancelledError`` passes through, since only the caller knows why it cancelled.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from bananas_core.blobs import inline_result
from bananas_core.clock import Clock
from bananas_core.errors import InvalidPayload, UnknownTask
from bananas_core.job import Claim, ErrorInfo, Outcome, OutcomeKind
from bananas_core.message import Backoff, decode_stored
from bananas_core.retry import decide

if TYPE_CHECKING:
    from bananas_core.task import Task

TRACEBACK_LIMIT: Final = 20_000
"""Characters kept of a traceback: its end."""
UNKNOWN_TASK: Final = "unknown-task"
UNKNOWN_DELAY: Final = 5.0
UNKNOWN_TRIES: Final = 12
"""A task that nobody knows is handed back this often, a rolling deploy's 60 s, then failed."""

SyncCall = Callable[[Callable[[], Any]], Awaitable[Any]]
"""How a ``def`` task is called: on a thread, or right here in a runner process."""
Around = Callable[[], AbstractAsyncContextManager[None]]
"""What plugins put around a body."""
COMPLETED: Final = OutcomeKind.COMPLETED


def error_info(error: BaseException) -> ErrorInfo:
    """An exception as data."""
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "bananas_core.errors"):
        name = f"{kind.__module__}.{name}"
    text = "".join(traceback.format_exception(error))
    return ErrorInfo(type=name, message=str(error), traceback=text[-TRACEBACK_LIMIT:])


def unknown_task(claim: Claim) -> Outcome:
    """Hand a job back for a while, in case another worker knows its task, then fail it."""
    tries = claim.held.count if claim.held is not None and claim.held.by == UNKNOWN_TASK else 0
    if tries >= UNKNOWN_TRIES:
        error = UnknownTask(f"no task named {claim.name!r} is registered in this app")
        return _failed(claim, error, 0.0)
    return Outcome(
        id=claim.id,
        fence=claim.fence,
        kind=OutcomeKind.SNOOZE,
        delay=UNKNOWN_DELAY,
        held_by=UNKNOWN_TASK,
    )


async def run_body(
    task: Task[..., Any],
    claim: Claim,
    payload: bytes,
    call: SyncCall,
    clock: Clock,
    rng: random.Random,
    around: Around | None = None,
) -> Outcome:
    """Run ``task`` for ``claim`` on plain JSON arguments, inside ``around`` if that is given.

    Returns:
        Its outcome; ``result`` is in an envelope (``blobs.py``), or None for tasks with
        ``result=False``.
    """
    started = clock.monotonic()
    try:
        arguments = task.decode_arguments(payload)
    except InvalidPayload as error:
        return _failed(claim, error, None)
    try:
        if around is not None:
            async with around():
                value = await _call(task, arguments, call)
        elif task.is_async:
            value = await task.fn(**arguments)
        else:
            value = await call(partial(task.fn, **arguments))
    except (Exception, SystemExit) as error:
        return failure(task, claim, error, clock.monotonic() - started, rng)
    ran = clock.monotonic() - started
    result = None
    if task.result:
        try:
            result = inline_result(task.encode_result(value))
        except InvalidPayload as error:
            return _failed(claim, error, ran)
    return Outcome(id=claim.id, fence=claim.fence, kind=COMPLETED, result=result, ran=ran)


def failure(
    task: Task[..., Any], claim: Claim, error: BaseException, ran: float, rng: random.Random
) -> Outcome:
    """What follows from an exception, by the task's policy and the message's own backoff."""
    backoff: Backoff | None = decode_stored(claim.message).retry
    step = decide(
        error,
        task.retry,
        failures=claim.failures,
        max_attempts=claim.max_attempts,
        created_at=claim.created_at,
        now=claim.at + ran,
        backoff_override=backoff,
        rng=rng,
    )
    held_by = type(error).__name__.lower() if step.kind is OutcomeKind.SNOOZE else None
    return Outcome(
        id=claim.id,
        fence=claim.fence,
        kind=step.kind,
        error=error_info(error),
        delay=step.delay,
        held_by=held_by,
        ran=ran,
    )


async def _call(task: Task[..., Any], arguments: dict[str, Any], call: SyncCall) -> Any:
    if task.is_async:
        return await task.fn(**arguments)
    return await call(partial(task.fn, **arguments))


def _failed(claim: Claim, error: Exception, ran: float | None) -> Outcome:
    return Outcome(
        id=claim.id,
        fence=claim.fence,
        kind=OutcomeKind.FAILED,
        error=error_info(error),
        ran=ran,
    )
