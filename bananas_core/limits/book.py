"""The documents that limits are kept in, and one round of changes to them. Pure.

``limit/{name}/{key}`` is the state of one limit for one key, of a size that no backlog changes;
``limit-config/{name}`` says that a limit was changed at run time.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from bananas_core.errors import ConfigurationError
from bananas_core.job import Doc, Write
from bananas_core.limits import calendar, rate, slots
from bananas_core.limits.calendar import QuotaState
from bananas_core.limits.rate import RateState
from bananas_core.limits.rules import Offer, Quota, Rate, Rule, Slots, parse_rule, text_of
from bananas_core.limits.slots import SlotState, Waiter

log = logging.getLogger("bananas.limits")

PREFIX: Final = "limit/"
CONFIG: Final = "limit-config/"
HELD_BY: Final = "limit:"
IDLE_TTL: Final = 60.0
"""Seconds that a document stays after its state is as good as a new one."""
SLOTS_TTL: Final = 30 * 86_400.0

State = RateState | QuotaState | SlotState

_PLAIN: Final = re.compile(r"[A-Za-z0-9._@+-]{1,64}")
_HELD: Final = re.compile(r"limit:([^:#]+)(?::([^:#]+))?(?:#(\d+))?")
_state: Final[msgspec.json.Decoder[State]] = msgspec.json.Decoder(State)
_encode: Final = msgspec.json.Encoder().encode


class Want(msgspec.Struct, frozen=True, kw_only=True):
    """What a job asks of one limit. ``rule`` is the code's; a change at run time goes before."""

    name: str
    rule: Rule
    key: str = ""
    cost: int = 1

    @property
    def doc(self) -> str:
        return f"{PREFIX}{self.name}/{self.key}"


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A claim that is to start once all its limits let it. ``drop``: reserve nothing if not now.
    ``until``: for who is no job: until when its slots are its own."""

    id: str
    fence: int
    wants: tuple[Want, ...]
    gen: int = 0
    created_at: float = 0.0
    drop: bool = False
    until: float | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """``granted``: it may start now, until ``until``. Else ``by`` says which limit it waits for:
    ``firm``: its turn is at ``at`` and may be used until ``until``; not firm: ask again then.
    Instants are the ledger's."""

    granted: bool
    now: float
    at: float
    until: float
    by: Want | None = None
    change: int = 0
    firm: bool = True


