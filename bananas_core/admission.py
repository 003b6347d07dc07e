"""Claims of tasks with limits, from a free slot to their start: asked about, waited for, let in.

A claim takes one of the worker's slots while it is being asked about, since it may start right
away; while it waits for its turn it takes none. Turns are instants of the ledger, of whose time
this process knows a bound: starts are a little late rather than early.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from bananas_core.clock import Clock
from bananas_core.held import ClaimKey
from bananas_core.hooks import Decision
from bananas_core.job import Claim, Outcome, OutcomeKind

if TYPE_CHECKING:
    from bananas_core.app import Bananas

log = logging.getLogger("bananas.admission")

MOST_WAITING: Final = 1000
"""Claims that wait here; a further one waits in the ledger."""
GIVE_UP: Final = 1.0
"""Seconds after the end of its turn that a claim without a free slot is handed back."""
BUCKET: Final = 20.0
"""Seconds for which what is known of the ledger's clock counts, at least."""
TICK: Final = 0.0005


class LedgerTime:
    """A lower bound of the ledger's time: what it said in a reply, plus what has passed since.
    The best reply of the last while counts, so that the clocks may drift."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begun = clock.monotonic()
        self._old: float | None = None
        self._new: float | None = None

    def learn(self, at: float) -> None:
        """The ledger's time was ``at`` when it made a reply that is here now."""
        now = self._clock.monotonic()
        if now - self._begun > BUCKET:
            self._old, self._new, self._begun = self._new, None, now
        self._new = at - now if self._new is None else max(self._new, at - now)

    def now(self) -> float:
        """The ledger's time, or a little earlier; minus infinity before the first reply."""
        known = [offset for offset in (self._old, self._new) if offset is not None]
        return max(known, default=float("-inf")) + self._clock.monotonic()


