"""What a supervised child and its parent tell each other, and the child's keeper.

The child tells of claims, starts and ends; the parent renews and tells what the ledger answered.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from bananas_core.clock import Clock
from bananas_core.errors import ResultBackendUnavailable
from bananas_core.held import (
    UNHELD,
    ClaimKey,
    Numbering,
    NumberRun,
    Start,
    StartRun,
    pack,
)
from bananas_core.job import Cancel, Claim, Session
from bananas_core.link import Link
from bananas_core.renew import NOTHING, Notices
from bananas_core.settings import Loaded

BEAT_EVERY: Final = 1.0
"""Seconds between two signs of life of a child's event loop."""
FRESH: Final = 2.5
"""While the last confirmation is younger, in seconds, nobody looks into the pipe for another."""


class _Message(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Base of all messages."""


class Hello(_Message, frozen=True, kw_only=True):
    """Child: who I am, and where my ledger is. The parent renews ``session`` from now on."""

    session: Session
    broker_url: str
    result_backend_url: str | None
    namespace: str
    processes: int
    grace: float
    health_port: int | None = None
    health_host: str = "127.0.0.1"
    probe_key: str | None = None
    """A routing key that this child alone consumes, for probe jobs."""


class ReadyNow(_Message, frozen=True, kw_only=True):
    """Child: I consume."""


class Work(_Message, frozen=True, kw_only=True):
    """Child: what was claimed, started and ended in one turn of its loop, in this order, as
    ``held.py`` says."""

    first: int = 0
    count: int = 0
    held: msgspec.Raw = UNHELD
    """So many keys, numbered from ``first``; left packed."""
    started: list[StartRun] = []
    dropped: list[NumberRun] = []


class Beat(_Message, frozen=True, kw_only=True):
    """Child: my loop runs. ``memory`` is resident bytes."""

    free: int
    done: int
    memory: int


class EndSession(_Message, frozen=True, kw_only=True):
    """Child: hand back what I still hold and end the session."""


class Bye(_Message, frozen=True, kw_only=True):
    """Child: why I exit. ``recycle``: start another one in my place."""

    reason: str


class Failed(_Message, frozen=True, kw_only=True):
    """Child: I can't work. ``unavailable``: broker or ledger can't be reached; ``usage``: the
    app or its settings are wrong."""

    error: str
    unavailable: bool = False
    usage: bool = False


class Confirmed(_Message, frozen=True, kw_only=True):
    """Parent: a renewal that was sent ``at`` (monotonic seconds) was confirmed."""

    at: float
    cancelled: list[tuple[str, int, Cancel]] = []
    lost: list[ClaimKey] = []


class SessionEnded(_Message, frozen=True, kw_only=True):
    """Parent: the ledger has ended the session."""


class Stop(_Message, frozen=True, kw_only=True):
    """Parent: stop gracefully, or ``now``."""

    now: bool = False


class Sources(_Message, frozen=True, kw_only=True):
    """Parent, first of all: what it has read of the settings' sources; None if it could not."""

    loaded: Loaded | None


FromChild = Hello | ReadyNow | Work | Beat | EndSession | Bye | Failed
FromParent = Sources | Confirmed | SessionEnded | Stop

_encode = msgspec.msgpack.Encoder().encode
_from_child: Final[msgspec.msgpack.Decoder[FromChild]] = msgspec.msgpack.Decoder(FromChild)
_from_parent: Final[msgspec.msgpack.Decoder[FromParent]] = msgspec.msgpack.Decoder(FromParent)


def to_bytes(message: FromChild | FromParent) -> bytes:
    """A message's body."""
    return _encode(message)


def read_sources(body: bytes) -> Loaded | None:
    """The body of a ``Sources``; None as well if the other end went away before."""
    message = _from_parent.decode(body) if body else None
    return message.loaded if isinstance(message, Sources) else None


def from_child(body: bytes) -> FromChild:
    """Raises msgspec.MsgspecError for anything else."""
    return _from_child.decode(body)


class PipeKeeper:
    """A keeper (``renew.py``) that leaves the renewals to the parent.

    All that one turn of the event loop brings goes out as one message at the end of that turn,
    but starts at once, before the first step of any of the bodies. So the parent knows which jobs
    were running when this process dies.
    """

    def __init__(
        self,
        sock: socket.socket,
        clock: Clock,
        *,
        hello: Callable[[Session], Hello],
        memory: Callable[[], int],
        stop: Callable[[bool], None],
    ) -> None:
        """``stop(now)`` is called when the parent says so, or with True when it is gone."""
        self._clock = clock
        self._hello = hello
        self._memory = memory
        self._stop = stop
        self._link = Link(sock, received=self._take, closed=self._orphaned)
        self._numbering = Numbering()
        self._held: list[ClaimKey] = []
        self._first = 0
        self._started: list[StartRun] = []
        self._dropped: list[NumberRun] = []
        self._flushing = False
        self._confirmed = 0.0
        self._cancelled: dict[ClaimKey, Cancel] = {}
        self._lost: set[ClaimKey] = set()
        self._known = asyncio.Event()
        self._ended = asyncio.Event()
        self._next_beat = 0.0

    async def start(self, session: Session) -> None:
        """Raises ResultBackendUnavailable if the parent goes away before its first renewal."""
        self._link.send(to_bytes(self._hello(session)))
        await self._known.wait()
        if not self._link.open:
            raise ResultBackendUnavailable("the supervisor is gone; start `bananas worker` again")

    async def stop(self) -> None:
        """Waits until the parent has ended the session; the caller limits the time."""
        self._flush()
        self._link.send(to_bytes(EndSession()))
        if self._link.open:
            await self._ended.wait()

    def abandon(self) -> None:
        """Nothing to do: the parent sees to a child that is gone."""

    def tell(self, message: ReadyNow | Bye) -> None:
        """Another message of this child, after the work told so far."""
        self._flush()
        self._link.send(to_bytes(message))

    @property
    def orphaned(self) -> bool:
        """Whether the parent is gone."""
        return not self._link.open

    def hold(self, claims: Sequence[Claim]) -> None:
        keys = [(claim.id, claim.fence) for claim in claims]
        first = self._numbering.hold(keys)
        if not self._held:
            self._first = first
        self._held += keys
        self._soon()

    def started(self, starts: Sequence[Start]) -> None:
        self._started += self._numbering.started(starts)
        self._flush()

    def drop(self, keys: Iterable[ClaimKey]) -> None:
        self._dropped += self._numbering.drop(keys)
        self._soon()

    def confirmed(self) -> float:
        # After a minute of a blocked loop the confirmations are in the pipe, not in here yet.
        if self._clock.monotonic() - self._confirmed > FRESH:
            self._link.drain()
        return self._confirmed

    def notices(self) -> Notices:
        self._link.drain()
        if not self._cancelled and not self._lost:
            return NOTHING
        found = Notices(cancelled=self._cancelled, lost=frozenset(self._lost))
        self._cancelled, self._lost = {}, set()
        return found

    def describe(self, free: int, done: int) -> None:
        now = self._clock.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + BEAT_EVERY
            self._link.send(to_bytes(Beat(free=free, done=done, memory=self._memory())))

    def close(self) -> None:
        """Let go of the pipe. Safe to repeat."""
        self._link.close()

    def _soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """All told so far; a later call in the same turn finds only what is new."""
        self._flushing = False
        held, started, dropped = self._held, self._started, self._dropped
        if held or started or dropped:
            self._held, self._started, self._dropped = [], [], []
            packed = pack(held) if held else UNHELD
            self._link.send(
                to_bytes(
                    Work(
                        first=self._first,
                        count=len(held),
                        held=packed,
                        started=started,
                        dropped=dropped,
                    )
                )
            )

    def _take(self, body: bytes) -> None:
        message = _from_parent.decode(body)
        if isinstance(message, Confirmed):
            self._confirmed = max(self._confirmed, message.at)
            for id, fence, cancel in message.cancelled:
                self._cancelled[(id, fence)] = cancel
            self._lost.update(message.lost)
            self._known.set()
        elif isinstance(message, SessionEnded):
            self._ended.set()
        elif isinstance(message, Stop):
            self._stop(message.now)

    def _orphaned(self) -> None:
        self._known.set()
        self._ended.set()
        self._stop(True)
