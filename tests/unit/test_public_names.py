"""What `bananas` offers is a promise: this list changes only on purpose."""

from __future__ import annotations

import subprocess
import sys

import bananas
import bananas.testing

NAMES = [
    "AsyncClient",
    "Backoff",
    "Bananas",
    "BananasError",
    "Client",
    "ConfigurationError",
    "DuplicateJob",
    "InvalidPayload",
    "InvalidWorkflow",
    "Job",
    "JobCancelled",
    "JobContext",
    "JobExpired",
    "JobFailed",
    "JobNotFound",
    "JobRecord",
    "JobSpec",
    "JobState",
    "PayloadTooLarge",
    "Plugin",
    "Priority",
    "RateLimited",
    "ResultBackendError",
    "ResultBackendUnavailable",
    "ResultTimeout",
    "Retry",
    "RetryPolicy",
    "Snooze",
    "Task",
    "TransportError",
    "TransportUnavailable",
    "UnknownTask",
    "UnsupportedCapability",
    "Workflow",
    "chain",
    "chord",
    "current_job",
    "dag",
    "group",
    "hookimpl",
]


def test_public_names_are_frozen() -> None:
    assert sorted(bananas.__all__) == NAMES
    assert all(hasattr(bananas, name) for name in NAMES)
    assert sorted(bananas.testing.__all__) == [
        "ManualClock",
        "assert_submitted",
        "drain",
        "memory_app",
    ]


def test_public_shapes_are_frozen() -> None:
    assert bananas.JobRecord.__struct_fields__ == (
        "id",
        "name",
        "state",
        "attempt",
        "max_attempts",
        "priority",
        "routing_key",
        "payload",
        "result",
        "error",
        "progress",
        "created_at",
        "started_at",
        "finished_at",
        "worker",
        "timeline",
    )
    assert dict(bananas.Priority.__members__) == {"LOW": 10, "NORMAL": 50, "HIGH": 90}
    assert [state.value for state in bananas.JobState] == [
        "waiting",
        "scheduled",
        "pending",
        "processing",
        "completed",
        "failed",
        "cancelled",
        "quarantined",
    ]


def test_importing_loads_no_settings_cli_or_driver() -> None:
    heavy = ["pydantic", "pydantic_settings", "typer", "rich", "sqlite3", "bananas_brokers"]
    code = f"import sys, bananas; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "[]"
