"""How a job looks in a table, on a page of its own, and as bytes."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec

from bananas_core.cli.output import Column, Output, cell, escaped, plain, seconds_text, short
from bananas_core.clock import to_datetime
from bananas_core.job import ErrorInfo, Job
from bananas_core.record import JobRecord
from bananas_core.report import LogLine

COLUMNS: Final = (
    Column("id"),
    Column("name"),
    Column("state"),
    Column("attempt", rank=1),
    Column("priority", rank=5),
    Column("routing key", rank=4),
    Column("created", rank=3),
    Column("ran", rank=2),
    Column("note", fold=True),
)
QUARANTINED: Final = (
    Column("id", fold=True),
    Column("routing key", rank=2),
    Column("why", fold=True),
    Column("created", rank=1),
    Column("raw bytes", fold=True),
)
ATTEMPTS: Final = (
    Column("attempt"),
    Column("worker", rank=2),
    Column("claimed", rank=1),
    Column("ran"),
    Column("outcome"),
    Column("error", fold=True),
)
MOST_RAW: Final = 300
"""Characters of raw bytes in a table; ``--json`` has all."""


def job_row(record: JobRecord, job: Job) -> tuple[object, ...]:
    """A line of the listing; the error, when it is due, or how far it is, goes last."""
    return (
        record.id,
        record.name,
        record.state,
        f"{record.attempt}/{record.max_attempts}",
        record.priority,
        record.routing_key,
        record.created_at,
        seconds_text(ran(record.started_at, record.finished_at)),
        note(record, job),
    )


def quarantined_row(record: JobRecord, job: Job) -> tuple[object, ...]:
    """The same with the reason and the beginning of the raw bytes."""
    raw = short(escaped(job.message[:MOST_RAW]), MOST_RAW)
    return (record.id, record.routing_key, note(record, job), record.created_at, raw)


def note(record: JobRecord, job: Job) -> str:
    """The one thing worth saying of a job on one line."""
    if record.state == "scheduled" and job.run_at is not None:
        return f"due {cell(to_datetime(job.run_at))}"
    if record.error is not None:
        return short(error_text(record.error))
    if record.progress is not None and record.state == "processing":
        return f"{record.progress.value:.0%} {short(record.progress.text)}".strip()
    return ""


def show_job(out: Output, record: JobRecord, lines: list[LogLine]) -> None:
    """Everything known of one job, for people."""
    rows: list[tuple[str, object]] = [
        ("id", record.id),
        ("name", record.name),
        ("state", record.state),
        ("attempt", f"{record.attempt} of {record.max_attempts}"),
        ("priority", record.priority),
        ("routing key", record.routing_key),
        ("payload", json_text(record.payload)),
        ("result", json_text(record.result)),
        ("created", record.created_at),
        ("started", record.started_at),
        ("finished", record.finished_at),
        ("ran", seconds_text(ran(record.started_at, record.finished_at))),
        ("worker", record.worker),
    ]
    if record.progress is not None:
        rows.append(("progress", f"{record.progress.value:.0%} {record.progress.text or ''}"))
    if record.error is not None:
        rows.append(("error", error_text(record.error)))
    out.facts("", [(name, value) for name, value in rows if value not in (None, "", "null")])
    if record.timeline:
        out.table(
            "attempts",
            ATTEMPTS,
            (
                (
                    entry.attempt,
                    entry.worker,
                    entry.claimed_at,
                    seconds_text(ran(entry.started_at, entry.ended_at)),
                    entry.outcome or "running",
                    "" if entry.error is None else short(error_text(entry.error)),
                )
                for entry in record.timeline
            ),
        )
    if record.error is not None and record.error.traceback:
        out.say(plain(record.error.traceback.rstrip()))
    for line in lines:
        out.say(plain(f"{cell(to_datetime(line.at))} {line.text}"))


def with_raw(record: JobRecord, job: Job) -> dict[str, Any]:
    """A quarantined record with its bytes as ``raw``, escaped."""
    fields: dict[str, Any] = msgspec.to_builtins(record, builtin_types=(datetime,))
    fields["raw"] = escaped(job.message)
    return fields


def error_text(error: ErrorInfo) -> str:
    """Type and message."""
    return f"{error.type}: {error.message}" if error.message else error.type


def json_text(value: object) -> str:
    """A decoded value as JSON."""
    return msgspec.json.encode(value).decode()


def ran(started: datetime | None, ended: datetime | None) -> float | None:
    """Seconds between two instants, if both are known."""
    if started is None or ended is None:
        return None
    return max(0.0, (ended - started).total_seconds())
