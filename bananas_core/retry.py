"""What follows from an exception: try again, later, or never. Pure decisions."""

from __future__ import annotations

import random

import msgspec

from bananas_core.errors import InvalidPayload, RateLimited, Retry, Snooze
from bananas_core.job import OutcomeKind
from bananas_core.message import Backoff


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Which exceptions lead to another attempt, and how long it waits.

    ``no_retry_on`` goes before ``retry_on``. An exception that is in neither fails the job at
    once. ``Retry``, ``Snooze`` and ``RateLimited`` raised by the task mean what they say,
    whatever is listed here.
    """

    backoff: Backoff = Backoff()
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    no_retry_on: tuple[type[BaseException], ...] = (InvalidPayload,)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What to do now. ``delay``: seconds until the job runs again (retry, snooze)."""

    kind: OutcomeKind
    delay: float = 0.0


FAIL = Step(kind=OutcomeKind.FAILED)
CANCEL = Step(kind=OutcomeKind.CANCELLED)


def decide(
    error: BaseException,
    policy: RetryPolicy,
    *,
    failures: int,
    max_attempts: int,
    created_at: float,
    now: float,
    rng: random.Random,
    backoff_override: Backoff | None = None,
    cancel_requested: bool = False,
) -> Step:
    """The step after ``error`` ended an attempt.

    Args:
        failures: failed attempts before this one.
        created_at, now: unix seconds on the same clock, for ``max_age``.
        backoff_override: the message's own backoff, which goes before the task's.
        cancel_requested: a CancelledError is what was asked for.
    """
    if cancel_requested:
        from asyncio import CancelledError  # not at `import bananas`

        if isinstance(error, CancelledError):
            return CANCEL
    if isinstance(error, Snooze):
        return Step(kind=OutcomeKind.SNOOZE, delay=max(0.0, error.delay))
    if isinstance(error, RateLimited):
        return Step(kind=OutcomeKind.SNOOZE, delay=max(0.0, error.retry_after))
    listed = isinstance(error, policy.retry_on) and not isinstance(error, policy.no_retry_on)
    if not listed and not isinstance(error, Retry):
        return FAIL
    if failures + 1 >= max_attempts:
        return FAIL
    backoff = backoff_override or policy.backoff
    if isinstance(error, Retry) and error.delay is not None:
        delay = max(0.0, error.delay)
    else:
        delay = wait_before(backoff, failures + 1, rng)
    if backoff.max_age is not None and now + delay > created_at + backoff.max_age:
        return FAIL
    return Step(kind=OutcomeKind.RETRY, delay=delay)


def wait_before(backoff: Backoff, failures: int, rng: random.Random) -> float:
    """Seconds between the ``failures``-th failure (from 1) and the next attempt."""
    try:
        full = min(backoff.max_delay, backoff.delay * backoff.factor ** (failures - 1))
    except OverflowError:
        full = backoff.max_delay
    return full * (1 - backoff.jitter * rng.random())
