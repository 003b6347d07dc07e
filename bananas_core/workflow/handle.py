"""The handle of a workflow: its id, and what can be asked of and done to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bananas_core.arguments import convert_result
from bananas_core.desk import (
    Desk,
    Office,
    cancel_record,
    get_record,
    raise_unless_completed,
    wait_for_end,
)
from bananas_core.errors import InvalidWorkflow, JobNotFound
from bananas_core.job import Job, JobState, Query
from bananas_core.workflow.node import DAG_NAME, GROUP_NAME, Kind, info_of, node_id
from bananas_core.workflow.views import NodeView, Progress, progress, state_of, view

if TYPE_CHECKING:
    from bananas_core.results import ResultBackend

WHAT = "workflow"


class Workflow:
    """One submitted workflow. Cheap, holds no connection of its own, and may be made from an id
    (``app.get_workflow``)."""

    __slots__ = ("_annotation", "_office", "id")

    def __init__(self, id: str, office: Office, annotation: Any = None) -> None:
        self.id = id
        self._office = office
        self._annotation = annotation

    def __repr__(self) -> str:
        return f"<Workflow {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Workflow) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    async def result(self, timeout: timedelta | float | None = None) -> Any:
        """Wait for the end and return its value: of a chain or chord the last part's, of a group
        the list of its members', of a dag those of its last nodes. Safe to repeat.

        Args:
            timeout: seconds; None waits without end.

        Raises:
            JobFailed: a node failed; the text names it. JobExpired: the deadline was over.
            JobCancelled: it was cancelled.
            ResultTimeout: not ended in time; it goes on.
            JobNotFound: no such workflow, or it was pruned.
            PayloadTooLarge: the values together are over ``max_payload``: see ``results``.
        """
        return await _result(self._office, self.id, timeout, self._annotation)

    async def results(self, timeout: timedelta | float | None = None) -> AsyncIterator[Any]:
        """Wait for the end of a group, or of a chain or chord that ends with one, and give the
        values of its members in order, read in batches: ``async for value in workflow.results()``.

        Raises:
            InvalidWorkflow: it has no group whose results are its own.
            JobFailed, JobExpired, JobCancelled, ResultTimeout, JobNotFound: see ``result``.
        """
        from bananas_core.workflow.values import members

        job = await wait_for_end(self._office, self.id, timeout, WHAT)
        raise_unless_completed(job)
        async for value in members(self._office, await _group(self._office.backend, job)):
            yield value

    async def status(self) -> JobState:
        """Where it stands: ``processing`` until it has ended. Raises JobNotFound."""
        return await _status(self._office, self.id)

    async def progress(self) -> Progress:
        """How many of its jobs have ended, and how. Raises JobNotFound."""
        return await _progress(self._office, self.id)

    async def nodes(self, most: int | None = None) -> list[NodeView]:
        """Its nodes, each group or dag before what is in it; the workflow itself comes first.

        Args:
            most: members of one group that are listed; None: all.

        Raises:
            JobNotFound: no such workflow.
        """
        return await _nodes(self._office, self.id, most)

    async def cancel(self, reason: str | None = None) -> bool:
        """End it, and all in it that has not ended: what waits won't run, what runs is told to
        stop. Safe to repeat.

        Returns:
            True if it ends cancelled; False if it had ended otherwise before.

        Raises:
            JobNotFound: no such workflow.
        """
        return await _cancel(self._office, self.id, reason)

    async def resume(self) -> None:
        """Run again what did not succeed, with fresh attempts; what succeeded stays. Safe to
        repeat: after an error or a crash that completes it.

        Raises:
            InvalidWorkflow: it has not ended, or jobs of it still run.
            JobNotFound: no such workflow.
        """
        await _resume(self._office, self.id, None)

    async def rerun(self, node: str) -> None:
        """Run a node again and all that comes after it, also what succeeded; besides, what did
        not succeed anywhere.

        Args:
            node: its name, as ``nodes`` tells it, or its job id.

        Raises:
            InvalidWorkflow: it has not ended, or jobs of it still run.
            JobNotFound: no such workflow or node.
        """
        await _resume(self._office, self.id, node)

    def result_blocking(self, timeout: timedelta | float | None = None) -> Any:
        """``result`` for code without an event loop."""
        annotation = self._annotation
        return self._office.run_blocking(lambda desk: _result(desk, self.id, timeout, annotation))

    def status_blocking(self) -> JobState:
        """``status`` for code without an event loop."""
        return self._office.run_blocking(lambda desk: _status(desk, self.id))

    def progress_blocking(self) -> Progress:
        """``progress`` for code without an event loop."""
        return self._office.run_blocking(lambda desk: _progress(desk, self.id))

    def nodes_blocking(self, most: int | None = None) -> list[NodeView]:
        """``nodes`` for code without an event loop."""
        return self._office.run_blocking(lambda desk: _nodes(desk, self.id, most))

    def cancel_blocking(self, reason: str | None = None) -> bool:
        """``cancel`` for code without an event loop."""
        return self._office.run_blocking(lambda desk: _cancel(desk, self.id, reason))

    def resume_blocking(self) -> None:
        """``resume`` for code without an event loop."""
        self._office.run_blocking(lambda desk: _resume(desk, self.id, None))

    def rerun_blocking(self, node: str) -> None:
        """``rerun`` for code without an event loop."""
        self._office.run_blocking(lambda desk: _resume(desk, self.id, node))


async def get_workflow(desk: Desk, id: str) -> Job:
    """The record of a workflow. Raises JobNotFound; InvalidWorkflow if the id is a job's."""
    job = await get_record(desk, id, WHAT)
    if not job.scope or job.workflow != id:
        whole = f"; it is in workflow {job.workflow}" if job.workflow is not None else ""
        raise InvalidWorkflow(f"{id} is a job ({job.name}), no workflow{whole}")
    return job


