"""Every error that Bananas raises, under one root.

A driver translates its client's errors once, into the two families below, and keeps the cause
(``raise TransportUnavailable("…") from error``). Each message says what the caller can do.
"""

from __future__ import annotations

from typing import Any


class BananasError(Exception):
    """Root of all errors of this package."""


class ConfigurationError(BananasError):
    """A setting, URL or option is missing, unknown or contradictory."""


class UnsupportedCapability(ConfigurationError):
    """A driver can't do what was asked and the core can't emulate it; raised at start-up."""


class TransportError(BananasError):
    """The transport refused a request; trying again unchanged gives the same answer."""


class TransportUnavailable(TransportError):
    """The transport can't be reached now; the outcome of the call is unknown, try again."""


class ResultBackendError(BananasError):
    """The ledger refused a request; trying again unchanged gives the same answer."""


class ResultBackendUnavailable(ResultBackendError):
    """The ledger can't be reached now; the outcome of the call is unknown, try again."""


class CursorExpired(ResultBackendError):
    """The event cursor is older than what the ledger keeps; start again from the oldest event."""


class InvalidPayload(BananasError, ValueError):
    """Arguments or message can't be accepted as they are; nothing was sent."""


class PayloadTooLarge(InvalidPayload):
    """Payload, result or message is over a stated limit; nothing was sent."""


class InvalidMessage(InvalidPayload):
    """Received bytes are not a message of this version; they go to quarantine unexecuted.

    ``reason`` is a short stable word (``not-json``, ``version``, ``crit``, …) for counting.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class UnknownTask(BananasError, LookupError):
    """No task of that name is registered in this app."""


class JobNotFound(BananasError, LookupError):
    """The ledger has no job of that id: never accepted, or pruned after its retention."""


class DuplicateJob(BananasError):
    """Another job holds the unique key, and the rule is to refuse a second one. ``job_id`` is the
    other one's."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id} holds the unique key already")
        self.job_id = job_id


class InvalidWorkflow(BananasError, ValueError):
    """A workflow's graph can't run (cycle, unknown node or task); nothing was stored."""


class JobFailed(BananasError):
    """The job ended as failed.

    ``error_type``, ``message`` and ``traceback`` (text) describe the exception of the last
    attempt. They are data from the worker; the exception class itself is never rebuilt.
    """

    def __init__(self, error_type: str, message: str, traceback: str | None = None) -> None:
        super().__init__(f"{error_type}: {message}")
        self.error_type = error_type
        self.message = message
        self.traceback = traceback

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.error_type, self.message, self.traceback))


class JobExpired(JobFailed):
    """The job was not started in time (``expires_at`` or ``queue_timeout``) and never will be."""

    def __init__(
        self,
        error_type: str = "JobExpired",
        message: str = "not started in time",
        traceback: str | None = None,
    ) -> None:
        super().__init__(error_type, message, traceback)


class JobCancelled(BananasError):
    """The job was cancelled; ``reason`` is what the caller of ``cancel`` gave, or None."""

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason or "cancelled")
        self.reason = reason


class ResultTimeout(BananasError, TimeoutError):
    """The result was not there within the given time; the job goes on."""


class Retry(BananasError):
    """Raised by a task: try this job again, as a failed attempt.

    ``delay`` in seconds (None: the task's own backoff). Ends as failed once ``max_attempts`` is
    reached.
    """

    def __init__(self, message: str = "retry requested", *, delay: float | None = None) -> None:
        super().__init__(message)
        self.delay = delay


class Snooze(BananasError):
    """Raised by a task: run this job again after ``delay`` seconds without spending an attempt."""

    def __init__(self, message: str = "snoozed", *, delay: float) -> None:
        super().__init__(message)
        self.delay = delay


class RateLimited(BananasError):
    """Raised by a task that was told to come back later (an HTTP 429, say).

    The job runs again after ``retry_after`` seconds without spending an attempt.
    """

    def __init__(self, message: str = "rate limited", *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
