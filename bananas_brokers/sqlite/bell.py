"""Waking what waits: one bell per process and file, rung after each commit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable


class Ticket:
    """One waiter's place at the bell; belongs to the event loop that made it."""

    def __init__(self, bell: Bell, topics: tuple[str, ...]) -> None:
        self._bell = bell
        self.topics = topics
        self.loop = asyncio.get_running_loop()
        self.rung = asyncio.Event()

    async def wait(self, timeout: float) -> None:
        """Until the bell rang for one of the topics since the last wait, or ``timeout`` s."""
        try:
            async with asyncio.timeout(timeout):
                await self.rung.wait()
        except TimeoutError:
            pass
        self.rung.clear()

    def __enter__(self) -> Ticket:
        return self

    def __exit__(self, *_: object) -> None:
        self._bell.leave(self)


class Bell:
    """Thread-safe. Topics are queues (``q…``) and jobs (``j…``), see ``tx.py``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tickets: dict[str, set[Ticket]] = {}

    @property
    def waiting(self) -> bool:
        return bool(self._tickets)

    def listen(self, topics: Iterable[str]) -> Ticket:
        """A place for ``topics``; look at the data only after this, so that nothing is missed."""
        ticket = Ticket(self, tuple(topics))
        with self._lock:
            for topic in ticket.topics:
                self._tickets.setdefault(topic, set()).add(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        with self._lock:
            for topic in ticket.topics:
                tickets = self._tickets.get(topic)
                if tickets is not None:
                    tickets.discard(ticket)
                    if not tickets:
                        del self._tickets[topic]

    def ring(self, topics: Iterable[str] | None = None) -> None:
        """Wake who waits for one of ``topics``; None: everybody."""
        if not self._tickets:
            return
        with self._lock:
            names = list(self._tickets) if topics is None else topics
            woken = {t for name in names for t in self._tickets.get(name, ())}
        self._wake(woken)

    def ring_queues(self) -> None:
        """Wake every receiver."""
        with self._lock:
            woken = {t for name, ts in self._tickets.items() if name[0] == "q" for t in ts}
        self._wake(woken)

    def waits_for_jobs(self) -> bool:
        with self._lock:
            return any(name[0] == "j" for name in self._tickets)

    def _wake(self, tickets: set[Ticket]) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[Ticket]] = {}
        for ticket in tickets:
            loops.setdefault(ticket.loop, []).append(ticket)
        for loop, group in loops.items():
            try:
                loop.call_soon_threadsafe(_set, group)
            except RuntimeError:
                pass  # that loop is closed, so nobody waits in it any more


def _set(tickets: list[Ticket]) -> None:
    for ticket in tickets:
        ticket.rung.set()
