"""Bananas: background jobs that mean the same thing on every broker."""

from bananas_core.app import Bananas
from bananas_core.client import AsyncClient, Client
from bananas_core.context import JobContext, current_job
from bananas_core.errors import (
    BananasError,
    ConfigurationError,
    DuplicateJob,
    InvalidPayload,
    InvalidWorkflow,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobNotFound,
    PayloadTooLarge,
    RateLimited,
    ResultBackendError,
    ResultBackendUnavailable,
    ResultTimeout,
    Retry,
    Snooze,
    TransportError,
    TransportUnavailable,
    UnknownTask,
    UnsupportedCapability,
)
from bananas_core.handle import Job
from bananas_core.hooks import hookimpl
from bananas_core.job import JobState
from bananas_core.message import Backoff
from bananas_core.options import Priority
from bananas_core.plugins import Plugin
from bananas_core.record import JobRecord
from bananas_core.retry import RetryPolicy
from bananas_core.task import JobSpec, Task
from bananas_core.workflow.build import chain, chord, dag, group
from bananas_core.workflow.handle import Workflow

__all__ = [
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
