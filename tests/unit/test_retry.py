"""What follows from an exception."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from bananas_core.errors import InvalidPayload, RateLimited, Retry, Snooze
from bananas_core.job import OutcomeKind
from bananas_core.message import Backoff
from bananas_core.retry import RetryPolicy, Step, decide, wait_before

STEADY = RetryPolicy(backoff=Backoff(delay=2.0, factor=3.0, max_delay=10.0, jitter=0.0))


def step(error: BaseException, policy: RetryPolicy = STEADY, **given: Any) -> Step:
    known: dict[str, Any] = {
        "failures": 0,
        "max_attempts": 3,
        "created_at": 1000.0,
        "now": 1001.0,
        "rng": random.Random(1),
    }
    return decide(error, policy, **{**known, **given})


@pytest.mark.parametrize(
    ("failures", "kind", "delay"),
    [
        (0, OutcomeKind.RETRY, 2.0),
        (1, OutcomeKind.RETRY, 6.0),
        (2, OutcomeKind.FAILED, 0.0),
        (7, OutcomeKind.FAILED, 0.0),
    ],
)
def test_an_exception_is_retried_until_the_attempts_are_used(
    failures: int, kind: OutcomeKind, delay: float
) -> None:
    assert step(ValueError(), failures=failures) == Step(kind=kind, delay=delay)


def test_one_attempt_means_no_retry() -> None:
    assert step(ValueError(), max_attempts=1).kind is OutcomeKind.FAILED
    assert step(Retry(delay=1), max_attempts=1).kind is OutcomeKind.FAILED


def test_retry_names_its_own_delay_or_takes_the_backoff() -> None:
    assert step(Retry(delay=0)) == Step(kind=OutcomeKind.RETRY, delay=0.0)
    assert step(Retry(delay=99)) == Step(kind=OutcomeKind.RETRY, delay=99.0)
    assert step(Retry()) == Step(kind=OutcomeKind.RETRY, delay=2.0)


def test_retry_is_retried_whatever_the_policy_lists() -> None:
    policy = RetryPolicy(retry_on=(), no_retry_on=(Exception,))
    assert step(Retry(delay=1), policy).kind is OutcomeKind.RETRY


@pytest.mark.parametrize("error", [Snooze(delay=7), RateLimited(retry_after=7)])
def test_snooze_and_rate_limit_spend_no_attempt(error: Exception) -> None:
    assert step(error, failures=2) == Step(kind=OutcomeKind.SNOOZE, delay=7.0)


def test_only_listed_exceptions_are_retried_and_no_retry_on_goes_first() -> None:
    policy = RetryPolicy(retry_on=(OSError,), no_retry_on=(ConnectionError,))
    assert step(TimeoutError(), policy).kind is OutcomeKind.RETRY
    assert step(ConnectionResetError(), policy).kind is OutcomeKind.FAILED
    assert step(ValueError(), policy).kind is OutcomeKind.FAILED


def test_bad_arguments_fail_at_once() -> None:
    assert step(InvalidPayload("no")).kind is OutcomeKind.FAILED


def test_a_requested_cancel_ends_cancelled() -> None:
    error = asyncio.CancelledError()
    assert step(error, cancel_requested=True).kind is OutcomeKind.CANCELLED
    assert step(error).kind is OutcomeKind.FAILED
    assert step(ValueError(), cancel_requested=True).kind is OutcomeKind.RETRY


def test_no_attempt_starts_after_max_age() -> None:
    policy = RetryPolicy(backoff=Backoff(delay=2.0, jitter=0.0, max_age=10.0))
    assert step(ValueError(), policy, now=1007.9).kind is OutcomeKind.RETRY
    assert step(ValueError(), policy, now=1008.1).kind is OutcomeKind.FAILED


def test_the_messages_own_backoff_goes_first() -> None:
    mine = Backoff(delay=5.0, jitter=0.0)
    assert step(ValueError(), backoff_override=mine).delay == 5.0


def test_jitter_takes_away_at_most_its_share() -> None:
    backoff = Backoff(delay=10.0, jitter=0.2)
    rng = random.Random(7)
    waits = [wait_before(backoff, 1, rng) for _ in range(500)]
    assert 8.0 <= min(waits) < 8.2
    assert 9.8 < max(waits) <= 10.0


def test_huge_backoffs_stop_at_max_delay() -> None:
    backoff = Backoff(delay=1.0, factor=1e6, max_delay=60.0, jitter=0.0)
    assert wait_before(backoff, 10_000, random.Random(1)) == 60.0