class Admission:
    """The claims of one worker that plugins decide about."""

    def __init__(
        self,
        app: Bananas,
        *,
        clock: Clock,
        free: Callable[[], bool],
        start: Callable[[Claim], None],
        settle: Callable[[Outcome], None],
        ready: Callable[[], None],
    ) -> None:
        """
        Args:
            free: whether a claim may start now.
            start, settle: begin a claim, or end it without a start.
            ready: a claim may have become ready, or a slot free: start what can be.
        """
        self.time = LedgerTime(clock)
        self._app = app
        self._clock = clock
        self._free = free
        self._start = start
        self._settle = settle
        self._ready = ready
        self._asked: list[Claim] = []
        self._in_flight: list[Claim] = []
        self._waiting: list[tuple[float, int, Claim, Decision]] = []
        self._due: deque[tuple[Claim, Decision]] = deque()
        self._gone: dict[ClaimKey, OutcomeKind | None] = {}
        self._count = 0
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def concerns(self, claim: Claim) -> bool:
        """Whether the claim must be asked about before it starts."""
        if not self._app.plugins.has("before_execute"):
            return False
        task = self._app.tasks.get(claim.name)
        return task is not None and bool(task.limits)

    @property
    def slots(self) -> int:
        """Slots that are taken by claims under question."""
        return len(self._asked) + len(self._in_flight)

    @property
    def due(self) -> int:
        """Claims whose turn has come and that have no slot."""
        return len(self._due)

    def ask(self, claim: Claim) -> None:
        """Take a claim that a slot is free for."""
        self._asked.append(claim)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def pump(self) -> None:
        """Let in whose turn has come, while there are free slots."""
        while self._due and self._free():
            claim, decision = self._due.popleft()
            if decision.again or self.time.now() > decision.until:
                self.ask(claim)
            else:
                self._start(claim)

    def sweep(self) -> None:
        """Hand back what has been ready for long and finds no slot here."""
        now = self.time.now()
        late = [item for item in self._due if now > _end(item[1]) + GIVE_UP]
        for item in late:
            self._due.remove(item)
            self._settle(_outcome(item[0], OutcomeKind.HANDBACK))

    def cancel(self, key: ClaimKey) -> None:
        """A cancel was requested for this claim's job."""
        for claim in self._take_out(lambda c: (c.id, c.fence) == key):
            self._settle(_outcome(claim, OutcomeKind.CANCELLED))
        if any((c.id, c.fence) == key for c in (*self._asked, *self._in_flight)):
            self._gone[key] = OutcomeKind.CANCELLED

    def lose(self, keys: frozenset[ClaimKey] | None = None) -> list[ClaimKey]:
        """These claims (None: all) are not ours any more; which of them were here."""
        out = self._take_out(lambda c: keys is None or (c.id, c.fence) in keys)
        for claim in (*self._asked, *self._in_flight):
            if keys is None or (claim.id, claim.fence) in keys:
                self._gone[(claim.id, claim.fence)] = None
                out.append(claim)
        return [(claim.id, claim.fence) for claim in out]

    def close(self) -> None:
        """The worker stops: everything goes back, with its turn where it has one. Safe to
        repeat."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for claim, decision in [*self._due, *((c, d) for _, _, c, d in self._waiting)]:
            self._settle(decision.otherwise or _outcome(claim, OutcomeKind.HANDBACK))
        self._due.clear()
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            self._task = None
        for claim in (*self._asked, *self._in_flight):
            if (claim.id, claim.fence) not in self._gone:
                self._settle(_outcome(claim, OutcomeKind.HANDBACK))
        self._asked, self._in_flight = [], []

    async def _run(self) -> None:
        """Ask about all that have come, a batch at a time, until there are none."""
        await asyncio.sleep(0)  # whatever else this turn of the loop brings
        while self._asked:
            self._in_flight, self._asked = self._asked, []
            decisions = await self._app.plugins.before_execute(self._app, self._in_flight)
            decided, self._in_flight = self._in_flight, []
            for claim, decision in zip(decided, decisions, strict=True):
                self._apply(claim, decision)
            self._ready()
        self._task = None

    def _apply(self, claim: Claim, decision: Decision | None) -> None:
        key = (claim.id, claim.fence)
        if key in self._gone:
            kind = self._gone.pop(key)
            if kind is not None:
                self._settle(_outcome(claim, kind))
        elif decision is None:
            self._start(claim)
        elif decision.outcome is not None:
            self._settle(decision.outcome)
        elif decision.at <= self.time.now() and not decision.again:
            self._due.append((claim, decision))
            self.pump()
        elif len(self._waiting) < MOST_WAITING or decision.otherwise is None:
            self._count += 1
            heapq.heappush(self._waiting, (decision.at, self._count, claim, decision))
            self._arm()
        else:
            self._settle(decision.otherwise)

    def _arm(self) -> None:
        """Wake up for the next turn."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting and not self._closed:
            delay = max(TICK, self._waiting[0][0] - self.time.now())
            self._timer = asyncio.get_running_loop().call_later(delay, self._woken)

    def _woken(self) -> None:
        self._timer = None
        now = self.time.now()
        while self._waiting and self._waiting[0][0] <= now:
            _, _, claim, decision = heapq.heappop(self._waiting)
            self._due.append((claim, decision))
        self._arm()
        self._ready()

    def _take_out(self, which: Callable[[Claim], bool]) -> list[Claim]:
        due = [claim for claim, _ in self._due if which(claim)]
        waiting = [item[2] for item in self._waiting if which(item[2])]
        if due:
            self._due = deque(item for item in self._due if not which(item[0]))
        if waiting:
            self._waiting = [item for item in self._waiting if not which(item[2])]
            heapq.heapify(self._waiting)
        return due + waiting


def learn(time: LedgerTime, claims: Iterable[Claim]) -> None:
    """What fresh claims say of the ledger's time."""
    at = max((claim.at for claim in claims), default=None)
    if at is not None:
        time.learn(at)


def _end(decision: Decision) -> float:
    return decision.at if decision.again else decision.until


def _outcome(claim: Claim, kind: OutcomeKind) -> Outcome:
    return Outcome(id=claim.id, fence=claim.fence, kind=kind)
