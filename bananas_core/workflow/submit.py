"""A workflow on its way to the ledger, in batches: what waits first, what may start last.

Everything is created if absent, under ids that follow from the workflow's id, so all of it may be
repeated. A submitter that dies in between leaves nothing that runs for ever: submitting again with
the same id completes the workflow, else it ends at its deadline.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from typing import Any, Final, Protocol

import msgspec
from msgspec.structs import replace

from bananas_core.errors import ResultBackendError, TransportError
from bananas_core.job import FINAL, Ready, Signal, SignalKind, Write
from bananas_core.options import JobOptions, Submission, submission
from bananas_core.results import ResultBackend
from bananas_core.workflow.compile import Compiled, Record
from bananas_core.workflow.layout import Place
from bananas_core.workflow.node import (
    DAG_NAME,
    GROUP_NAME,
    ROUTING_KEY,
    Kind,
    from_info,
    seal_key,
)
from bananas_core.workflow.spec import Group, Piece

BATCH: Final = 500
"""Records in one request."""


class Door(Protocol):
    """An open ledger, and the way of jobs into it."""

    @property
    def backend(self) -> ResultBackend: ...

    async def submit(self, jobs: Sequence[Submission]) -> list[str]:
        """Record and send."""
        ...

    async def send_ready(self, ready: Sequence[Ready]) -> None:
        """Do what a signal made necessary."""
        ...


async def submit_compiled(
    door: Door, compiled: Compiled, *, now: float, hold: bool = False
) -> None:
    """Put all records of a workflow, or of what a job adds to itself.

    Args:
        now: the producer's time.
        hold: all of it waits, so there is nothing to look after yet.

    Raises:
        InvalidWorkflow, InvalidPayload: a member of a stream can't be sent. What was put is
            cancelled, as it is when the stream itself raises.
        TransportError, ResultBackendError: the outcome is unknown; safe to repeat.
    """
    writer = _Writer(door, compiled, now)
    try:
        await writer.write()
        if not hold:
            await writer.look_after()
    except (TransportError, ResultBackendError):
        raise
    except Exception as error:
        reason = f"it could not be submitted: {error}"
        wish = Signal(id=compiled.records[0].id, kind=SignalKind.CANCEL, reason=reason)
        _, ready = await door.backend.signal([wish])
        await door.send_ready(ready)
        raise


class _Writer:
    """Puts the records of one workflow."""

    def __init__(self, door: Door, compiled: Compiled, now: float) -> None:
        self._door = door
        self._compiled = compiled
        self._now = now
        self._batch: list[Submission] = []

    async def write(self) -> None:
        """All records, then the members of streams."""
        root, *rest = self._compiled.records
        await self._add(root)
        for started in (False, True):
            chosen = [record for record in rest if record.waiting is not started]
            for record in chosen:
                await self._add(record)
            for record in chosen:
                if record.place is not None:
                    await self._stream(record, record.place)
        if root.place is not None:
            await self._stream(root, root.place)
        await self._flush()

    async def look_after(self) -> None:
        """What may have been too early: a scope that ended before all of its members were there,
        or has none."""
        from bananas_core.workflow.engine import advance, check_scope

        scopes = [record for record in self._compiled.records if record.job is None]
        for record in scopes:
            if not record.waiting and not record.info.size:
                await self._door.send_ready(await check_scope(self._door.backend, record.id))
        for start in range(0, len(scopes), BATCH):
            ids = [record.id for record in scopes[start : start + BATCH]]
            jobs = await self._door.backend.get(ids)
            ended = [job for job in jobs if job is not None and job.state in FINAL]
            if ended:
                await self._door.send_ready(await advance(self._door.backend, ended))

    async def _stream(self, group: Record, place: Place) -> None:
        """The members of a group as they come, and then how many they were. A group that has
        ended gets no more."""
        await self._flush()
        assert isinstance(place.piece, Group)
        members = _members(place.piece.stream)
        count = 0
        try:
            async for member in members:
                records = self._compiled.member(group, count, member)
                for record in sorted(records, key=lambda r: (r.id != records[0].id, not r.waiting)):
                    self._batch.append(self._submission(record))
                count += 1
                if len(self._batch) >= BATCH:
                    await self._flush()
                    if await self._has_ended(group.id):
                        break
        finally:
            await members.aclose()
        await self._flush()
        key = seal_key(self._compiled.workflow, group.id)
        await self._door.backend.cas([Write(key=key, value=msgspec.json.encode(count), version=0)])

    async def _has_ended(self, id: str) -> bool:
        (job,) = await self._door.backend.get([id])
        return job is not None and job.state in FINAL

    async def _add(self, record: Record) -> None:
        self._batch.append(self._submission(record))
        if len(self._batch) >= BATCH:
            await self._flush()

    async def _flush(self) -> None:
        """Batches go one after the other, since the order is what makes a crash harmless."""
        batch, self._batch = self._batch, []
        if batch:
            await self._door.submit(batch)

    def _submission(self, record: Record) -> Submission:
        if record.job is None:
            name = GROUP_NAME if record.info.kind is Kind.GROUP else DAG_NAME
            options = JobOptions(routing_key=ROUTING_KEY, max_attempts=1)
            if record.deadline is not None:
                options["queue_timeout"] = record.deadline
        else:
            name, options = record.job.name, record.job.options_given
        made = submission(record.id, name, record.payload, options, now=self._now)
        message = replace(made.message, workflow=from_info(record.info))
        return replace(made, message=message, waiting=record.waiting, scope=record.job is None)


async def _members(stream: Any) -> AsyncGenerator[Piece, None]:
    if isinstance(stream, AsyncIterable):
        async for member in stream:
            yield member
    elif isinstance(stream, Iterable):
        for member in stream:
            yield member
