"""The ResultBackend contract: the ledger, which alone decides who may run what.

The transitions themselves are the pure functions of ``state.py``; a driver makes each call atomic
per record, or, where ``capabilities.native``, as a whole. Promises are numbered L1, L2, …

L1. Every decision on time uses the ledger's own clock, never the caller's.
L2. Every call may be repeated after an unknown outcome and then gives the first answer; but a
    repeated ``claim`` finds its own claims ``stale``, and L19 hands them back.
L3. Errors are ``ResultBackendError`` or ``ResultBackendUnavailable``, with cause, no secrets.
L4. Calls may be concurrent, from any number of processes; a cancelled call has happened or not.
L5. What a call confirmed survives by ``capabilities.durability``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from bananas_core.job import (
    ClaimBeat,
    Count,
    Doc,
    EventPage,
    FinishAnswer,
    Hint,
    Job,
    JobPut,
    LedgerCapabilities,
    Outcome,
    Page,
    PutAnswer,
    Query,
    Ready,
    RenewAnswer,
    RenewMode,
    Retention,
    Session,
    SessionRecord,
    Settled,
    Signal,
    SignalAnswer,
    Verdict,
    Write,
    WriteAnswer,
)


@runtime_checkable
class ResultBackend(Protocol):
    """Implemented by ``bananas_brokers``, ``keyvalue`` and third parties. Constructed as
    ``Driver(url: str, namespace: str)``."""

    capabilities: LedgerCapabilities

    async def open(self, *, guard: bool = True, horizon: float = 0.0) -> None:
        """Connects, or raises ResultBackendUnavailable within 10 s. Opening twice is harmless.

        ``guard``: a separate transport must be told of pending jobs, so each keeps a guard until
        its send is settled; False when the transport ``shares`` this ledger.
        ``horizon``: the transport's redelivery horizon; records of foreign messages stay longer.
        L6. A store written by a newer schema is refused with ConfigurationError; an older one
        is migrated.
        """
        ...

    async def close(self) -> None:
        """Ends pending waits. Safe to repeat."""
        ...

    async def put(
        self, jobs: Sequence[JobPut], *, settled: Sequence[Settled] = (), tx: Any = None
    ) -> list[PutAnswer]:
        """L7. Creates each job if no record has its id; an existing one is left as it is
        (``exists``), also twice in one batch. Answers in order.
        L8. With a ``delay`` or a later ``run_at`` the job is scheduled, with ``waiting`` it waits;
        a ``scope`` waits too, started unless ``waiting``. Else it is pending.
        L9. ``settled`` clears the guards of confirmed sends and of completed follow-ups (matched
        by id, gen, and whether the job has ended).
        L52. ``tx``: in the caller's transaction, of a kind that the capabilities name: the jobs
        exist if and only if it commits. No answer says ``send``; what must be sent, ``due`` sends.
        Others raise UnsupportedCapability.
        """
        ...

    async def claim(self, session: str, hints: Sequence[Hint]) -> list[Verdict]:
        """L10. One verdict per hint, in order. ``run`` for one claimer at most per (id, gen).
        L11. ``stale`` for other generations, final, running or expired jobs; ``early`` for
        scheduled ones; ``unrecorded`` if there is no record and no ``create``.
        L12. A hint with ``create`` makes the record first if absent.
        L13. Fences of one job rise strictly and are never used twice, over restarts too.
        L14. A session unknown to ``renew`` yet is one that was renewed now.
        """
        ...

    async def renew(
        self,
        session: Session,
        claims: Sequence[ClaimBeat],
        *,
        mode: RenewMode = RenewMode.FULL,
    ) -> RenewAnswer:
        """L15. Extends all claims of the session by CLAIM_TTL (``full``, ``update``).
        L16. ``lost`` names the listed (id, fence) that are not this session's running claims.
        L17. ``cancelled`` names the listed claims whose job has a cancel request.
        L18. Progress of listed running claims is stored.
        L19. ``full``: claims that the session has held longer than ORPHAN_AGE and doesn't list
        are handed back. ``ended``: at once, the listed ones as deaths; the session is removed.
        L20. A session that renews after its claims lapsed is forgiven those deaths.
        """
        ...

    async def finish(self, outcomes: Sequence[Outcome]) -> tuple[list[FinishAnswer], list[Ready]]:
        """L21. Applied only if (id, fence) is the running claim; else refused, changing nothing.
        L22. Outcome, timeline and event are one step. Answers in order.
        L23. Returns what became pending and must be sent (none of these without ``guard``), and
        what ended and must be followed up: nodes of workflows and holders of unique keys. So do
        ``renew``, ``signal`` and ``due``.
        L24. Repeating gives the first answer, also after the job was claimed again.
        """
        ...

    async def get(self, ids: Sequence[str]) -> list[Job | None]:
        """L25. Records in order of ``ids``; reads the caller's own confirmed writes."""
        ...

    async def query(self, query: Query) -> Page:
        """L26. Stable cursor: a job that matches during the whole listing is seen exactly once."""
        ...

    async def count(self, by: Sequence[str], query: Query | None = None) -> list[Count]:
        """L27. Counts grouped by fields among ``state name routing_key worker priority workflow``;
        each says if it is exact. ``query``'s cursor and limit are ignored."""
        ...

    async def sessions(self) -> list[SessionRecord]:
        """L28. Sessions not yet ended or lapsed, with their last self-description."""
        ...

    async def wait(self, ids: Sequence[str], timeout: float) -> list[Job]:
        """L29. Those of ``ids`` that are final, as soon as one is; empty after ``timeout`` s or
        on close. A record that doesn't exist is never returned. Leaves nothing behind when
        cancelled.
        """
        ...

    async def signal(self, signals: Sequence[Signal]) -> tuple[list[SignalAnswer], list[Ready]]:
        """L30. Cancel: a job that isn't running ends cancelled; a running one is flagged.
        L31. Retry: a failed, cancelled or quarantined job runs again with fresh attempts; one with
        a unique key waits, and must be followed up, since another may hold the key by now.
        L32. Change: a pending, scheduled or waiting job gets the priority, time or message, as a
        new generation.
        L46. Release: a waiting job becomes pending, or scheduled by its ``delay`` or ``run_at``; a
        waiting scope is started, once. Any other is left as it is, and ``done``.
        L47. End: a waiting job or scope ends with the given state, result and error; ``done`` too
        if it had ended in that state.
        L48. Reset: an ended node of a workflow, or a started scope, waits again, unstarted, with
        fresh attempts, as a new generation. Nothing else can be reset.
        L49. ``gen`` of any but a cancel or retry: has no effect on another generation; ``done`` if
        that is a later one.
        The second value is what must be done now, as in ``finish``.
        """
        ...

    async def due(
        self,
        limit: int,
        *,
        settled: Sequence[Settled] = (),
        lost: Mapping[str, float] | None = None,
    ) -> tuple[list[Ready], bool]:
        """L33. Moves scheduled jobs whose time has come to pending, never early; ends expired
        and waiting ones whose time is over; repeats unsettled sends and follow-ups with growing
        holds; at most ``limit`` records a call.
        L34. Ends sessions whose claims ran out: each claim is a death. Any number of callers.
        L35. After DUE_GAP without a ``due`` (an outage), no claim lapses for one CLAIM_TTL.
        L36. ``lost``: routing key → instant; pending jobs older than that are sent again.
        L37. A crash after any step of it loses nothing: what was not settled comes again.
        Returns what must be done now, as in ``finish``, and whether more is due right now.
        """
        ...

    async def cas(self, writes: Sequence[Write]) -> list[WriteAnswer]:
        """L38. Each write applies atomically iff its version matches. A value over 256 KiB
        raises ResultBackendError and nothing is written. An expired document is absent.
        L39. Versions of a key never repeat, also after a delete.
        """
        ...

    async def docs(self, prefix: str, *, after: str = "", limit: int = 100) -> list[Doc]:
        """L40. Documents whose key starts with ``prefix`` and is greater than ``after``, in key
        order."""
        ...

    async def get_docs(self, keys: Sequence[str]) -> list[Doc | None]:
        """L50. Documents in order of ``keys``; sees every write that was confirmed before the
        call, whoever made it."""
        ...

    async def events(self, after: str, *, limit: int = 1000) -> EventPage:
        """L41. Events after a cursor, each at least once and in order per job; ``""`` is the
        oldest kept, ``"$"`` means from now on. CursorExpired if the cursor is older than what
        is kept.
        """
        ...

    async def prune(self, retention: Retention, limit: int) -> int:
        """L42. Deletes up to ``limit`` final records whose time is over, with their documents
        (keys starting with ``job/{id}/``), and events past theirs; how many records went.
        L43. Nothing live, nothing younger than 600 s and nothing whose follow-up is not settled is
        ever deleted.
        L51. A node of a workflow stays until the record of the workflow is gone or may go.
        """
        ...

    async def last_due(self) -> float | None:
        """L44. When ``due`` last ran anywhere, on the ledger's clock, without side effects."""
        ...

    async def now(self) -> float:
        """L45. The ledger's clock; proves that it answers."""
        ...
