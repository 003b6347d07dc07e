"""The plugin that keeps limits: it answers for claims that are about to start."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import msgspec

from bananas_core.blobs import load_payload
from bananas_core.clock import Clock, SystemClock
from bananas_core.errors import ConfigurationError, ResultBackendError
from bananas_core.hooks import Decision, hookimpl
from bananas_core.job import Claim, ErrorInfo, Outcome, OutcomeKind, Signal, SignalKind
from bananas_core.keys import view_of
from bananas_core.limits import (
    Answer,
    Ask,
    Limiter,
    Release,
    Slots,
    Turn,
    Waiter,
    Want,
    held_by,
    latest,
    text_of,
    turn_of,
)
from bananas_core.message import decode_stored
from bananas_core.plugins import Plugin
from bananas_plugins.rate_limit.limit import Plan, plans_of

if TYPE_CHECKING:
    from bananas_core.app import Bananas
    from bananas_core.results import ResultBackend

log = logging.getLogger("bananas.limits")

LEAD: Final = 2.0
"""Seconds before its turn that a job comes back to a worker."""
WAIT_HERE: Final = 2.5
"""A claim whose turn is no further away waits in the worker."""
MOST_KNOWN: Final = 20_000

Key = tuple[str, int]


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A turn that a claim has: of which limit, from when, until when."""

    turn: Turn
    at: float
    until: float = 0.0


