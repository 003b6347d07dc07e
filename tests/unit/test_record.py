"""The public record of a job whose bytes can't be read."""

from __future__ import annotations

import pytest

from bananas_core.codec import Codecs
from bananas_core.job import ErrorInfo, Job, JobState
from bananas_core.record import brief_record


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"v":1,"id":"a","name":"n","created_at":"2026-01-01T00:00:00Z","payload":{"a":1e999}}',
        b'{"v":1,"id":"a","name":"n","created_at":"2026-01-01T00:00:00Z","payload":{"a":"\xff"}}',
        b'{"v":1,"id":"a","name":"n","created_at":"2026-01-01T00:00:00Z","payload":'
        + b"[" * 50_000
        + b"]" * 50_000
        + b"}",
        b"\x80\x04K\x01.",
    ],
)
def test_quarantined_bytes_are_listed_without_a_payload(raw: bytes) -> None:
    job = Job(
        id="quarantined-1",
        name="",
        routing_key="default",
        state=JobState.QUARANTINED,
        message=raw,
        created_at=1.0,
        changed_at=1.0,
        error=ErrorInfo(type="InvalidMessage", message="no"),
    )
    record = brief_record(job, Codecs([]))
    assert record.payload is None
    assert record.state is JobState.QUARANTINED
