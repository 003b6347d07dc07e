"""The split form of ``memory://``: what a weak broker with a ledger elsewhere is like.

Four bands instead of exact priorities, neighbours out of order, an ack that ends the message for
good, and a ledger that has nothing but compare-and-set on single keys. ``faults`` adds duplicates
and messages that the broker forgets.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final
from weakref import WeakKeyDictionary

import msgspec

from bananas_brokers.memory.bell import Bell, queue_topic, wait_for
from bananas_brokers.memory.connection import Connection
from bananas_brokers.memory.kvstore import NO_FAULTS, MemoryKeyValueStore, StoreFaults
from bananas_brokers.memory.settings import Form, Settings, read_settings
from bananas_brokers.memory.store import Store
from bananas_core.bands import band_of
from bananas_core.clock import Clock
from bananas_core.errors import (
    BananasError,
    ResultBackendUnavailable,
    TransportError,
    TransportUnavailable,
    UnsupportedCapability,
)
from bananas_core.keyvalue import KeyValueBackend
from bananas_core.results import ResultBackend
from bananas_core.transport import (
    Delivery,
    Outgoing,
    QueueStats,
    Received,
    TransportCapabilities,
)

LEVELS: Final = 4
LEASE: Final = 15.0
NEIGHBOURS: Final = 3
"""The next message is any of so many oldest ones of its band."""
LOOK: Final = 1.0


class TransportFaults(msgspec.Struct, frozen=True, kw_only=True):
    """Chances per message, 0-1."""

    duplicate: float = 0.0
    forget: float = 0.0


class _Message(msgspec.Struct):
    body: bytes
    sent_at: float
    redelivered: bool = False


class _Lease(msgspec.Struct):
    queue: str
    band: int
    message: _Message
    until: float
    holder: object


class _Queue:
    def __init__(self) -> None:
        self.bands: list[deque[_Message]] = [deque() for _ in range(LEVELS)]
        self.buried: list[tuple[_Message, str]] = []

    def ready(self) -> list[_Message]:
        return [message for band in self.bands for message in band]


class Broker:
    """The queues that all transports of one name and namespace share."""

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self.clock = clock
        self.rng = rng
        self.bell = Bell()
        self.queues: dict[str, _Queue] = {}
        self.leases: dict[int, _Lease] = {}
        self._tokens = 0

    def queue(self, name: str) -> _Queue:
        return self.queues.setdefault(name, _Queue())

    def push(self, name: str, band: int, message: _Message, *, first: bool = False) -> None:
        place = self.queue(name).bands[band]
        if first:
            place.appendleft(message)
        else:
            place.append(message)
        self.bell.ring(queue_topic(name))

    def take(self, name: str, limit: int, holder: object) -> list[Delivery]:
        found: list[Delivery] = []
        for band in reversed(range(LEVELS)):
            place = self.queue(name).bands[band]
            while place and len(found) < limit:
                index = self.rng.randrange(min(NEIGHBOURS, len(place)))
                message = place[index]
                del place[index]
                self._tokens += 1
                until = self.clock.now() + LEASE
                self.leases[self._tokens] = _Lease(name, band, message, until, holder)
                found.append(
                    Delivery(
                        body=message.body,
                        queue=name,
                        token=self._tokens,
                        redelivered=message.redelivered,
                    )
                )
        return found

    def give_back(self, token: int) -> bool:
        lease = self.leases.pop(token, None)
        if lease is None:
            return False
        lease.message.redelivered = True
        self.push(lease.queue, lease.band, lease.message, first=True)
        return True

    def expire(self) -> None:
        now = self.clock.now()
        for token in [token for token, lease in self.leases.items() if lease.until <= now]:
            self.give_back(token)


_brokers: Final[WeakKeyDictionary[Store, Broker]] = WeakKeyDictionary()


def _connect(
    url: str, namespace: str, clock: Clock | None, unavailable: type[BananasError]
) -> Connection:
    """The fused form of the same name is another store."""
    settings = Settings(name=f"{read_settings(url).name}?form=split", form=Form.SPLIT)
    return Connection(settings, namespace, clock, unavailable)


class SplitTransport:
    """Bands, and at-least-once delivery."""

    capabilities = TransportCapabilities(
        levels=LEVELS, fifo=False, lease=LEASE, horizon=60.0, fused=False
    )

    def __init__(
        self,
        url: str,
        namespace: str,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        faults: TransportFaults | None = None,
    ) -> None:
        self._connection = _connect(url, namespace, clock, TransportUnavailable)
        self._rng = rng or random.Random()
        self._faults = faults or TransportFaults()
        self._turn = 0

    @property
    def _broker(self) -> Broker:
        """Raises TransportUnavailable if this transport is not open."""
        store = self._connection.store()
        if store not in _brokers:
            _brokers[store] = Broker(store.clock, self._rng)
        return _brokers[store]

    async def open(self) -> None:
        self._connection.open()

    async def close(self) -> None:
        if not self._connection.is_open:
            return
        broker = self._broker
        mine = [token for token, lease in broker.leases.items() if lease.holder is self]
        for token in mine:
            broker.give_back(token)
        self._connection.close()
        broker.bell.ring_all()

    async def declare(self, queues: Sequence[str]) -> None:
        self._connection.store()
        for name in queues:
            self._broker.queue(name)

    async def send(self, messages: Sequence[Outgoing]) -> list[TransportError | None]:
        self._connection.store()
        answers: list[TransportError | None] = []
        for message in messages:
            if len(message.body) > self.capabilities.max_message:
                answers.append(
                    TransportError(
                        f"a message of {len(message.body)} bytes is over "
                        f"{self.capabilities.max_message}"
                    )
                )
                continue
            answers.append(None)
            if self._rng.random() < self._faults.forget:
                continue
            copies = 2 if self._rng.random() < self._faults.duplicate else 1
            band = band_of(message.priority, LEVELS, head=message.head)
            for _ in range(copies):
                stored = _Message(message.body, self._broker.clock.now())
                self._broker.push(message.queue, band, stored, first=message.head)
        return answers

    async def receive(self, queues: Sequence[str], limit: int, timeout: float) -> list[Delivery]:
        self._connection.store()
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        with self._broker.bell.listen(queue_topic(name) for name in queues) as event:
            while self._connection.is_open:
                found = self._take(queues, limit)
                left = until - loop.time()
                if found or left <= 0:
                    return found
                await wait_for(event, min(left, LOOK))
        return []

    async def ack(self, deliveries: Sequence[Delivery]) -> list[bool]:
        return self._settle(deliveries, lambda token: self._broker.leases.pop(token, None))

    async def release(self, deliveries: Sequence[Delivery]) -> list[bool]:
        return self._settle(list(reversed(deliveries)), self._broker.give_back)[::-1]

    async def bury(self, deliveries: Sequence[Delivery], reason: str) -> list[bool]:
        def bury(token: int) -> object:
            lease = self._broker.leases.pop(token, None)
            if lease is not None:
                self._broker.queue(lease.queue).buried.append((lease.message, reason))
            return lease

        return self._settle(deliveries, bury)

    async def stats(self, queues: Sequence[str]) -> list[QueueStats]:
        self._broker.expire()
        found = []
        for name in queues:
            queue = self._broker.queues.get(name) or _Queue()
            ready = queue.ready()
            leased = sum(lease.queue == name for lease in self._broker.leases.values())
            oldest = min((message.sent_at for message in ready), default=None)
            found.append(
                QueueStats(
                    queue=name,
                    ready=len(ready),
                    leased=leased,
                    buried=len(queue.buried),
                    oldest=oldest,
                )
            )
        return found

    async def purge(self, queue: str) -> int:
        self._broker.expire()
        gone = self._broker.queues.get(queue)
        if gone is None:
            return 0
        self._broker.queues[queue] = _Queue()
        return len(gone.ready()) + len(gone.buried)

    async def erase(self) -> None:
        """Remove all messages of this name and namespace. Safe to repeat."""
        self._broker.queues.clear()
        self._broker.leases.clear()

    def shares(self, backend: ResultBackend) -> bool:
        return False

    async def receive_claimed(
        self, session: str, queues: Sequence[str], limit: int, timeout: float
    ) -> list[Received]:
        raise UnsupportedCapability("the split form shares nothing with its ledger: use receive()")

    def _take(self, queues: Sequence[str], limit: int) -> list[Delivery]:
        self._broker.expire()
        self._turn += 1
        begin = self._turn % len(queues) if queues else 0
        found: list[Delivery] = []
        for name in (*queues[begin:], *queues[:begin]):
            found += self._broker.take(name, limit - len(found), self)
        return found

    def _settle(self, deliveries: Sequence[Delivery], end: Callable[[int], object]) -> list[bool]:
        self._broker.expire()
        return [bool(end(delivery.token)) for delivery in deliveries]


class SplitResultBackend(KeyValueBackend):
    """``KeyValueBackend`` on a store in memory."""

    def __init__(
        self,
        url: str,
        namespace: str,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        faults: StoreFaults = NO_FAULTS,
    ) -> None:
        rng = rng or random.Random()
        connection = _connect(url, namespace, clock, ResultBackendUnavailable)
        self.kv = MemoryKeyValueStore(connection, rng=rng, faults=faults)
        super().__init__(self.kv, rng=rng)
