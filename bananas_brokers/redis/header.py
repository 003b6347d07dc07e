"""A record as it is stored: a header of fixed layout, and apart from it what few records have.

The scripts edit headers by cutting and joining, so all that a claim or a success changes stands in
front, and the session, which is as long as it likes, at the end. Offsets are counted from 1 as in
Lua; numbers are big-endian, doubles for times, 0 for "none":

====== ===== ===================================================================================
 1      1     state, a letter
 2      8     fence
 10     8     changed_at
 18     8     with a claim in the header: seconds that the body ran; else started_at; -1: none
 26     8     when the last claim was made; 0: it is in the extras like earlier ones
 34     8     start_by
 42     8     guard_at
 50     1     head
 51     4     number of changes, so that no header comes twice
 55     4     gen
 59     1     priority
 60     1     extras: 0 none, 1 some, 2 some that a success clears
 61     1     1: something follows from its end
 62     1     1: a cancel was asked for
 63     1     where it is pending: L in a ready list, Z in a sorted set
 64     1     1: kept for a time of its own
 65     8     created_at
 73     8     pending_at
 81     4     failures     ┐
 85     2     deaths       │ the "shape": equal for jobs of a kind, it stands in events
 87     2     length of …  │
 89     …     … the base   ┘ (msgpack: name, routing key, max_attempts, the rest by name)
 then         session
====== ===== ===================================================================================
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

import msgspec

from bananas_core.job import (
    FINAL,
    TIMELINE,
    AttemptInfo,
    Cancel,
    ErrorInfo,
    Held,
    Job,
    JobPut,
    JobState,
    Progress,
)
from bananas_core.state import FIRST_HOLD

LETTERS: Final = {
    JobState.WAITING: b"w",
    JobState.SCHEDULED: b"s",
    JobState.PENDING: b"p",
    JobState.PROCESSING: b"r",
    JobState.COMPLETED: b"c",
    JobState.FAILED: b"f",
    JobState.CANCELLED: b"x",
    JobState.QUARANTINED: b"q",
}
STATES: Final = {letter: state for state, letter in LETTERS.items()}

_FIXED: Final = struct.Struct(">cQdddddcIIBcccccddIHH")
SIZE: Final = _FIXED.size
SHAPE: Final = 80
"""Where the shape begins, counted from 0."""
_MIDDLE: Final = struct.Struct(">IIBccccc")
_SHAPE: Final = struct.Struct(">IHH")
ClaimParts = tuple[int, int, float, int, int, "Base"]
"""gen, priority, created_at, failures, deaths and base."""
_CLAIM: Final = struct.Struct(">IB5xd8xIHH")
"""What a claim needs, from ``gen`` on."""
RAN: Final = struct.Struct(">d")
FENCE: Final = struct.Struct(">Q")
NOT_RUN: Final = RAN.pack(-1.0)
YES: Final = b"1"
NO: Final = b"0"


class Options(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What few records have and no script looks at."""

    run_at: float | None = None
    expires_at: float | None = None
    queue_timeout: float | None = None
    guard_hold: float | None = None
    foreign: bool = False
    keep_until: float = 0.0
    tags: tuple[str, ...] = ()
    workflow: str | None = None
    scope: bool = False
    unique: str | None = None
    delay: float | None = None


class Base(msgspec.Struct, frozen=True, array_like=True):
    """The end of the shape."""

    name: str
    routing_key: str
    max_attempts: int = 3
    options: Options | None = None


