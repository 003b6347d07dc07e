"""The rules of limits: text, evenly spaced turns, calendar windows, slots."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bananas_core.errors import ConfigurationError
from bananas_core.limits import (
    Quota,
    Rate,
    Rule,
    Slots,
    Turn,
    calendar,
    held_by,
    key_token,
    parse_rule,
    rate,
    slots,
    text_of,
    turn_of,
)
from bananas_core.limits.calendar import QuotaState, window
from bananas_core.limits.rate import RateState
from bananas_core.limits.slots import Holder, SlotState, Waiter

NOW = 1_700_000_000.0
BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("100/s", Rate(count=100, period=1.0)),
        ("5/10s", Rate(count=5, period=10.0)),
        ("1000/min burst 50", Rate(count=1000, period=60.0, burst=50)),
        ("7/h", Rate(count=7, period=3600.0)),
        ("1000/day", Quota(count=1000, unit="day")),
        ("3/week Europe/Berlin", Quota(count=3, unit="week", tz="Europe/Berlin")),
        ("5 at once", Slots(count=5)),
    ],
)
def test_a_rule_is_what_its_text_says(text: str, rule: Rule) -> None:
    assert parse_rule(text) == rule
    assert parse_rule(text_of(rule)) == rule


@pytest.mark.parametrize(
    "text",
    [
        *("", "100", "0/s", "5/2days", "5/2day", "5/x", "-1/s", "1/0s", "2000 at once"),
        *("5 at once burst 2", "10/day burst 3", "10/s Europe/Berlin", "10/day Nowhere/Land"),
    ],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_rule(text)


def test_a_held_job_says_which_turn_it_has() -> None:
    for turn in (Turn(name="api"), Turn(name="api", key="42"), Turn(name="a", key="k", change=3)):
        assert turn_of(held_by(turn)) == turn
    assert turn_of("snooze") is None
    assert key_token("user@example.org") == "user@example.org"
    assert key_token("a b") == key_token("a b") != key_token("a:b")
    assert turn_of(held_by(Turn(name="api", key=key_token("ü#:x")))) is not None


# --- rates -----------------------------------------------------------------------------------


def ask(rule: Rate, state: RateState, cost: int, now: float) -> tuple[RateState, float, float]:
    """The state after asking, the turn and its slot."""
    offer = rate.offer(rule, state, cost, now)
    assert offer.at >= now
    return rate.take(rule, state, cost, offer, now), offer.at, offer.place


def fullest(starts: list[tuple[float, int]], period: float) -> int:
    """The most cost in a half-open window that begins with a start."""
    return max(
        sum(cost for at, cost in starts if begin <= at < begin + period) for begin, _ in starts
    )


RATES = st.builds(
    Rate,
    count=st.integers(1, 60),
    period=st.sampled_from([0.5, 1.0, 10.0, 60.0]),
    burst=st.integers(1, 12),
)
STEPS = st.lists(
    st.tuples(
        st.floats(0, 0.3),  # periods that pass
        st.integers(1, 3),  # cost
        st.floats(0, 1),  # how late it starts, of what is allowed
        st.sampled_from(["start", "start", "start", "give back", "lapse"]),
    ),
    min_size=1,
    max_size=120,
)


@settings(max_examples=150, deadline=None)
@given(rule=RATES, steps=STEPS)
def test_no_window_is_over_limit_and_burst(
    rule: Rate, steps: list[tuple[float, int, float, str]]
) -> None:
    state, now, starts = RateState(rule=text_of(rule)), NOW, []
    for passed, cost, late, what in steps:
        now += passed * rule.period
        cost = min(cost, rule.burst)
        state, at, place = ask(rule, state, cost, now)
        if what == "give back" and at > now:
            state = rate.give_back(rule, state, cost, place, now)
        elif what == "start" or at <= now:
            starts.append((at + late * rate.lateness(rule), cost))
    if starts:
        assert fullest(starts, rule.period) <= rule.count + rule.burst


@settings(max_examples=100, deadline=None)
@given(rule=RATES, steps=st.lists(st.tuples(st.floats(0, 0.1), st.booleans()), max_size=80))
def test_no_slot_is_given_twice(rule: Rate, steps: list[tuple[float, bool]]) -> None:
    state, now = RateState(rule=text_of(rule)), NOW
    held: list[tuple[float, float]] = []
    for passed, gives_back in steps:
        now += passed * rule.period
        state, at, place = ask(rule, state, 1, now)
        if gives_back and at > now:
            state = rate.give_back(rule, state, 1, place, now)
        else:
            held.append((place, place + rate.interval(rule)))
    held.sort()
    assert all(a[1] <= b[0] + 1e-5 for a, b in pairwise(held))


def test_nearly_all_of_a_rate_is_used() -> None:
    rule, state = Rate(count=50, period=1.0), RateState(rule="50/s")
    turns = []
    for _ in range(1000):
        state, at, _ = ask(rule, state, 1, NOW)
        turns.append(at)
    assert 0.95 * 50 <= 999 / (turns[-1] - turns[0]) <= 50


def test_a_burst_starts_at_once_after_a_pause_and_no_more() -> None:
    rule, state = Rate(count=10, period=1.0, burst=5), RateState(rule="10/s burst 5")
    for begin in (NOW, NOW + 100):
        turns = []
        for _ in range(7):
            state, at, _ = ask(rule, state, 1, begin)
            turns.append(at)
        assert turns[:5] == [begin] * 5
        assert turns[5] > begin + 0.09


def test_turns_that_nobody_used_are_not_made_up_for() -> None:
    rule, state = Rate(count=10, period=1.0), RateState(rule="10/s")
    for _ in range(100):
        state, _, _ = ask(rule, state, 1, NOW)
    turns = []
    for _ in range(20):
        state, at, _ = ask(rule, state, 1, NOW + 60)
        turns.append((at, 1))
    assert fullest(turns, 1.0) <= 11


def test_a_turn_given_back_is_the_next_one_taken() -> None:
    rule, state = Rate(count=10, period=1.0), RateState(rule="10/s")
    places = []
    for _ in range(10):
        state, at, place = ask(rule, state, 1, NOW)
        places.append((at, place))
    state = rate.give_back(rule, state, 1, places[4][1], NOW)
    state, at, _ = ask(rule, state, 1, NOW)
    assert at == pytest.approx(places[4][0])


def test_a_purged_backlog_leaves_nothing_to_wait_for() -> None:
    rule, state = Rate(count=10, period=1.0), RateState(rule="10/s")
    places = []
    for _ in range(500):
        state, _, place = ask(rule, state, 1, NOW)
        places.append(place)
    for place in places[1:][::2] + places[1:][1::2]:  # in any order, with a bounded list
        state = rate.give_back(rule, state, 1, place, NOW)
        assert len(state.free) <= rate.MOST_FREE
    _, at, _ = ask(rule, state, 1, NOW)
    assert at < NOW + 50


def test_time_never_goes_back_in_a_state() -> None:
    rule, state = Rate(count=10, period=1.0, burst=5), RateState(rule="10/s burst 5")
    for _ in range(5):
        state, _, _ = ask(rule, state, 1, NOW)
    offer = rate.offer(rule, state, 1, NOW - 3600)
    assert offer.at > NOW


def test_a_change_voids_what_was_reserved() -> None:
    rule, state = Rate(count=1, period=60.0), RateState(rule="1/min")
    for _ in range(100):
        state, _, place = ask(rule, state, 1, NOW)
    faster = Rate(count=100, period=1.0, burst=10)
    state = rate.adopt(faster, state, text_of(faster), 1, NOW)
    state, at, _ = ask(faster, state, 1, NOW)
    assert at < NOW + 0.2
    assert rate.give_back(faster, state, 1, place, NOW) is state


# --- calendar windows ------------------------------------------------------------------------


def at(zone: ZoneInfo, *parts: int, fold: int = 0) -> float:
    return datetime(*parts, tzinfo=zone, fold=fold).timestamp()  # type: ignore[arg-type,misc]


@pytest.mark.parametrize(
    ("unit", "zone", "inside", "start", "end", "hours"),
    [
        ("day", BERLIN, (2026, 3, 29, 12), (2026, 3, 29), (2026, 3, 30), 23),
        ("day", BERLIN, (2026, 10, 25, 12), (2026, 10, 25), (2026, 10, 26), 25),
        ("day", NEW_YORK, (2026, 3, 8, 1), (2026, 3, 8), (2026, 3, 9), 23),
        ("day", NEW_YORK, (2026, 11, 1, 23), (2026, 11, 1), (2026, 11, 2), 25),
        ("week", BERLIN, (2026, 3, 29, 23), (2026, 3, 23), (2026, 3, 30), 7 * 24 - 1),
        ("month", NEW_YORK, (2026, 11, 15), (2026, 11, 1), (2026, 12, 1), 30 * 24 + 1),
        ("month", BERLIN, (2026, 12, 31, 23), (2026, 12, 1), (2027, 1, 1), 31 * 24),
        ("hour", BERLIN, (2026, 3, 29, 1, 30), (2026, 3, 29, 1), (2026, 3, 29, 3), 1),
    ],
)
def test_windows_are_those_of_the_calendar(
    unit: str, zone: ZoneInfo, inside: tuple[int, ...], start: tuple[int, ...],
    end: tuple[int, ...], hours: int,
) -> None:  # fmt: skip
    found = window(unit, zone.key, at(zone, *inside))  # type: ignore[arg-type]
    assert found == (at(zone, *start), at(zone, *end))
    assert found[1] - found[0] == hours * 3600


def test_an_hour_that_comes_twice_is_two_windows() -> None:
    first, second = (at(BERLIN, 2026, 10, 25, 2, 30, fold=fold) for fold in (0, 1))
    one, two = window("hour", "Europe/Berlin", first), window("hour", "Europe/Berlin", second)
    assert one[1] == two[0]
    assert two[1] - one[0] == 2 * 3600


@settings(max_examples=200, deadline=None)
@given(
    unit=st.sampled_from(["hour", "day", "week", "month"]),
    zone=st.sampled_from(
        [
            *("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"),
            *("America/Sao_Paulo", "Asia/Kathmandu", "America/Havana"),
        ]
    ),
    when=st.datetimes(datetime(2005, 1, 1), datetime(2035, 1, 1)),
)
def test_windows_follow_each_other_without_gaps(unit: str, zone: str, when: datetime) -> None:
    instant = when.replace(tzinfo=UTC).timestamp()
    start, end = window(unit, zone, instant)  # type: ignore[arg-type]
    assert start <= instant < end
    assert window(unit, zone, start) == (start, end)  # type: ignore[arg-type]
    assert window(unit, zone, end - 0.001) == (start, end)  # type: ignore[arg-type]
    assert window(unit, zone, end)[0] == end  # type: ignore[arg-type]


@settings(max_examples=100, deadline=None)
@given(
    count=st.integers(1, 9),
    zone=st.sampled_from([BERLIN, NEW_YORK]),
    steps=st.lists(
        st.tuples(st.floats(0, 4 * 3600), st.integers(1, 3), st.booleans()), max_size=150
    ),
)
def test_no_calendar_window_has_more_than_its_count(
    count: int, zone: ZoneInfo, steps: list[tuple[float, int, bool]]
) -> None:
    """Over the days on which the clock changes, of Berlin and of New York."""
    rule = Quota(count=count, unit="day", tz=zone.key)
    for begin in (at(zone, 2026, 3, 6), at(zone, 2026, 3, 27), at(zone, 2026, 10, 23)):
        used: dict[object, int] = {}
        state, now = QuotaState(rule=text_of(rule)), begin
        for passed, cost, gives_back in steps:
            now += passed
            offer = calendar.offer(rule, state, cost, now)
            state = calendar.take(rule, state, cost, offer, now)
            assert now <= offer.at < offer.until
            if gives_back and offer.at > now:
                state = calendar.give_back(rule, state, cost, offer.place, now)
                continue
            day = datetime.fromtimestamp(offer.at, zone).date()
            assert datetime.fromtimestamp(offer.until, zone).date() == day
            used[day] = used.get(day, 0) + min(cost, count)
        assert len(state.spare) <= calendar.MOST_SPARE
        assert max(used.values(), default=0) <= count


def test_a_window_is_used_up_before_the_next_is_begun() -> None:
    rule, state = Quota(count=10, unit="day", tz="Europe/Berlin"), QuotaState(rule="10/day")
    now = at(BERLIN, 2026, 3, 28, 12)
    days = []
    for _ in range(30):
        offer = calendar.offer(rule, state, 1, now)
        state = calendar.take(rule, state, 1, offer, now)
        days.append(datetime.fromtimestamp(offer.at, BERLIN).day)
    assert days == [28] * 10 + [29] * 10 + [30] * 10


@pytest.mark.parametrize(("month", "day"), [(3, 29), (10, 25)])
def test_a_day_on_which_the_clock_changes_has_exactly_its_thousand(month: int, day: int) -> None:
    """Asked for twice a minute from noon of the day before on, which is more than is granted."""
    rule, state = Quota(count=1000, unit="day", tz="Europe/Berlin"), QuotaState(rule="1000/day")
    noon = at(BERLIN, 2026, month, day - 1, 12)
    turns = []
    for n in range(60 * 120):
        offer = calendar.offer(rule, state, 1, noon + 30.0 * n)
        state = calendar.take(rule, state, 1, offer, noon + 30.0 * n)
        turns.append(offer.at)
    used = Counter(datetime.fromtimestamp(turn, BERLIN).date() for turn in turns)
    assert [used[each] for each in sorted(used)] == [1000] * 7 + [200]
    assert sorted(used)[1].day == day


def test_nothing_is_granted_at_the_very_end_of_a_window() -> None:
    rule = Quota(count=10, unit="hour")
    end = at(ZoneInfo("UTC"), 2026, 1, 1, 13)
    offer = calendar.offer(rule, QuotaState(rule="10/hour"), 1, end - 0.1)
    assert offer.at >= end


def test_a_change_keeps_what_the_window_has_used() -> None:
    rule, state = Quota(count=10, unit="day"), QuotaState(rule="10/day")
    for _ in range(25):
        offer = calendar.offer(rule, state, 1, NOW)
        state = calendar.take(rule, state, 1, offer, NOW)
    wider = Quota(count=12, unit="day")
    state = calendar.adopt(wider, state, text_of(wider), 1, NOW)
    turns = []
    for _ in range(3):
        offer = calendar.offer(wider, state, 1, NOW)
        state = calendar.take(wider, state, 1, offer, NOW)
        turns.append(offer.at)
    assert turns[:2] == [NOW, NOW]
    assert turns[2] >= window("day", "UTC", NOW)[1]


# --- slots -----------------------------------------------------------------------------------


def test_slots_are_taken_and_freed() -> None:
    rule, state = Slots(count=2), SlotState(rule="2 at once", mean=5.0)
    for id in ("a", "b"):
        assert slots.offer(rule, state, id, 1, NOW).at == NOW
        state = slots.take(state, id, 1, NOW)
    assert slots.offer(rule, state, "a", 1, NOW).at == NOW  # it has one
    assert not slots.offer(rule, state, "c", 1, NOW).firm
    state, _ = slots.wait(rule, state, Waiter(NOW, "c", 2), NOW)
    state = slots.drop(state, {("a", 1)}, NOW)
    state, called = slots.call(rule, state, NOW)
    assert [waiter.id for waiter in called] == ["c"]
    assert slots.full(rule, state, NOW)  # it is promised
    assert slots.offer(rule, state, "c", 7, NOW).at == NOW
    assert not slots.full(rule, state, NOW + slots.PROMISE + 1)
    state = slots.take(state, "c", 7, NOW)
    assert set(state.holders) == {Holder("b", 1), Holder("c", 7)}


@settings(max_examples=100, deadline=None)
@given(
    count=st.integers(1, 5),
    steps=st.lists(st.tuples(st.integers(0, 30), st.booleans(), st.floats(0, 2)), max_size=150),
)
def test_never_more_holders_than_slots(count: int, steps: list[tuple[int, bool, float]]) -> None:
    rule, state, now = Slots(count=count), SlotState(rule="x"), NOW
    holding: set[str] = set()
    for number, ends, passed in steps:
        now, id = now + passed, str(number)
        if ends:
            holding.discard(id)
            state, _ = slots.call(rule, slots.drop(state, {(id, 1)}, now), now)
        elif slots.offer(rule, state, id, 1, now).at <= now:
            state = slots.take(state, id, 1, now)
            holding.add(id)
        else:
            state, again = slots.wait(rule, state, Waiter(now, id, 2), now)
            assert now < again <= now + slots.LONGEST_WAIT + 1
        assert len(holding) <= count
        assert len(state.holders) <= count
        assert len(state.waiters) <= slots.LINE


def test_the_line_has_the_oldest_and_a_bound() -> None:
    rule, state = Slots(count=1), slots.take(SlotState(rule="x"), "busy", 1, NOW)
    for n in reversed(range(500)):
        state, _ = slots.wait(rule, state, Waiter(NOW + n, f"job{n}", 2), NOW)
    assert [waiter.id for waiter in state.waiters] == [f"job{n}" for n in range(slots.LINE)]


def test_who_waits_only_a_moment_is_not_put_in_line() -> None:
    rule, state = Slots(count=1), slots.take(SlotState(rule="x", mean=0.1), "busy", 1, NOW)
    waits = []
    for n in range(10):
        state, again = slots.wait(rule, state, Waiter(NOW + n, f"job{n}", 2), NOW)
        waits.append(round(again - NOW, 3))
    assert waits[:5] == [0.1, 0.2, 0.3, 0.4, 0.5][: len(waits) - len(state.waiters)]
    assert len(state.waiters) == 5


def test_those_that_find_the_line_full_come_one_after_the_other() -> None:
    rule, state = Slots(count=2), SlotState(rule="x", mean=2.0)
    state = slots.take(slots.take(state, "a", 1, NOW), "b", 1, NOW)
    waits = []
    for n in range(300):
        state, again = slots.wait(rule, state, Waiter(NOW + n, f"job{n}", 2), NOW)
        waits.append(again - NOW)
    late = waits[slots.LINE :]
    assert late == sorted(late)
    assert late[-1] - late[0] > 50
    assert timedelta(seconds=late[-1]) < timedelta(minutes=5)
