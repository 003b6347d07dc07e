"""Who waits for what: a topic's listeners are woken when it rings."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


def job_topic(job_id: str) -> str:
    return f"job {job_id}"


def queue_topic(queue: str) -> str:
    return f"queue {queue}"


class Bell:
    """Events by topic. A listener that is gone leaves nothing behind."""

    def __init__(self) -> None:
        # Dicts keep the order of arrival, so that a simulated run can be replayed.
        self._listeners: defaultdict[str, dict[asyncio.Event, None]] = defaultdict(dict)

    @contextmanager
    def listen(self, topics: Iterable[str]) -> Iterator[asyncio.Event]:
        """An event that is set whenever one of ``topics`` rings."""
        event, wanted = asyncio.Event(), dict.fromkeys(topics)
        for topic in wanted:
            self._listeners[topic][event] = None
        try:
            yield event
        finally:
            for topic in wanted:
                self._listeners[topic].pop(event, None)
                if not self._listeners[topic]:
                    del self._listeners[topic]

    def ring(self, topic: str) -> None:
        for event in self._listeners.get(topic, ()):
            event.set()

    def ring_all(self) -> None:
        """For a connection that closes: each listener looks whether it is meant."""
        for events in self._listeners.values():
            for event in events:
                event.set()


async def wait_for(event: asyncio.Event, seconds: float) -> None:
    """Until the event is set, at most ``seconds`` of the loop's time; then it is clear again."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
    event.clear()
