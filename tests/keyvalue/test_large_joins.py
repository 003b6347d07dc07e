"""A large join on compare-and-set alone, while many finish its members and lose races."""

from __future__ import annotations

import random
import uuid
from typing import Any, Final

from bananas_brokers.memory.kvstore import StoreFaults
from bananas_brokers.memory.split import SplitResultBackend
from bananas_core.testing.clock import ManualClock
from bananas_core.testing.conformance.workflow_crashes import large_group

LARGEST_VALUE: Final = 64 * 1024
CONFLICTS: Final = StoreFaults(conflict=0.05)


class ManyClients:
    """A harness whose connections are told at random that they lost a race."""

    def __init__(self) -> None:
        self._clock = ManualClock()
        self._url = f"memory://{uuid.uuid4().hex}"
        self.made: list[SplitResultBackend] = []

    def session(self) -> str:
        return uuid.uuid4().hex

    async def backend(self) -> Any:
        number = len(self.made)
        made = SplitResultBackend(
            self._url, "n", clock=self._clock, rng=random.Random(number), faults=CONFLICTS
        )
        await made.open()
        self.made.append(made)
        return made


async def test_ten_thousand_members_join_once_under_conflicts() -> None:
    harness: Any = ManyClients()
    await large_group(harness, size=10_000, finishers=64, batch=40)
    store, after, largest = harness.made[0].kv, "", 0
    while entries := await store.scan("", after, 1000):
        largest = max(largest, *(len(entry.value) for entry in entries))
        after = entries[-1].key
    assert 0 < largest <= LARGEST_VALUE
    for backend in harness.made:
        await backend.close()