class Extras(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a few records have, apart from the header. ``worker``: of a record that is not
    claimed now and whose header has no claim."""

    attempts: tuple[AttemptInfo, ...] = ()
    error: ErrorInfo | None = None
    progress: Progress | None = None
    cancel: Cancel | None = None
    held: Held | None = None
    finished_at: float | None = None


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a record. ``extras`` None: it has none."""

    head: bytes
    extras: bytes | None


_encode: Final = msgspec.msgpack.Encoder().encode
_base: Final = msgspec.msgpack.Decoder(Base).decode
_extras: Final = msgspec.msgpack.Decoder(Extras).decode
_NONE: Final = Extras()
_PLAIN: Final = Options()


@lru_cache(maxsize=4096)
def base_of(raw: bytes) -> Base:
    """The base of a shape; jobs of a kind share it."""
    return _base(raw)


def shape_of(name: str, routing_key: str, max_attempts: int) -> bytes:
    """The shape of a new plain job."""
    raw = _encode(Base(name, routing_key, max_attempts))
    return _SHAPE.pack(0, 0, len(raw)) + raw


def middle_of(priority: int, *, guard: bool) -> bytes:
    """Offsets 51 to 64 of a new plain job."""
    return _MIDDLE.pack(0, 1, priority, NO, NO, NO, b"Z" if guard else b"L", NO)


def is_plain(put: JobPut) -> bool:
    """Whether ``put.lua`` can create it: pending at once, with nothing rare about it."""
    return not (
        put.delay is not None
        or put.run_at is not None
        or put.expires_at is not None
        or put.queue_timeout is not None
        or put.waiting
        or put.scope
        or put.tags
        or put.workflow is not None
        or put.unique is not None
        or put.quarantine is not None
    )


def encode(job: Job, changes: int, *, guard: bool) -> Stored:
    """The stored parts of a record; ``changes`` is one more than before."""
    last = job.attempts[-1] if job.attempts else None
    inside = last is not None and _fits(job, last)
    span = job.started_at if job.started_at is not None else -1.0
    claimed_at = 0.0
    if inside:
        assert last is not None
        claimed_at, span = last.claimed_at, -1.0
        if last.started_at is not None and last.ended_at is not None:
            span = last.ended_at - last.started_at
    attempts = job.attempts[:-1] if inside else job.attempts
    unlike = job.finished_at if job.finished_at != _finished(job.state, job.changed_at) else None
    extras = Extras(
        attempts=attempts,
        error=job.error,
        progress=job.progress,
        cancel=job.cancel,
        held=job.held,
        finished_at=unlike,
    )
    some = extras != _NONE
    options = Options(
        run_at=job.run_at,
        expires_at=job.expires_at,
        queue_timeout=job.queue_timeout,
        guard_hold=None if job.guard_hold == _hold(job.guard_at) else job.guard_hold,
        foreign=job.foreign,
        keep_until=0.0 if job.keep_until == job.created_at else job.keep_until,
        tags=job.tags,
        workflow=job.workflow,
        scope=job.scope,
        unique=job.unique,
        delay=job.delay,
    )
    base = _encode(
        Base(job.name, job.routing_key, job.max_attempts, None if options == _PLAIN else options)
    )
    clears = job.error is not None or job.held is not None
    fixed = _FIXED.pack(
        LETTERS[job.state],
        job.fence,
        job.changed_at,
        span,
        claimed_at,
        _instant(job.start_by),
        _instant(job.guard_at),
        YES if job.head else NO,
        changes & 0xFFFFFFFF,
        job.gen,
        job.priority,
        (b"2" if clears else YES) if some else NO,
        YES if job.followed else NO,
        YES if job.cancel is not None else NO,
        b"Z" if guard else b"L",
        YES if job.foreign or job.keep_until > job.created_at else NO,
        job.created_at,
        _instant(job.pending_at),
        job.failures,
        job.deaths,
        len(base),
    )
    head = fixed + base + (job.worker or "").encode()
    return Stored(head=head, extras=_encode(extras) if some else None)


def decode(
    job_id: str,
    head: bytes,
    extras: bytes | None,
    message: bytes | None = None,
    result: bytes | None = None,
) -> Job:
    """The record of its stored parts."""
    (
        letter,
        fence,
        changed_at,
        span,
        claimed_at,
        start_by,
        guard_at,
        is_head,
        _,
        gen,
        priority,
        _,
        _,
        _,
        _,
        _,
        created_at,
        pending_at,
        failures,
        deaths,
        size,
    ) = _FIXED.unpack_from(head)
    state = STATES[letter]
    base = base_of(head[SIZE : SIZE + size])
    options = base.options or _PLAIN
    more = _NONE if extras is None else _extras(extras)
    worker = head[SIZE + size :].decode() or None
    started_at = None if span < 0 else span
    attempts = more.attempts
    if claimed_at:
        ran = started_at
        ended_at = changed_at if state is JobState.COMPLETED else None
        began = None
        if ran is not None and ended_at is not None:
            began = max(claimed_at, ended_at - ran)
        started_at = claimed_at if began is None else began
        entry = AttemptInfo(
            attempt=failures + deaths + 1,
            fence=fence,
            worker=worker or "",
            claimed_at=claimed_at,
            ended_at=ended_at,
            started_at=began,
            outcome=None if ended_at is None else state.value,
        )
        attempts = (*attempts, entry)[-TIMELINE:]
    finished_at = more.finished_at
    if finished_at is None:
        finished_at = _finished(state, changed_at)
    return Job(
        id=job_id,
        name=base.name,
        routing_key=base.routing_key,
        state=state,
        message=message or b"",
        created_at=created_at,
        changed_at=changed_at,
        priority=priority,
        max_attempts=base.max_attempts,
        gen=gen,
        fence=fence,
        failures=failures,
        deaths=deaths,
        head=is_head == YES,
        run_at=options.run_at,
        expires_at=options.expires_at,
        queue_timeout=options.queue_timeout,
        start_by=start_by or None,
        guard_at=guard_at or None,
        guard_hold=_hold(guard_at) if options.guard_hold is None else options.guard_hold,
        pending_at=pending_at or None,
        started_at=started_at,
        finished_at=finished_at,
        worker=worker,
        foreign=options.foreign,
        keep_until=options.keep_until or created_at,
        cancel=more.cancel,
        held=more.held,
        progress=more.progress,
        error=more.error,
        result=result,
        tags=options.tags,
        workflow=options.workflow,
        scope=options.scope,
        unique=options.unique,
        delay=options.delay,
        attempts=attempts,
    )


def changes_of(head: bytes) -> int:
    """The number of changes in a header."""
    return int.from_bytes(head[50:54], "big")


def kind_of(head: bytes) -> str:
    """Where a pending record stands: ``L`` or ``Z``."""
    return chr(head[62])


def parts_for_claim(head: bytes) -> ClaimParts:
    """What a claim needs of a header."""
    gen, priority, created_at, failures, deaths, size = _CLAIM.unpack_from(head, 54)
    return gen, priority, created_at, failures, deaths, base_of(head[SIZE : SIZE + size])


def of_shape(shape: bytes) -> tuple[Base, int, int]:
    """Base, attempts spent, and deaths among them."""
    failures, deaths, _ = _SHAPE.unpack_from(shape)
    return base_of(shape[_SHAPE.size :]), failures + deaths, deaths


def _fits(job: Job, last: AttemptInfo) -> bool:
    """Whether the last claim can be read back from the header alone."""
    if job.state is JobState.PROCESSING:
        return (
            last.fence == job.fence
            and last.worker == job.worker
            and last.ended_at is None
            and last.attempt == job.attempt  # not so once an earlier death was forgiven
        )
    if job.state is not JobState.COMPLETED or job.changed_at != last.ended_at:
        return False
    if last.started_at is not None:
        ran = job.changed_at - last.started_at
        if max(last.claimed_at, job.changed_at - ran) != last.started_at:
            return False
    began = last.claimed_at if last.started_at is None else last.started_at
    return (
        last.fence == job.fence
        and last.worker == job.worker
        and last.error is None
        and last.outcome == job.state.value
        and last.attempt == job.attempt
        and job.started_at == began
    )


def _finished(state: JobState, changed_at: float) -> float | None:
    return changed_at if state in FINAL else None


def _instant(value: float | None) -> float:
    """0 stands for none, so an instant of 0 becomes the next one."""
    return 0.0 if value is None else value or 5e-324


def _hold(guard_at: float | None) -> float:
    """What ``guard_hold`` is where a header doesn't say."""
    return FIRST_HOLD if guard_at else 0.0
