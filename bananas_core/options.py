"""What can be chosen for one job, and how arguments and options become a message."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any, Final, TypedDict

import msgspec

from bananas_core.clock import instant, seconds
from bananas_core.errors import InvalidPayload
from bananas_core.job import JobPut
from bananas_core.message import VERSION, Message, check_name, encode_message
from bananas_core.unique_rule import UniqueKey, mark


class Priority(IntEnum):
    """Names for common priorities; any whole number from 0 to 100 may be used, larger first."""

    LOW = 10
    NORMAL = 50
    HIGH = 90


class JobOptions(TypedDict, total=False):
    """Options of ``.options(…)`` and ``submit_job(…)``. Durations are timedeltas or seconds."""

    job_id: str
    """Chosen by the caller, which makes trying again safe: an existing id returns that job."""
    delay: timedelta | float
    """Start no earlier than this after now, on the ledger's clock."""
    run_at: datetime
    """Start no earlier than this instant."""
    expires_at: datetime
    """Start no attempt after this instant."""
    priority: int
    routing_key: str
    max_attempts: int
    """Attempts in all, the first one included."""
    timeout: timedelta | float
    """How long one attempt may run."""
    queue_timeout: timedelta | float
    """How long it may wait, once it is ready to run."""
    unique: Any
    """A ``Unique(…)``, which goes before the task's own."""
    bind: bool | str
    """In a workflow: False keeps the result of the part before out of its arguments; a name says
    which argument gets it. Else it has no meaning."""


NAMES: Final = frozenset(JobOptions.__annotations__)


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """One job on its way to the ledger: its message and what the ledger alone resolves."""

    message: Message
    delay: float | None = None
    waiting: bool = False
    """It is put, and sent by whoever releases it."""
    scope: bool = False
    """A part of a workflow, never sent."""
    unique: Any = None
    """What the plugin for unique keys makes ``message.unique`` of; None: what its task says."""


def submission(
    id: str, name: str, payload: bytes, options: JobOptions, *, now: float
) -> Submission:
    """Build the message of a job.

    Args:
        id: used unless the options choose one.
        name, options: checked already (``check_name``, ``check_options``).
        payload: a JSON object.
        now: the producer's time, unix seconds.
    """
    delay = options.get("delay")
    run_at, expires_at = options.get("run_at"), options.get("expires_at")
    timeout, queue_timeout = options.get("timeout"), options.get("queue_timeout")
    message = Message(
        v=VERSION,
        id=options.get("job_id", id),
        name=name,
        payload=msgspec.Raw(payload),
        created_at=datetime.fromtimestamp(now, UTC),
        put=True,
        routing_key=options.get("routing_key", "default"),
        priority=int(options.get("priority", 50)),
        max_attempts=options.get("max_attempts", 3),
        timeout=None if timeout is None else seconds(timeout),
        queue_timeout=None if queue_timeout is None else seconds(queue_timeout),
        run_at=None if run_at is None else run_at.astimezone(UTC),
        expires_at=None if expires_at is None else expires_at.astimezone(UTC),
    )
    unique = options.get("unique")
    if isinstance(unique, UniqueKey):
        message, unique = mark(message, unique.key, unique.rule), None
    return Submission(
        message=message, delay=None if delay is None else seconds(delay), unique=unique
    )


def check_options(options: JobOptions) -> None:
    """Raises InvalidPayload naming the option that is unknown or has an impossible value."""
    if not options:
        return
    unknown = set(options) - NAMES
    if unknown:
        raise InvalidPayload(
            f"unknown options {', '.join(sorted(unknown))}; known: {', '.join(sorted(NAMES))}"
        )
    unique: Any = options.get("unique")
    if unique is not None and not isinstance(unique, UniqueKey) and not hasattr(unique, "plugin"):
        raise InvalidPayload(f"unique is a Unique(…), not {unique!r}")
    bind: Any = options.get("bind", True)
    if not isinstance(bind, (bool, str)):
        raise InvalidPayload(f"bind is True, False or the name of an argument, not {bind!r}")
    for option in ("delay", "timeout", "queue_timeout"):
        duration: Any = options.get(option)
        if duration is None:
            continue
        if isinstance(duration, bool) or not isinstance(duration, (int, float, timedelta)):
            raise InvalidPayload(f"{option} is a timedelta or seconds, not {duration!r}")
        value = seconds(duration)
        if not (0 <= value < 1e10) or (value == 0 and option != "delay"):
            raise InvalidPayload(f"{option} must be positive, not {duration!r}")
    for option in ("run_at", "expires_at"):
        moment: Any = options.get(option)
        if moment is None:
            continue
        if not isinstance(moment, datetime):
            raise InvalidPayload(f"{option} is an aware datetime, not {moment!r}")
        try:
            instant(moment)
        except ValueError as error:
            raise InvalidPayload(f"{option}: {error}") from error
    if options.get("delay") is not None and options.get("run_at") is not None:
        raise InvalidPayload("give delay or run_at, not both")
    _check_whole("priority", options.get("priority", 50), 0, 100)
    _check_whole("max_attempts", options.get("max_attempts", 3), 1, 1_000_000)
    for option in ("job_id", "routing_key"):
        name: Any = options.get(option, "default")
        if not isinstance(name, str):
            raise InvalidPayload(f"{option} is a string, not {name!r}")
        check_name(option, name)


def to_put(submission: Submission) -> JobPut:
    """What the ledger is asked to create."""
    message = submission.message
    return JobPut(
        id=message.id,
        name=message.name,
        message=encode_message(message),
        routing_key=message.routing_key,
        priority=message.priority,
        max_attempts=message.max_attempts,
        delay=submission.delay,
        run_at=None if message.run_at is None else message.run_at.timestamp(),
        expires_at=None if message.expires_at is None else message.expires_at.timestamp(),
        queue_timeout=message.queue_timeout,
        waiting=submission.waiting,
        workflow=None if message.workflow is None else message.workflow.get("id"),
        scope=submission.scope,
        unique=message.unique,
    )


def _check_whole(option: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidPayload(f"{option} is a whole number from {least} to {most}, not {value!r}")
