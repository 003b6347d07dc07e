"""How a workflow goes on: pure decisions, without any reading or writing.

In a dag each node has a *counted* end, which is what its page says: a failure that the node's own
policy tolerates counts as completed. In a group the end is what it is, and the policy of the group
decides what it means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from bananas_core.job import EXPIRED, ErrorInfo, Job, JobState
from bananas_core.workflow.node import SKIPPED, End, Kind, NodeInfo, Path, Policy, Test, Trigger

NODE_FAILED: Final = "NodeFailed"
"""``error.type`` of a scope that failed with a node in it."""
LONGEST: Final = 2000
"""Characters of an error's text that are passed on to the scope."""

_FAILURES: Final = frozenset({End.FAILED, End.CANCELLED})
_TOLERANT: Final = frozenset({Policy.IGNORE, Policy.COLLECT})


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How many members of a scope have ended, and how."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    skipped: int = 0

    @property
    def total(self) -> int:
        return self.completed + self.failed + self.cancelled + self.skipped

    @property
    def failures(self) -> int:
        return self.failed + self.cancelled


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a scope ends."""

    state: JobState
    error: ErrorInfo | None = None


def end_of(job: Job) -> End:
    """How a final record ended."""
    if job.state is JobState.COMPLETED:
        return End.COMPLETED
    if job.state is not JobState.CANCELLED:
        return End.FAILED
    skipped = job.error is not None and job.error.type == SKIPPED
    return End.SKIPPED if skipped else End.CANCELLED


def worst(ends: Sequence[End]) -> End:
    """What several scopes that stand for one node make of it."""
    for end in (End.FAILED, End.CANCELLED):
        if end in ends:
            return end
    return End.COMPLETED


def counted(scope: NodeInfo, node: NodeInfo, end: End) -> End:
    """What the page of ``scope`` is to say of a node."""
    tolerated = scope.kind is Kind.DAG and node.on_failure in _TOLERANT and end in _FAILURES
    return End.COMPLETED if tolerated else end


def fails_scope(scope: NodeInfo, end: End, successors: Sequence[NodeInfo]) -> bool:
    """Whether a node's counted end makes its scope fail at once. In a dag a failure is handled if
    a direct successor waits for one."""
    if end not in _FAILURES or scope.policy is not Policy.FAIL:
        return False
    if scope.kind is Kind.GROUP:
        return True
    return not any(node.trigger in (Trigger.FAILURE, Trigger.DONE) for node in successors)


def why_not(node: NodeInfo, ends: Sequence[End]) -> str | None:
    """Why a node whose predecessors have these counted ends may not run; None if it may."""
    failed = any(end in _FAILURES for end in ends)
    if node.trigger is Trigger.FAILURE:
        return None if failed else "no predecessor failed"
    if node.trigger is Trigger.DONE:
        return None
    if failed:
        return "a predecessor failed"
    if ends and End.COMPLETED not in ends:
        return "all its predecessors were skipped"
    return None


def holds(test: Test, value: Any) -> bool:
    """Whether the value of ``test.of`` fulfils a condition; a missing or incomparable one doesn't.

    Raises:
        ValueError: a newer version's ``op``.
    """
    try:
        found = dig(value, test.path)
        match test.op:
            case "==":
                return bool(found == test.value)
            case "!=":
                return bool(found != test.value)
            case "<":
                return bool(found < test.value)
            case "<=":
                return bool(found <= test.value)
            case ">":
                return bool(found > test.value)
            case ">=":
                return bool(found >= test.value)
            case "in":
                return bool(found in test.value)
            case "truthy":
                return bool(found)
            case "falsy":
                return not found
    except (LookupError, TypeError):
        return False
    raise ValueError(f"unknown condition {test.op!r}; upgrade the worker")


def dig(value: Any, path: Path) -> Any:
    """The part of a JSON value at ``path``.

    Raises:
        LookupError: there is none.
    """
    for step in path:
        if isinstance(step, int) and not isinstance(step, bool):
            if not isinstance(value, list):
                raise LookupError(f"{_shown(value)} has no item {step}")
        elif not isinstance(value, dict):
            raise LookupError(f"{_shown(value)} has no key {step!r}")
        try:
            value = value[step]
        except LookupError:
            raise LookupError(f"{_shown(value)} has no {step!r}") from None
    return value


def ending(scope: NodeInfo, counts: Counts, size: int | None) -> Ending | None:
    """Whether and how a scope ends when so many of its ``size`` members have; ``size`` None: not
    known yet. The failure of a dag is not decided here: it ends before its page says so."""
    if scope.policy is Policy.QUORUM:
        return _quorum(scope, counts, size)
    if size is None or counts.total < size:
        return None
    if scope.kind is Kind.GROUP and scope.policy is Policy.FAIL and counts.failures:
        text = f"{counts.failures} of {size} members failed"
        return Ending(state=JobState.FAILED, error=_error(named(scope, text)))
    return Ending(state=JobState.COMPLETED)


def _quorum(scope: NodeInfo, counts: Counts, size: int | None) -> Ending | None:
    if counts.completed >= scope.quorum:
        return Ending(state=JobState.COMPLETED)
    if size is None:
        return None
    most = size - counts.failures - counts.skipped
    if most < scope.quorum:
        text = f"only {most} of {size} can still succeed, quorum is {scope.quorum}"
        return Ending(state=JobState.FAILED, error=_error(named(scope, text)))
    return None


def failed_by(node: NodeInfo, end: End, job: Job) -> ErrorInfo:
    """The error of a scope that fails because ``job``, which is or stands for ``node``, did."""
    error = job.error
    if error is not None and error.type == NODE_FAILED:
        return _error(error.message)  # its text names the node in which it began
    if end is End.CANCELLED:
        reason = job.cancel.reason if job.cancel is not None and job.cancel.reason else ""
        said = reason or (error.message if error is not None else "")
        return _error(f"node {node.node!r} was cancelled" + (f": {said}" if said else ""))
    if job.scope and error is not None and error.type == EXPIRED:
        return _error(f"node {node.node!r} was not done by its deadline")
    said = f": {error.type}: {error.message}" if error is not None else ""
    return _error(f"node {node.node!r} failed{said}")


def named(scope: NodeInfo, text: str) -> str:
    """``text`` about a scope, with its name unless it is the whole workflow."""
    return f"node {scope.node!r}: {text}" if scope.node else text


def _error(text: str) -> ErrorInfo:
    return ErrorInfo(type=NODE_FAILED, message=text[:LONGEST])


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
