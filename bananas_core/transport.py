"""The Transport contract: moves messages; a delivery is a hint that a job may be ready.

Each promise has an id (T1, T2, …) that the conformance suite, the driver matrix and
``docs/reference/guarantees.md`` refer to. There is no delay, retry, dead-letter logic or long
lease here: the ledger (``results.py``) has those.

Promises for every method:

T1. Calls may be made concurrently from one event loop, and an object may be opened again after
    ``close``. Nothing connects before ``open``.
T2. Batch calls answer with one outcome per item, in order; one bad item does not spoil others.
T3. Errors are ``TransportError`` (asking again is useless) or ``TransportUnavailable`` (outcome
    unknown, ask again), with the client's error as cause and no secret in the text.
T4. A call that is cancelled loses no message: what it took is delivered again, to anybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec

from bananas_core.errors import TransportError

if TYPE_CHECKING:
    from bananas_core.job import Verdict
    from bananas_core.results import ResultBackend


class TransportCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a transport does; data on the object."""

    levels: int = 101
    """Priorities it tells apart: 101 is exact, fewer are bands ``priority * levels // 101``."""
    fifo: bool = True
    """Equal priorities arrive in the order sent, as long as nothing is released."""
    head: bool = True
    """``Outgoing.head`` is honoured."""
    exact_depth: bool = True
    ages: bool = True
    """``QueueStats.oldest`` is known."""
    max_message: int = 1 << 20
    """Largest body in bytes."""
    lease: float = 15.0
    """Seconds until an unacknowledged delivery is delivered again; at most 15."""
    horizon: float = 0.0
    """Seconds after an ack during which the broker may still deliver the message again."""
    fused: bool = False
    """Has ``receive_claimed`` for ledgers that it shares a server with."""
    durability: str = "memory"
    """``memory``, ``disk`` or ``replicated``: what a confirmed send survives."""


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """A message to send. ``head``: before its equals (on bands: in the top band)."""

    body: bytes
    queue: str = "default"
    priority: int = 50
    head: bool = False


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One hand-out of a message. ``token`` is the driver's own."""

    body: bytes
    queue: str
    token: Any
    redelivered: bool = False
    headers: Mapping[str, str] = {}
    content_type: str | None = None


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """One item of ``receive_claimed``: a verdict, or a foreign delivery still to be claimed."""

    verdict: Verdict | None = None
    delivery: Delivery | None = None


class QueueStats(msgspec.Struct, frozen=True, kw_only=True):
    """``ready`` can be received now; ``leased`` is delivered and not acknowledged; ``oldest``
    is the unix time at which the oldest ready message was sent, None if unknown or empty."""

    queue: str
    ready: int
    leased: int = 0
    buried: int = 0
    oldest: float | None = None
    exact: bool = True


@runtime_checkable
class Transport(Protocol):
    """Implemented by ``bananas_brokers`` and third parties. Constructed as
    ``Driver(url: str, namespace: str)``; raises ConfigurationError for unknown URL options."""

    capabilities: TransportCapabilities

    async def open(self) -> None:
        """T5. Connects, or raises TransportUnavailable within 10 s. Opening twice is harmless."""
        ...

    async def close(self) -> None:
        """T6. Gives unacknowledged deliveries back and ends pending receives. Safe to repeat."""
        ...

    async def declare(self, queues: Sequence[str]) -> None:
        """T7. Makes queues exist. Safe to repeat, also at the same time from several processes;
        an existing queue keeps its messages. ``send`` to an undeclared queue declares it."""
        ...

    async def send(self, messages: Sequence[Outgoing]) -> list[TransportError | None]:
        """T8. None for a message means that the broker has it, by the stated durability, and
        will deliver it at least once whatever happens to this process.
        T9. A body over ``max_message`` gets a TransportError; the others are sent.
        T10. A batch keeps its order for equal priorities when ``fifo``.
        """
        ...

    async def receive(self, queues: Sequence[str], limit: int, timeout: float) -> list[Delivery]:
        """T11. Up to ``limit`` deliveries of any of ``queues``; waits up to ``timeout`` seconds
        for the first, never for a full batch; empty after that.
        T12. Within a queue a higher level comes first; no queue of the list starves another.
        T13. A delivery belongs to one receiver until acked, released, buried, closed or until
        its lease is over; after that it is delivered again, with the identical body.
        T14. What is sent while a receiver waits wakes it (within 1 s, if on another connection).
        """
        ...

    async def ack(self, deliveries: Sequence[Delivery]) -> list[bool]:
        """T15. True: the message is gone for good. False: the lease was over. Repeating is safe."""
        ...

    async def release(self, deliveries: Sequence[Delivery]) -> list[bool]:
        """T16. Can be received again at once, before younger equals when ``head``. False: the
        lease was over. Repeating is safe."""
        ...

    async def bury(self, deliveries: Sequence[Delivery], reason: str) -> list[bool]:
        """T17. Never delivered again; its bytes stay at the broker until ``purge``."""
        ...

    async def stats(self, queues: Sequence[str]) -> list[QueueStats]:
        """T18. Without side effects; an unknown queue is empty. In order of ``queues``."""
        ...

    async def purge(self, queue: str) -> int:
        """T19. Removes ready and buried messages; how many (leased ones stay). Safe to repeat."""
        ...

    def shares(self, backend: ResultBackend) -> bool:
        """T20. Whether transport and ledger are one place, so that a pending record can be
        received without a message, through ``receive_claimed``."""
        ...

    async def receive_claimed(
        self, session: str, queues: Sequence[str], limit: int, timeout: float
    ) -> list[Received]:
        """T21. Only when ``shares``: ``receive`` and the ledger's ``claim`` in one step. Pending
        records come as ``run`` verdicts already claimed for ``session``, in the order of T12,
        heads first; messages whose job the ledger doesn't know come as deliveries, to be
        claimed and acked in the long way. Waiting and waking as T11 and T14. If the reply is
        lost, L19 (orphans) brings the jobs back.
        """
        ...
