"""Any sequence of calls keeps the transport's promises, by a model of what lies where."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bananas_brokers.memory.transport import MemoryTransport
from bananas_core.testing.clock import ManualClock
from bananas_core.transport import Delivery, Outgoing

T = TypeVar("T")
QUEUES = ("a", "b")
LEASE = 15.0
WHO = st.integers(0, 1)
QUEUE = st.sampled_from(QUEUES)


class TransportMachine(RuleBasedStateMachine):
    """Two connections to one exact transport (101 levels, FIFO, heads)."""

    url = "memory://machine"

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock, namespace = ManualClock(), uuid.uuid4().hex
        self.transports = [MemoryTransport(self.url, namespace, clock=self.clock) for _ in range(2)]
        self.number = 0
        self.place: dict[bytes, tuple[str, int, bool, int]] = {}
        """Body → queue, -priority, not head, number: all that is neither acked nor purged."""
        self.leased: dict[bytes, tuple[int, float, Delivery]] = {}
        """Body → connection, end of the lease, delivery."""
        self.buried: set[bytes] = set()
        self.old: list[tuple[int, Delivery]] = []
        """Deliveries that nobody holds any more."""
        for transport in self.transports:
            self.run(transport.open())

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    def expire(self) -> None:
        for body, (who, end, delivery) in list(self.leased.items()):
            if end <= self.clock.now():
                del self.leased[body]
                self.old.append((who, delivery))

    def ready(self, queue: str) -> list[bytes]:
        """What can be received, in order."""
        self.expire()
        bodies = [
            body
            for body, place in self.place.items()
            if place[0] == queue and body not in self.leased and body not in self.buried
        ]
        return sorted(bodies, key=lambda body: self.place[body][1:])

    @rule(
        who=WHO,
        queue=QUEUE,
        batch=st.lists(st.tuples(st.sampled_from([0, 50, 100]), st.booleans()), max_size=4),
    )
    def send(self, who: int, queue: str, batch: list[tuple[int, bool]]) -> None:
        messages = []
        for priority, head in batch:
            self.number += 1
            body = b"m%d" % self.number
            messages.append(Outgoing(body=body, queue=queue, priority=priority, head=head))
            self.place[body] = (queue, -priority, not head, self.number)
        assert self.run(self.transports[who].send(messages)) == [None] * len(batch)

    @rule(who=WHO, queue=QUEUE, limit=st.integers(1, 4))
    def receive(self, who: int, queue: str, limit: int) -> None:
        wanted = self.ready(queue)[:limit]
        got = self.run(self.transports[who].receive([queue], limit, 0.0))
        assert [delivery.body for delivery in got] == wanted
        self.hold(who, got)

    @rule(who=WHO, limit=st.integers(1, 4))
    def receive_of_both(self, who: int, limit: int) -> None:
        ready = {queue: self.ready(queue) for queue in QUEUES}
        got = self.run(self.transports[who].receive(QUEUES, limit, 0.0))
        assert len(got) == min(limit, sum(map(len, ready.values())))
        for queue in QUEUES:
            mine = [delivery.body for delivery in got if delivery.queue == queue]
            assert mine == ready[queue][: len(mine)]
            if limit > 1 and ready[queue]:
                assert mine, "starved"
        self.hold(who, got)

    def hold(self, who: int, got: list[Delivery]) -> None:
        for delivery in got:
            self.leased[delivery.body] = (who, self.clock.now() + LEASE, delivery)

    @precondition(lambda self: self.leased)
    @rule(data=st.data(), what=st.sampled_from(["ack", "release", "bury"]))
    def settle(self, data: st.DataObject, what: str) -> None:
        self.expire()
        if not self.leased:
            return
        body = data.draw(st.sampled_from(sorted(self.leased)))
        who, _, delivery = self.leased.pop(body)
        transport: Any = self.transports[who]
        arguments = ([delivery], "bad") if what == "bury" else ([delivery],)
        assert self.run(getattr(transport, what)(*arguments)) == [True]
        self.old.append((who, delivery))
        if what == "ack":
            del self.place[body]
        elif what == "bury":
            self.buried.add(body)

    @precondition(lambda self: self.old)
    @rule(data=st.data(), what=st.sampled_from(["ack", "release", "bury"]))
    def settle_too_late(self, data: st.DataObject, what: str) -> None:
        who, delivery = data.draw(st.sampled_from(self.old))
        transport: Any = self.transports[who]
        arguments = ([delivery], "bad") if what == "bury" else ([delivery],)
        self.run(getattr(transport, what)(*arguments))  # changes nothing: see the invariant

    @rule(queue=QUEUE)
    def purge(self, queue: str) -> None:
        gone = [*self.ready(queue), *(b for b in self.buried if self.place[b][0] == queue)]
        assert self.run(self.transports[0].purge(queue)) == len(gone)
        for body in gone:
            del self.place[body]
            self.buried.discard(body)

    @rule(who=WHO)
    def close_and_open(self, who: int) -> None:
        self.run(self.transports[who].close())
        self.run(self.transports[who].open())
        for body, (owner, _, delivery) in list(self.leased.items()):
            if owner == who:
                del self.leased[body]
                self.old.append((owner, delivery))

    @rule(seconds=st.sampled_from([1.0, 7.0, 16.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def the_broker_and_the_model_agree(self) -> None:
        if not hasattr(self, "loop"):
            return
        for stats in self.run(self.transports[0].stats(QUEUES)):
            ready = len(self.ready(stats.queue))
            held = sum(self.place[body][0] == stats.queue for body in self.leased)
            buried = sum(self.place[body][0] == stats.queue for body in self.buried)
            assert (stats.ready, stats.leased, stats.buried) == (ready, held, buried)

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self.clock.advance(LEASE + 1)
            for queue in QUEUES:
                wanted = self.ready(queue)
                got = self.run(self.transports[0].receive([queue], 1000, 0.0))
                assert [delivery.body for delivery in got] == wanted, "lost or twice"
        finally:
            for transport in self.transports:
                self.run(transport.close())
            self.loop.close()


TransportMachine.TestCase.settings = settings(
    max_examples=80, stateful_step_count=30, deadline=None, database=None
)
TestFusedTransport = TransportMachine.TestCase
