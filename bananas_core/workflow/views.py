"""What is told of a workflow: its nodes, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from bananas_core.job import FINAL, ErrorInfo, Job, JobState
from bananas_core.workflow.node import SKIPPED, Kind, NodeInfo


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """One node of a workflow, at one moment."""

    name: str
    """Unique in the workflow; ``""`` is the workflow itself."""
    id: str
    """Of its job record."""
    task: str | None
    """None of a group, chain, chord or dag."""
    kind: Kind | None
    """``group`` or ``dag`` (chains and chords are dags); None of a job."""
    state: JobState
    """A group or dag that has started is ``processing``."""
    skipped: bool
    """It is ``cancelled`` because its ``run_if`` did not hold."""
    attempt: int
    error: ErrorInfo | None
    depth: int = 0
    """Groups and dags that it is in."""
    left_out: int = 0
    """Members of this group that are not listed."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How many jobs of a workflow there are, and in which states. Groups and the like are not
    counted. The total may grow while a stream is read, or by ``expand``."""

    total: int
    done: int
    """Those that have ended, well or not."""
    states: Mapping[JobState, int]

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.done / self.total if self.total else 1.0


def view(job: Job, info: NodeInfo, depth: int = 0, left_out: int = 0) -> NodeView:
    """A node as its record says."""
    return NodeView(
        name=info.node,
        id=job.id,
        task=None if info.kind is not None else job.name,
        kind=info.kind,
        state=state_of(job),
        skipped=is_skipped(job),
        attempt=job.attempt,
        error=None if is_skipped(job) else job.error,
        depth=depth,
        left_out=left_out,
    )


def state_of(job: Job) -> JobState:
    """A scope that has started, and so waits for its nodes, is being processed."""
    if job.scope and job.state is JobState.WAITING and job.started_at is not None:
        return JobState.PROCESSING
    return job.state


def is_skipped(job: Job) -> bool:
    """Its condition did not hold."""
    return job.state is JobState.CANCELLED and job.error is not None and job.error.type == SKIPPED


def progress(counts: Mapping[JobState, int]) -> Progress:
    """From the number of jobs in each state."""
    return Progress(
        total=sum(counts.values()),
        done=sum(number for state, number in counts.items() if state in FINAL),
        states=dict(counts),
    )
