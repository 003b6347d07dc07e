"""Values that the ledger keeps and exchanges: records, claims, outcomes, events.

All instants are unix seconds on the ledger's clock, all durations seconds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec


class JobState(StrEnum):
    """Where a job stands. The last four are final."""

    WAITING = "waiting"
    SCHEDULED = "scheduled"
    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    QUARANTINED = "quarantined"


FINAL: Final = frozenset(
    {JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.QUARANTINED}
)
EXPIRED: Final = "JobExpired"
"""The error type of a job that was not started in time."""


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An exception as data: type name, message and traceback text."""

    type: str
    message: str
    traceback: str | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a running job last told about itself: a share of 1 and a short text."""

    value: float
    text: str | None = None


class Cancel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who asked for a cancel, why, and when."""

    at: float
    by: str | None = None
    reason: str | None = None


class Held(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a job waits: overwritten, never appended."""

    by: str
    until: float
    """When its turn is; ``run_at`` may be earlier, so that a worker has it in time."""
    count: int = 1
    gen: int = 0
    """The generation that this turn is for: a death or retry makes the next one, without it."""


class AttemptInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One claim in the timeline: a fence has at most one of these and one outcome."""

    attempt: int
    fence: int
    worker: str
    claimed_at: float
    ended_at: float | None = None
    started_at: float | None = None
    outcome: str | None = None
    """An ``OutcomeKind``, or ``lapsed`` (claim ran out) or ``lost`` (a lapse forgiven later)."""
    error: ErrorInfo | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The ledger's record of one job. ``state.py`` alone says how one becomes the next."""

    id: str
    name: str
    routing_key: str
    state: JobState
    message: bytes
    created_at: float
    changed_at: float
    priority: int = 50
    max_attempts: int = 3
    gen: int = 1
    fence: int = 0
    failures: int = 0
    deaths: int = 0
    head: bool = False
    """Goes before its equals: set when a claim lapsed or was handed back."""
    run_at: float | None = None
    """When a scheduled job becomes pending."""
    expires_at: float | None = None
    """No attempt starts after this."""
    queue_timeout: float | None = None
    start_by: float | None = None
    """When a job that is still pending ends as expired."""
    guard_at: float | None = None
    """When a pending job's message is sent again unless its sending was confirmed before; of an
    ended or a waiting one: when its follow-up is asked for again."""
    guard_hold: float = 0.0
    pending_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    worker: str | None = None
    """Session id of the worker that holds or last held the claim."""
    foreign: bool = False
    """Created by ``claim`` from a message that nobody had put."""
    keep_until: float = 0.0
    """Never pruned before this."""
    cancel: Cancel | None = None
    held: Held | None = None
    progress: Progress | None = None
    error: ErrorInfo | None = None
    result: bytes | None = None
    """The encoded value (see ``wire-format.md``); None when none is kept."""
    tags: tuple[str, ...] = ()
    workflow: str | None = None
    scope: bool = False
    unique: str | None = None
    delay: float | None = None
    """Of a waiting job: seconds from its release to its start."""
    attempts: tuple[AttemptInfo, ...] = ()
    """The timeline, oldest first, at most ``TIMELINE`` entries."""

    @property
    def followed(self) -> bool:
        """Whether something follows from its end, which ``due`` asks for until it is settled."""
        return self.workflow is not None or self.unique is not None

    @property
    def attempt(self) -> int:
        """What users count, from 1: the attempt that runs, or ran last. A final failure is not
        added to ``failures``, so 1 + failures + deaths names it."""
        spent = self.failures + self.deaths
        return spent if self.state is JobState.QUARANTINED and self.deaths else spent + 1

    @property
    def due_at(self) -> float | None:
        """When ``due`` must look at this record next; None for never."""
        state = self.state
        if state is JobState.SCHEDULED:
            one, other = self.run_at, self.expires_at
        elif state is JobState.PENDING:
            one, other = self.guard_at, self.start_by
        elif state is JobState.WAITING:
            one, other = self.guard_at, self.expires_at
            if self.start_by is not None:
                other = self.start_by if other is None else min(other, self.start_by)
        else:
            return self.guard_at
        if one is None or other is None:
            return other if one is None else one
        return min(one, other)


TIMELINE: Final = 50


class JobPut(msgspec.Struct, frozen=True, kw_only=True):
    """One job to create. ``message`` is its wire form; the rest is what the ledger indexes."""

    id: str
    name: str
    message: bytes
    routing_key: str = "default"
    priority: int = 50
    max_attempts: int = 3
    delay: float | None = None
    """Seconds from the ledger's now, or from its release if it waits; excludes ``run_at``."""
    run_at: float | None = None
    expires_at: float | None = None
    queue_timeout: float | None = None
    tags: tuple[str, ...] = ()
    waiting: bool = False
    """It waits for a ``release`` signal. With a ``unique`` key and no workflow, ``due`` asks for
    its follow-up until then; else whoever made it wait releases it."""
    workflow: str | None = None
    """Id of the workflow that it is a node of: the record of that id is the whole."""
    scope: bool = False
    """It stands for a part of a workflow: it is never sent or claimed, but started by ``release``
    (or at once, unless ``waiting``), and ended by an ``end`` signal. ``queue_timeout`` counts from
    its start."""
    unique: str | None = None
    """A key that it is to hold while it is live. The ledger keeps it with the record, and sees to
    it that its end is followed up; who holds the key is decided in ``unique.py``."""
    quarantine: ErrorInfo | None = None
    """Record ``message`` as quarantined raw bytes; it is never run."""


class PutKind(StrEnum):
    CREATED = "created"
    EXISTS = "exists"
    CONFLICT = "conflict"


class PutAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """``exists``: a job of this id was there already and is unchanged. ``conflict``: another job
    holds the unique key, and ``id`` is that one (``put`` itself never answers this; ``unique.py``
    does). ``send``: it is pending and its message must be sent (False for scheduled jobs)."""

    kind: PutKind
    id: str
    gen: int = 1
    send: bool = False


class Hint(msgspec.Struct, frozen=True, kw_only=True):
    """What a delivery says. ``create`` is given for messages without the put mark only."""

    id: str
    gen: int
    create: JobPut | None = None


class VerdictKind(StrEnum):
    RUN = "run"
    STALE = "stale"
    EARLY = "early"
    UNRECORDED = "unrecorded"


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The right to run a job, for as long as the session is renewed. ``message`` is the
    record's; ``at`` the ledger's time of the claim, from which a worker learns its clock's error.
    """

    id: str
    fence: int
    gen: int
    name: str
    routing_key: str
    priority: int
    attempt: int
    failures: int
    deaths: int
    max_attempts: int
    created_at: float
    at: float
    message: bytes
    held: Held | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    kind: VerdictKind
    id: str
    claim: Claim | None = None
    """Given with ``run`` only."""


class OutcomeKind(StrEnum):
    COMPLETED = "completed"
    FAILED = "failed"
    RETRY = "retry"
    CANCELLED = "cancelled"
    HANDBACK = "handback"
    """Claimed, not started or stopped unfinished: pending again at once, nothing spent."""
    SNOOZE = "snooze"
    """Scheduled again after ``delay``, nothing spent; ``held_by`` says why."""
    DIED = "died"
    """The process was lost while running it."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one claim ended; (id, fence) names the claim."""

    id: str
    fence: int
    kind: OutcomeKind
    result: bytes | None = None
    error: ErrorInfo | None = None
    delay: float = 0.0
    held_by: str | None = None
    held_until: float | None = None
    """The turn that a snoozed job waits for, if later than the end of ``delay``."""
    ran: float | None = None
    """Seconds that the body ran; None: it did not start."""
    progress: Progress | None = None


class FinishAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """``accepted`` is False when the fence was stale; nothing changed then. A repeated finish
    of the same (id, fence) has the first call's answer and an empty ``ready``."""

    id: str
    accepted: bool
    state: JobState | None = None
    """The state after the first acceptance; None if the ledger doesn't know the job."""


class ReadyKind(StrEnum):
    SEND = "send"
    """A pending job: its message must be sent."""
    FOLLOW = "follow"
    """A job has ended from which something follows, or waits and nobody has said for what: its
    record must be followed up (``follow.py``). Never anything to send."""


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """Something that must be done now, and settled once that is confirmed."""

    id: str
    gen: int
    routing_key: str
    priority: int
    head: bool = False
    message: bytes = b""
    """Of ``send``: already carries ``gen``."""
    kind: ReadyKind = ReadyKind.SEND


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """A send that the transport confirmed, or (``followed``) a follow-up that was completed."""

    id: str
    gen: int
    followed: bool = False


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change of state. ``old`` is None for a new job."""

    id: str
    name: str
    routing_key: str
    old: JobState | None
    new: JobState
    at: float
    attempt: int
    fence: int
    workflow: str | None = None


class Session(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One run of one worker process, as it describes itself. ``id`` is never used again."""

    id: str
    name: str
    host: str = ""
    pid: int = 0
    started_at: float = 0.0
    routing_keys: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    slots: int = 0
    free: int = 0
    done: int = 0
    memory: int = 0
    """Resident bytes."""
    version: str = ""


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A session as the ledger keeps it."""

    session: Session
    renewed_at: float
    expires_at: float
    claims: int = 0


class ClaimBeat(msgspec.Struct, frozen=True, kw_only=True):
    """One claim in a renewal, with what the job told since the last one."""

    id: str
    fence: int
    progress: Progress | None = None


class RenewMode(StrEnum):
    UPDATE = "update"
    """Store progress; the list is only some of the session's claims."""
    FULL = "full"
    """The list is all that the session holds: older claims missing from it are handed back."""
    ENDED = "ended"
    """The process is gone: listed claims were running and count as deaths, the others go back."""


class RenewAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """``cancelled``: claims whose job is to be cancelled. ``lost``: (id, fence) that are not the
    session's any more; their work must stop and its outcome would be refused."""

    now: float
    cancelled: dict[str, Cancel] = {}
    lost: tuple[tuple[str, int], ...] = ()
    ready: tuple[Ready, ...] = ()


class SignalKind(StrEnum):
    CANCEL = "cancel"
    RETRY = "retry"
    """Make a final job pending again with fresh attempts; one with a unique key waits for it."""
    CHANGE = "change"
    """Change priority, time or message of a job that is pending, scheduled or waiting."""
    RELEASE = "release"
    """A waiting job becomes pending or scheduled, a scope is started."""
    END = "end"
    """A waiting job or scope ends with ``state``, ``result`` and ``error``."""
    RESET = "reset"
    """A final node of a workflow, or a started scope, waits again with fresh attempts."""


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    kind: SignalKind
    by: str | None = None
    reason: str | None = None
    priority: int | None = None
    run_at: float | None = None
    delay: float | None = None
    """Of ``change``: seconds from the ledger's now; excludes ``run_at``."""
    latest: float | None = None
    """Of ``change``: the new time is at most this many seconds after the job was created."""
    message: bytes | None = None
    """Of ``change``: replaces the message; same id and name."""
    gen: int | None = None
    """Of all but ``cancel`` and ``retry``: has effect only on this generation, so that repeating it
    is harmless."""
    state: JobState | None = None
    """Of ``end``: completed, failed or cancelled."""
    result: bytes | None = None
    error: ErrorInfo | None = None


class SignalAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """``done``: the signal had effect, now or by an earlier equal call. For a cancel: the job
    won't run, or its worker will be told. ``state``: after the signal; None: unknown id."""

    id: str
    done: bool
    state: JobState | None = None


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """All given conditions hold at once. ``since``/``until`` bound ``created_at``
    (half-open)."""

    states: tuple[JobState, ...] = ()
    name: str | None = None
    routing_key: str | None = None
    tag: str | None = None
    worker: str | None = None
    workflow: str | None = None
    unique: str | None = None
    since: float | None = None
    until: float | None = None
    pending_before: float | None = None
    cursor: str | None = None
    limit: int = 100


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first by (created_at, id). ``cursor`` is None on the last page."""

    jobs: tuple[Job, ...]
    cursor: str | None = None


class Count(msgspec.Struct, frozen=True, kw_only=True):
    group: tuple[str, ...]
    count: int
    exact: bool = True


class Doc(msgspec.Struct, frozen=True, kw_only=True):
    """A small versioned document. ``version`` is opaque to callers."""

    key: str
    value: bytes
    version: int


class Write(msgspec.Struct, frozen=True, kw_only=True):
    """A conditional write: ``version`` 0: the key must be absent; None: unconditional; else it
    must be the current one. ``value`` None deletes."""

    key: str
    value: bytes | None
    version: int | None = None
    ttl: float | None = None


class WriteAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """``doc`` is the document after the call (None: absent), whoever wrote it."""

    done: bool
    doc: Doc | None = None


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    events: tuple[Event, ...]
    cursor: str


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How long final records stay, in seconds (never under 600), and how many at most."""

    completed: float = 86_400.0
    failed: float = 30 * 86_400.0
    cancelled: float = 86_400.0
    quarantined: float = 30 * 86_400.0
    events: float = 3_600.0
    most: int = 1_000_000


class LedgerCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a result backend can do; data, never guessed from its name."""

    native: bool = False
    """Changes of one call are atomic (a database); False: atomic per key, repaired by ``due``."""
    pushes: bool = False
    """``wait`` is told by the server rather than polling."""
    clock_error: float = 0.0
    """Worst error of the time used for dues and lapses, seconds."""
    durability: str = "memory"
    """``memory``, ``disk`` (synced before a call returns) or ``replicated``."""
    transactions: tuple[str, ...] = ()
    """Kinds of connection that ``put(tx=…)`` takes."""