class Config(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The value of ``limit-config/{name}``. ``rule`` None: as in the code again. ``change`` rises
    with each one, and turns that were reserved before it are void."""

    change: int
    rule: str | None = None
    by: str | None = None
    at: float = 0.0


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What ``Held.by`` says of a job that a limit holds back."""

    name: str
    key: str = ""
    change: int = 0


def key_token(key: str) -> str:
    """A key as part of a document's name: itself if it is plain, else a digest."""
    if _PLAIN.fullmatch(key):
        return key
    if not key:
        return ""
    return "~" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def held_by(turn: Turn) -> str:
    """``limit:api:42#3``: limit, key, change."""
    return (
        f"{HELD_BY}{turn.name}"
        + (f":{turn.key}" if turn.key else "")
        + (f"#{turn.change}" if turn.change else "")
    )


def turn_of(by: str) -> Turn | None:
    """The inverse of ``held_by``; None if it was no limit."""
    found = _HELD.fullmatch(by)
    if found is None:
        return None
    return Turn(name=found[1], key=found[2] or "", change=int(found[3] or 0))


def read_state(doc: Doc | None) -> State | None:
    """The state in a document; None if there is none that can be read."""
    if doc is None:
        return None
    try:
        return _state.decode(doc.value)
    except msgspec.MsgspecError:
        log.warning("limit document %s can't be read and begins anew", doc.key)
        return None


def read_config(doc: Doc | None) -> Config:
    """The change of a limit at run time; number 0 if there was none."""
    return Config(change=0) if doc is None else msgspec.json.decode(doc.value, type=Config)


def effective(want: Want, config: Config) -> Rule:
    """The code's rule, or what it was changed to at run time."""
    if config.rule is None:
        return want.rule
    try:
        rule = parse_rule(config.rule)
    except ConfigurationError as error:
        log.error("limit %s was set to what this program can't read: %s", want.name, error)
        return want.rule
    if isinstance(rule, Slots) != isinstance(want.rule, Slots):
        log.error("limit %s is %s and can't become %s", want.name, text_of(want.rule), config.rule)
        return want.rule
    return rule


def latest(rule: Rule, at: float) -> float:
    """Until when a turn may be used."""
    if isinstance(rule, Rate):
        return at + rate.lateness(rule)
    if isinstance(rule, Quota):
        return calendar.window(rule.unit, rule.tz, at)[1] - calendar.LAST_START
    return at


class Stale(Exception):
    """A limit was changed between two reads: read again."""


class Book:
    """What was read of some limits, and who changed what in it since.

    Decisions of a round change it; ``writes`` says what has to be written for them.
    """

    def __init__(self, wants: Iterable[Want], docs: Mapping[str, Doc | None], now: float) -> None:
        """Raises Stale."""
        self._wants = {want.doc: want for want in wants}
        self._docs = {key: docs.get(key) for key in self._wants}
        self._configs = {
            want.name: read_config(docs.get(CONFIG + want.name)) for want in self._wants.values()
        }
        self.rules = {key: self._rule(want) for key, want in self._wants.items()}
        self.states: dict[str, State] = {}
        self._clean: dict[str, State] = {}
        for key in self._wants:
            self._load(key, now)

    @staticmethod
    def keys(wants: Iterable[Want]) -> list[str]:
        """The documents to read."""
        keys = {want.doc for want in wants} | {CONFIG + want.name for want in wants}
        return sorted(keys)

    def change(self, want: Want) -> int:
        """The number of the limit's last change."""
        return self._configs[want.name].change

    def update(self, key: str, doc: Doc | None, now: float) -> None:
        """The document is now this. Raises Stale."""
        self._docs[key] = doc
        self._load(key, now)

    def writes(self, now: float) -> list[Write]:
        """What has changed since it was read."""
        changed = [key for key, state in self.states.items() if state != self._clean[key]]
        return [
            write_of(key, self.rules[key], self.states[key], self._docs[key], now)
            for key in changed
        ]

    # -- one job -------------------------------------------------------------------------------

    def decide(self, ask: Ask, now: float) -> tuple[Answer, list[tuple[Want, Offer]]]:
        """What a job is told, and what it took for that."""
        now = max([now, *(self.states[want.doc].now for want in ask.wants)])
        offers = [(want, self._offer(want, ask, now)) for want in ask.wants]
        late = [item for item in offers if item[1].at > now]
        if not late:
            for want, found in offers:
                self._take(want, ask, found, now)
            until = min((found.until for _, found in offers), default=float("inf"))
            return Answer(granted=True, now=now, at=now, until=until), offers
        # A slot can't be reserved, so nothing else is; of turns, only the last one is of use.
        want, found = min(late, key=lambda item: (item[1].firm, -item[1].at))
        change = self.change(want)
        if ask.drop:
            return _denied(want, change, now, now, now), []
        if found.firm:
            self._take(want, ask, found, now)
            return _denied(want, change, now, found.at, found.until), [(want, found)]
        at = self._wait(want, ask, found, now)
        return _denied(want, change, now, at, at, firm=False), []

    def undo(self, want: Want, ask: Ask, taken: Offer, now: float) -> None:
        """Give back what ``decide`` took."""
        rule, state = self.rules[want.doc], self.states[want.doc]
        if isinstance(rule, Rate) and isinstance(state, RateState):
            state = rate.give_back(rule, state, want.cost, taken.place, now)
        elif isinstance(rule, Quota) and isinstance(state, QuotaState):
            state = calendar.give_back(rule, state, want.cost, taken.place, now)
        elif isinstance(state, SlotState):
            state = slots.drop(state, {(ask.id, ask.fence)}, now)
        self.states[want.doc] = state

    def _offer(self, want: Want, ask: Ask, now: float) -> Offer:
        rule, state = self.rules[want.doc], self.states[want.doc]
        if isinstance(rule, Rate):
            assert isinstance(state, RateState)
            return rate.offer(rule, state, want.cost, now)
        if isinstance(rule, Quota):
            assert isinstance(state, QuotaState)
            return calendar.offer(rule, state, want.cost, now)
        assert isinstance(state, SlotState)
        return slots.offer(rule, state, ask.id, ask.fence, now)

    def _take(self, want: Want, ask: Ask, found: Offer, now: float) -> None:
        rule, state = self.rules[want.doc], self.states[want.doc]
        if isinstance(rule, Rate):
            assert isinstance(state, RateState)
            self.states[want.doc] = rate.take(rule, state, want.cost, found, now)
        elif isinstance(rule, Quota):
            assert isinstance(state, QuotaState)
            self.states[want.doc] = calendar.take(rule, state, want.cost, found, now)
        else:
            assert isinstance(state, SlotState)
            self.states[want.doc] = slots.take(state, ask.id, ask.fence, now, ask.until)

    def _wait(self, want: Want, ask: Ask, found: Offer, now: float) -> float:
        """When to ask again. Who is no job can't be called, and asks now and then."""
        rule, state = self.rules[want.doc], self.states[want.doc]
        assert isinstance(state, SlotState)
        assert not isinstance(rule, Rate | Quota)
        if ask.until is not None:
            return min(found.at, now + slots.SHORT_WAIT)
        waiter = Waiter(ask.created_at, ask.id, ask.gen + 1)
        self.states[want.doc], at = slots.wait(rule, state, waiter, now)
        return at

    # -- slots ---------------------------------------------------------------------------------

    def full(self, now: float) -> list[str]:
        """Documents of slots that are all taken."""
        return [
            key
            for key, state in self.states.items()
            if isinstance(state, SlotState)
            and not isinstance(rule := self.rules[key], Rate | Quota)
            and slots.full(rule, state, now)
        ]

    def holders(self, keys: Sequence[str]) -> set[tuple[str, int]]:
        """Claims that have slots in these."""
        found: set[tuple[str, int]] = set()
        for key in keys:
            state = self.states[key]
            if isinstance(state, SlotState):
                found |= {(h.id, h.fence) for h in state.holders if h.until is None}
        return found

    def drop(self, gone: Iterable[tuple[str, int]], now: float) -> None:
        """These have no slots any more, anywhere."""
        ended = set(gone)
        for key, state in self.states.items():
            if not isinstance(state, SlotState):
                continue
            if any((holder.id, holder.fence) in ended for holder in state.holders):
                self.states[key] = slots.drop(state, ended, now)

    def line_up(self, key: str, who: Waiter, now: float) -> None:
        """It waits in the ledger from now on."""
        state = self.states[key]
        if isinstance(state, SlotState):
            self.states[key] = slots.line_up(state, who, now)

    def measured(self, key: str, held: float) -> None:
        """How long a slot was held."""
        state = self.states[key]
        if isinstance(state, SlotState):
            self.states[key] = slots.measured(state, held)

    def call(self, now: float) -> dict[str, list[Waiter]]:
        """Promise free slots to who waits for them; who is to be woken, by document."""
        called: dict[str, list[Waiter]] = {}
        for key, state in self.states.items():
            rule = self.rules[key]
            if isinstance(state, SlotState) and not isinstance(rule, Rate | Quota):
                self.states[key], found = slots.call(rule, state, now)
                if found:
                    called[key] = found
        return called

    # -- reading -------------------------------------------------------------------------------

    def _rule(self, want: Want) -> Rule:
        return effective(want, self._configs[want.name])

    def _load(self, key: str, now: float) -> None:
        want, rule = self._wants[key], self.rules[key]
        state = read_state(self._docs[key])
        change, text = self.change(want), text_of(rule)
        if state is not None and state.change > change:
            raise Stale
        self.states[key] = _adopted(rule, state, text, change, now)
        self._clean[key] = self.states[key] if state is None else state


def write_of(key: str, rule: Rule, state: State, doc: Doc | None, now: float) -> Write:
    """Write a state over the document that it was made from. A document goes once its state is as
    good as a new one."""
    ttl = IDLE_TTL
    if isinstance(state, RateState):
        ttl += max(0.0, rate.idle_at(state) - now)
    elif isinstance(state, QuotaState) and isinstance(rule, Quota):
        ttl += max(0.0, calendar.idle_at(rule, state) - now)
    elif isinstance(state, SlotState) and (state.holders or state.waiters):
        ttl = SLOTS_TTL
    version = 0 if doc is None else doc.version
    return Write(key=key, value=_encode(state), version=version, ttl=ttl)


def _denied(
    by: Want, change: int, now: float, at: float, until: float, *, firm: bool = True
) -> Answer:
    return Answer(granted=False, now=now, at=at, until=until, by=by, change=change, firm=firm)


def _adopted(rule: Rule, state: State | None, text: str, change: int, now: float) -> State:
    """A state that fits the rule: a new one, the same, or what a change of the rule leaves."""
    same = state is not None and state.rule == text and state.change == change
    if isinstance(rule, Rate):
        if not isinstance(state, RateState):
            return RateState(rule=text, change=change)
        return state if same else rate.adopt(rule, state, text, change, now)
    if isinstance(rule, Quota):
        if not isinstance(state, QuotaState):
            return QuotaState(rule=text, change=change)
        return state if same else calendar.adopt(rule, state, text, change, now)
    if not isinstance(state, SlotState):
        return SlotState(rule=text, change=change)
    return state if same else slots.adopt(state, text, change)