class RateLimit(Plugin):
    """Keeps the limits of tasks. A job that can't be asked about doesn't start."""

    name: ClassVar[str] = "rate_limit"
    on_error: ClassVar[Literal["fail", "log"]] = "fail"
    time_limit: ClassVar[float] = 10.0

    def __init__(self, rng: random.Random | None = None, clock: Clock | None = None) -> None:
        self._rng = rng or random.Random()
        self._clock = clock or SystemClock()
        self._plans: dict[str, tuple[Plan, ...]] = {}
        self._shared: dict[str, Plan] = {}
        self._limiter: tuple[ResultBackend, Limiter] | None = None
        self._turns: dict[Key, Held] = {}
        self._slots: dict[Key, tuple[tuple[Want, ...], float]] = {}
        self._denied: dict[Key, tuple[Want, Waiter]] = {}
        """Claims that were denied a slot, and how their jobs stand in line once they are back in
        the ledger."""

    @hookimpl
    def task_registered(self, task: Any) -> None:
        """Remember its limits. Raises ConfigurationError if one name means two things."""
        plans = plans_of(task)
        for plan in plans:
            other = self._shared.setdefault(plan.name, plan)
            if other.rule != plan.rule:
                raise ConfigurationError(
                    f"limit {plan.name!r} is {text_of(other.rule)} and {text_of(plan.rule)} "
                    f"(in task {task.name!r}); give one of them another name="
                )
        if plans:
            self._plans[task.name] = plans

    @hookimpl
    async def before_execute(self, app: Bananas, claims: list[Claim]) -> list[Decision | None]:
        """Ask all limits of all claims at once."""
        limiter = self.limiter(app)
        found: dict[int, Decision] = {}
        wants: dict[int, tuple[Want, ...]] = {}
        for i, claim in enumerate(claims):
            try:
                wants[i] = await self._wants(app, claim)
            except ResultBackendError:
                raise
            except Exception as error:  # it is this job's alone: the others of the batch go on
                found[i] = Decision(outcome=_failed(claim, error))
        turns = {i: turn for i in wants if (turn := self._turn(claims[i], wants[i])) is not None}
        if turns:
            await self._use(limiter, app, claims, wants, turns, found)
        asks = {
            i: Ask(
                id=claims[i].id,
                fence=claims[i].fence,
                gen=claims[i].gen,
                created_at=claims[i].created_at,
                wants=wanted,
                drop=self._drops(claims[i]),
            )
            for i, wanted in wants.items()
            if i not in found and wanted
        }
        answers = await limiter.ask(list(asks.values())) if asks else []
        for i, answer in zip(asks, answers, strict=True):
            found[i] = self._decision(claims[i], asks[i], answer, turns.get(i))
            if i in turns and not answer.granted:  # it is of no use alone
                await limiter.give_back(turns[i].turn, turns[i].at)
        await _say_why(app, [found[i].outcome for i in asks])
        return [found.get(i) for i in range(len(claims))]

    @hookimpl
    async def after_finish(self, app: Bananas, outcomes: list[Outcome]) -> None:
        """Free the slots of what has ended, and line up what waits for one in the ledger now."""
        ended: list[Release] = []
        waits: list[tuple[Want, Waiter]] = []
        now = self._clock.monotonic()
        for outcome in outcomes:
            key = (outcome.id, outcome.fence)
            self._turns.pop(key, None)
            slots = self._slots.pop(key, None)
            if slots is not None:
                wants, since = slots
                held = None if outcome.ran is None else now - since
                ended.append(Release(id=key[0], fence=key[1], wants=wants, held=held))
            denied = self._denied.pop(key, None)
            if denied is not None and outcome.kind is OutcomeKind.SNOOZE:
                waits.append(denied)
        if waits:
            await self.limiter(app).line_up(waits)
        if ended:
            await self.limiter(app).release(ended)

    def limiter(self, app: Bananas) -> Limiter:
        """The limiter on the app's ledger, as it is open now."""
        backend = app.backend
        if self._limiter is None or self._limiter[0] is not backend:
            self._limiter = backend, Limiter(backend, self._clock, self._rng, send=app.send_ready)
        return self._limiter[1]

    async def _wants(self, app: Bananas, claim: Claim) -> tuple[Want, ...]:
        """Raises ResultBackendError in an outage, anything else for a job that can't be asked
        for."""
        plans = self._plans.get(claim.name, ())
        view = None
        if any(plan.needs_job for plan in plans):
            payload = await load_payload(app, claim, decode_stored(claim.message))
            view = view_of(claim.name, payload, claim.routing_key, claim.priority)
        return tuple(plan.want(view) for plan in plans)

    def _drops(self, claim: Claim) -> bool:
        return any(plan.drops for plan in self._plans.get(claim.name, ()))

    def _turn(self, claim: Claim, wants: tuple[Want, ...]) -> Held | None:
        """A turn that this very claim has, or its job has in this generation."""
        mine = self._turns.get((claim.id, claim.fence))
        if mine is None and claim.held is not None and claim.held.gen == claim.gen:
            turn = turn_of(claim.held.by)
            mine = None if turn is None else Held(turn=turn, at=claim.held.until)
        if mine is None:
            return None
        rated = [want for want in wants if not isinstance(want.rule, Slots)]
        wanted = any((w.name, w.key) == (mine.turn.name, mine.turn.key) for w in rated)
        return mine if wanted else None

    async def _use(
        self,
        limiter: Limiter,
        app: Bananas,
        claims: list[Claim],
        wants: dict[int, tuple[Want, ...]],
        turns: dict[int, Held],
        found: dict[int, Decision],
    ) -> None:
        """Turns that may be used answer for their limit; void and past ones are forgotten."""
        now = await app.backend.now()
        rules = await limiter.rules([want for i in turns for want in wants[i]])
        for i, held in list(turns.items()):
            claim, name = claims[i], held.turn.name
            self._turns.pop((claim.id, claim.fence), None)
            rule, change = rules[name]
            until = latest(rule, held.at)
            if isinstance(rule, Slots) or change != held.turn.change or now > until:
                del turns[i]
                continue
            others = tuple(
                w for w in wants[i] if (w.name, w.key) != (held.turn.name, held.turn.key)
            )
            if others and held.at <= now:
                wants[i] = others
                turns[i] = msgspec.structs.replace(held, until=until)
            else:
                found[i] = self._wait(claim, held, until, now, again=bool(others))

    def _decision(self, claim: Claim, ask: Ask, answer: Answer, turn: Held | None) -> Decision:
        key = (claim.id, claim.fence)
        if answer.granted:
            slots = tuple(want for want in ask.wants if isinstance(want.rule, Slots))
            if slots:
                if len(self._slots) > MOST_KNOWN:  # of claims that were lost
                    self._slots.pop(next(iter(self._slots)))
                self._slots[key] = (slots, self._clock.monotonic())
            until = answer.until if turn is None else min(answer.until, turn.until)
            return Decision(at=answer.at, until=until)
        assert answer.by is not None
        held = Held(
            turn=Turn(name=answer.by.name, key=answer.by.key, change=answer.change), at=answer.at
        )
        if ask.drop:
            return Decision(outcome=_outcome(claim, OutcomeKind.CANCELLED, held_by=answer.by.name))
        if answer.firm:
            return self._wait(claim, held, answer.until, answer.now, again=len(ask.wants) > 1)
        if len(self._denied) > MOST_KNOWN:
            self._denied.pop(next(iter(self._denied)))
        self._denied[key] = answer.by, Waiter(claim.created_at, claim.id, claim.gen + 1)
        delay = answer.at - answer.now
        later = _later(claim, held, delay)
        if delay <= WAIT_HERE:
            return Decision(at=answer.at, again=True, otherwise=later)
        return Decision(outcome=later)

    def _wait(self, claim: Claim, held: Held, until: float, now: float, *, again: bool) -> Decision:
        """Its turn comes: here if it is near, else in the ledger."""
        later = _later(claim, held, max(0.0, held.at - now - LEAD))
        if held.at - now > WAIT_HERE:
            return Decision(outcome=later)
        if again and held.at > now:
            if len(self._turns) > MOST_KNOWN:
                self._turns.pop(next(iter(self._turns)))
            self._turns[(claim.id, claim.fence)] = held
        return Decision(at=held.at, until=until, again=again and held.at > now, otherwise=later)


async def _say_why(app: Bananas, outcomes: list[Outcome | None]) -> None:
    """The reason of jobs that are dropped, before they end as cancelled."""
    wishes = [
        Signal(
            id=outcome.id,
            kind=SignalKind.CANCEL,
            by="rate_limit",
            reason=f"over limit {outcome.held_by}",
        )
        for outcome in outcomes
        if outcome is not None and outcome.kind is OutcomeKind.CANCELLED
    ]
    if wishes:
        await app.backend.signal(wishes)


def _later(claim: Claim, held: Held, delay: float) -> Outcome:
    return _outcome(
        claim,
        OutcomeKind.SNOOZE,
        delay=delay,
        held_by=held_by(held.turn),
        held_until=held.at,
    )


def _failed(claim: Claim, error: Exception) -> Outcome:
    info = ErrorInfo(type=type(error).__name__, message=str(error))
    return _outcome(claim, OutcomeKind.FAILED, error=info)


def _outcome(claim: Claim, kind: OutcomeKind, **fields: Any) -> Outcome:
    return Outcome(id=claim.id, fence=claim.fence, kind=kind, **fields)
