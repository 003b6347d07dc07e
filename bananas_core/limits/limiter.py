"""Limits on what starts: per second, per calendar day, at the same time; for all workers together.

Every limit is one small document of the ledger that all change by compare-and-set, so a limit means
the same on every ledger. Promises are numbered Q1, Q2, …

Q1. Time is the ledger's; a document never goes back in it.
Q2. A rate grants no window of its period more than ``count + burst``, whoever asks, however many
    at once, if starts keep the ``until`` of their answers; no two turns are the same.
Q3. A denied job has a turn of its own, in the order of asking, and need not ask again for it.
Q4. A turn that nobody used is gone: after a pause nothing is made up for.
Q5. A calendar window of the limit's time zone never has more than ``count``, also on days on which
    the clock changes.
Q6. Never more than ``count`` hold a slot. A slot is held as long as the ledger says that the claim
    runs: that of a dead holder is free for who asks next.
Q7. A slot given back goes to the oldest of those that wait, who are told. If it was called before
    it waited in the ledger, it is called again once it does.
Q8. A turn given back is used again.
Q9. Of several limits all must grant; otherwise only the last turn is kept.
Q10. A change at run time goes before the code's rule, from the next asking on, and makes turns void
    that were reserved before it.
Q11. A document's size does not grow with the number of jobs that wait.
Q12. Looking has no effect.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import msgspec

from bananas_core.clock import Clock
from bananas_core.job import Doc, Job, JobState, Ready, Signal, SignalKind
from bananas_core.limits.book import (
    CONFIG,
    Answer,
    Ask,
    Book,
    Stale,
    Turn,
    Want,
    effective,
    read_config,
)
from bananas_core.limits.giving import give_back
from bananas_core.limits.rules import Offer, Rule
from bananas_core.limits.slots import Waiter
from bananas_core.results import ResultBackend

LOOK_EVERY: Final = 1.0
"""Seconds between two looks of one process at whether the holders of a limit still run."""
FIRST_PAUSE: Final = 0.004
LONGEST_PAUSE: Final = 0.1

Taken = list[tuple[Want, Offer]]


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """A claim that held slots has ended, after so many seconds if that is known."""

    id: str
    fence: int
    wants: tuple[Want, ...]
    held: float | None = None


class Limiter:
    """Asks limits for jobs. Any number of them may be used at the same time, anywhere."""

    def __init__(
        self,
        backend: ResultBackend,
        clock: Clock,
        rng: random.Random,
        *,
        send: Callable[[Sequence[Ready]], Awaitable[None]] | None = None,
    ) -> None:
        """``send``: sends the messages of jobs that were woken."""
        self._backend = backend
        self._clock = clock
        self._rng = rng
        self._send = send
        self._looked: dict[str, float] = {}
        self._rules: dict[str, tuple[float, Rule, int]] = {}

    async def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        """One answer for each, in order. Not safe to repeat: a turn is reserved by each call. If
        it fails, turns may have been reserved that lapse.

        Raises:
            ResultBackendError: nothing is granted.
        """
        wants = [want for ask in asks for want in ask.wants]
        answers: dict[int, Answer] = {}
        left = dict(enumerate(asks))
        taken: dict[int, Taken] = {}
        called: dict[str, list[Waiter]] = {}
        round_ = _Round(self._backend, self._clock, self._rng, wants)
        while left:
            book, now = await round_.begin()
            for i, took in taken.items():  # a part of it was written, another was not
                for want, offer in took:
                    book.undo(want, left[i], offer, now)
            taken.clear()
            await self._look_at_holders(book, now)
            for i, ask in left.items():
                answers[i], taken[i] = book.decide(ask, now)
            calls = book.call(now)
            lost = await round_.write(now)
            for key, found in calls.items():
                called.setdefault(key, []).extend(found if key not in lost else ())
            for i in list(left):
                touched = {want.doc for want in left[i].wants}
                if touched.isdisjoint(lost):
                    del left[i], taken[i]
                else:
                    taken[i] = [item for item in taken[i] if item[0].doc not in lost]
        await self._wake(wants, called)
        return [answers[i] for i in range(len(asks))]

    async def release(self, ended: Sequence[Release]) -> None:
        """Free the slots of claims that have ended, and wake who waits for them. Safe to repeat.

        Raises:
            ResultBackendError: they are found free by who asks next.
        """

        def free(book: Book, now: float, lost: set[str] | None) -> None:
            book.drop([(item.id, item.fence) for item in ended], now)
            for item in ended:
                for want in item.wants:
                    if item.held is not None and (lost is None or want.doc in lost):
                        book.measured(want.doc, item.held)

        await self._change([want for item in ended for want in item.wants], free)

    async def line_up(self, waits: Sequence[tuple[Want, Waiter]]) -> None:
        """These jobs, who were denied a slot, wait in the ledger from now on. Whoever of them was
        called before that stands in line again, and free slots are promised. Safe to repeat.

        Raises:
            ResultBackendError: they ask again by themselves, in some seconds.
        """

        def again(book: Book, now: float, _: set[str] | None) -> None:
            for want, who in waits:
                book.line_up(want.doc, who, now)

        await self._change([want for want, _ in waits], again)

    async def _change(
        self, wants: Sequence[Want], change: Callable[[Book, float, set[str] | None], None]
    ) -> None:
        """Change the documents of slots, and wake whom a slot is free for then. ``change`` is told
        what was lost the last time, None at first."""
        if not wants:
            return
        round_ = _Round(self._backend, self._clock, self._rng, wants)
        lost: set[str] | None = None
        calls: dict[str, list[Waiter]] = {}
        while lost is None or lost:
            book, now = await round_.begin()
            change(book, now, lost)
            found = book.call(now)
            lost = await round_.write(now)
            for key, waiters in found.items():
                calls.setdefault(key, []).extend(waiters if key not in lost else ())
        await self._wake(wants, calls)

    async def rules(self, wants: Sequence[Want]) -> dict[str, tuple[Rule, int]]:
        """The rule of each limit, by name, as of at most a second ago, and the number of its last
        change."""
        mono = self._clock.monotonic()
        by_name = {want.name: want for want in wants}
        old = [n for n in by_name if mono - self._rules.get(n, (-1e9,))[0] >= LOOK_EVERY]
        docs = await self._backend.get_docs([CONFIG + name for name in old]) if old else []
        for name, doc in zip(old, docs, strict=True):
            config = read_config(doc)
            self._rules[name] = (mono, effective(by_name[name], config), config.change)
        return {name: self._rules[name][1:] for name in by_name}

    async def give_back(self, turn: Turn, at: float) -> bool:
        """A job won't use the turn that it holds. Call it once only: after that the turn may be
        another's. Whether it was taken back: not if it is over, or of before a change.

        Raises:
            ResultBackendError: the turn lapses.
        """
        return await give_back(self._backend, [(turn, at)]) > 0

    async def _look_at_holders(self, book: Book, now: float) -> None:
        """Before a job is denied a slot: do all holders still run?"""
        mono = self._clock.monotonic()
        keys = [k for k in book.full(now) if mono - self._looked.get(k, -1e9) >= LOOK_EVERY]
        holders = sorted(book.holders(keys))
        if len(self._looked) > 10_000:
            self._looked.clear()
        self._looked.update((key, mono) for key in keys)
        if holders:
            jobs = await self._backend.get([id for id, _ in holders])
            book.drop([h for h, job in zip(holders, jobs, strict=True) if over(job, h[1])], now)

    async def _wake(self, wants: Sequence[Want], called: Mapping[str, Sequence[Waiter]]) -> None:
        """Wake who was promised a slot. Whoever is gone, or does not wait yet, passes it on."""
        by_doc = {want.doc: want for want in wants}
        woken = [(by_doc[key], waiter) for key, found in called.items() for waiter in found]
        missed = await self._signal(woken)
        await self.release([Release(id=w.id, fence=0, wants=(want,)) for want, w in missed])

    async def _signal(self, called: Sequence[tuple[Want, Waiter]]) -> list[tuple[Want, Waiter]]:
        """Make waiting jobs ready to run; which of them could not be."""
        if not called:
            return []
        wishes = [
            Signal(id=w.id, kind=SignalKind.CHANGE, by="limit", delay=0.0, gen=w.gen)
            for _, w in called
        ]
        answers, ready = await self._backend.signal(wishes)
        if ready and self._send is not None:
            await self._send(ready)
        return [item for item, answer in zip(called, answers, strict=True) if not answer.done]


class _Round:
    """Reading, and writing what is still as it was read."""

    def __init__(
        self, backend: ResultBackend, clock: Clock, rng: random.Random, wants: Sequence[Want]
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._rng = rng
        self._wants = wants
        self._book: Book | None = None
        self._now = 0.0
        self._at = 0.0
        self._pause = FIRST_PAUSE

    async def begin(self) -> tuple[Book, float]:
        """The book, and the ledger's time. A conflict tells what is there now, so only the first
        round and a change of a limit read."""
        while self._book is None:
            self._now = await self._backend.now()
            self._at = self._clock.monotonic()
            docs = await self._backend.get_docs(Book.keys(self._wants))
            try:
                self._book = Book(self._wants, _named(self._wants, docs), self._now)
            except Stale:
                await self._wait()
        return self._book, self._now + self._clock.monotonic() - self._at

    async def write(self, now: float) -> set[str]:
        """Documents that somebody else has changed in the meantime."""
        assert self._book is not None
        book = self._book
        writes = book.writes(now)
        answers = await self._backend.cas(writes) if writes else []
        lost = {w.key for w, answer in zip(writes, answers, strict=True) if not answer.done}
        try:
            for write, answer in zip(writes, answers, strict=True):
                book.update(write.key, answer.doc, now)
        except Stale:
            self._book = None
        if lost:
            await self._wait()
        return lost

    async def _wait(self) -> None:
        await asyncio.sleep(self._rng.random() * self._pause)
        self._pause = min(self._pause * 1.5, LONGEST_PAUSE)


def over(job: Job | None, fence: int) -> bool:
    """Whether a claim certainly runs no more. A record of an earlier fence is an old copy."""
    if job is None:
        return True
    return job.fence > fence or (job.fence == fence and job.state is not JobState.PROCESSING)


def _named(wants: Sequence[Want], docs: Sequence[Doc | None]) -> dict[str, Doc | None]:
    return dict(zip(Book.keys(wants), docs, strict=True))