async def _result(desk: Desk, id: str, timeout: timedelta | float | None, annotation: Any) -> Any:
    from bananas_core.workflow.values import value_of

    job = await wait_for_end(desk, id, timeout, WHAT)
    raise_unless_completed(job)
    value = await value_of(desk, job)
    return value if annotation is None else convert_result(value, annotation)


async def _status(desk: Desk, id: str) -> JobState:
    return state_of(await get_record(desk, id, WHAT))


async def _progress(desk: Desk, id: str) -> Progress:
    await get_workflow(desk, id)
    states: dict[JobState, int] = {}
    for found in await desk.backend.count(["name", "state"], Query(workflow=id)):
        name, state = found.group
        if name not in (GROUP_NAME, DAG_NAME):
            states[JobState(state)] = states.get(JobState(state), 0) + found.count
    return progress(states)


async def _nodes(desk: Desk, id: str, most: int | None) -> list[NodeView]:
    from bananas_core.workflow.tree import walk

    root = await get_workflow(desk, id)
    return [
        view(found.job, found.info, found.depth, found.left_out)
        async for found in walk(desk.backend, root, most)
    ]


async def _cancel(desk: Desk, id: str, reason: str | None) -> bool:
    await get_workflow(desk, id)
    return await cancel_record(desk, id, reason, WHAT)


async def _resume(desk: Desk, id: str, node: str | None) -> None:
    from bananas_core.workflow.resume import rerun, resume  # seldom needed

    if node is None:
        ready = await resume(desk.backend, id, codecs=desk.codecs)
    else:
        ready = await rerun(desk.backend, id, node, codecs=desk.codecs)
    await desk.send_ready(ready)


async def _group(backend: ResultBackend, job: Job) -> Job:
    """The group whose results are those of a scope. Raises InvalidWorkflow."""
    info = info_of(job)
    while info.kind is Kind.DAG and len(info.results) == 1:
        (last,) = await backend.get([node_id(job.id, info.results[0])])
        if last is None:
            raise JobNotFound(f"a node of workflow {info.id} was pruned")
        job, info = last, info_of(last)
    if info.kind is not Kind.GROUP:
        raise InvalidWorkflow(
            f"the result of workflow {info.id} is not that of a group; use result()"
        )
    return job
