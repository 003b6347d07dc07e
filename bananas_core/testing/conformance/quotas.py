"""Topic: limits on what starts, which the core keeps in documents (promises Q1, Q2, …)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import msgspec

from bananas_core.clock import SystemClock
from bananas_core.job import Claim, JobState, OutcomeKind, Ready, Write
from bananas_core.limits import (
    Answer,
    Ask,
    Limiter,
    Quota,
    Rate,
    Release,
    Slots,
    Turn,
    Waiter,
    Want,
)
from bananas_core.limits.book import read_state
from bananas_core.limits.calendar import QuotaState
from bananas_core.limits.rate import lateness
from bananas_core.limits.views import look, set_rule
from bananas_core.results import ResultBackend
from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.marks import promise
from bananas_core.testing.conformance.support import (
    Suite,
    finish_one,
    record,
    started,
    state_of,
)

RATE = Want(name="api", rule=Rate(count=20, period=1.0))
DAY = Want(name="daily", rule=Quota(count=5, unit="day", tz="Europe/Berlin"))
TWO = Want(name="two", key="k", rule=Slots(count=2))


def limiter(backend: ResultBackend, seed: int = 1) -> Limiter:
    """A client of its own."""
    return Limiter(backend, SystemClock(), random.Random(seed))


def asks(count: int, *wants: Want, prefix: str = "job") -> list[Ask]:
    """So many jobs that want this."""
    return [Ask(id=f"{prefix}{n}", fence=1, gen=1, wants=wants) for n in range(count)]


async def ask_one(client: Limiter, claim: Claim, *wants: Want, drop: bool = False) -> Answer:
    """The answer for a claim."""
    (answer,) = await client.ask(
        [
            Ask(
                id=claim.id,
                fence=claim.fence,
                gen=claim.gen,
                created_at=claim.created_at,
                wants=wants,
                drop=drop,
            )
        ]
    )
    return answer


class Limiting(Suite):
    @promise("Q1")
    async def test_time_never_goes_back_in_a_limit(self, harness: Harness) -> None:
        backend = await harness.backend()
        await limiter(backend).ask(asks(1, RATE))
        (doc,) = await backend.get_docs([RATE.doc])
        state = read_state(doc)
        assert state is not None
        assert abs(state.now - await backend.now()) < 5
        ahead = msgspec.structs.replace(state, now=state.now + 100)
        await backend.cas([Write(key=RATE.doc, value=msgspec.json.encode(ahead))])
        (answer,) = await limiter(backend).ask(asks(1, RATE))
        assert answer.at >= ahead.now

    @promise("Q2", "Q3")
    async def test_no_turn_is_given_twice(self, harness: Harness) -> None:
        clients = [limiter(await harness.backend(), n) for n in range(3)]
        racers = harness.limits.racers
        found = await asyncio.gather(
            *(clients[n % 3].ask(asks(10, RATE, prefix=f"{n}-")) for n in range(racers))
        )
        turns = sorted(answer.at for answers in found for answer in answers)
        assert len(turns) == 10 * racers
        gaps = [b - a for a, b in pairwise(turns)]
        assert min(gaps) > 0.05 * 0.99, "two turns are closer than the limit's interval"
        assert sum(answer.granted for answers in found for answer in answers) >= 1
        for answers in found:
            for answer in answers:
                assert answer.until - answer.at <= lateness(RATE.rule) + 1e-3  # type: ignore[arg-type]
            assert [a.at for a in answers] == sorted(a.at for a in answers)
        taken = (turns[-1] - turns[0]) / len(gaps)
        assert taken <= 0.05 / 0.95, "less than 95 % of the limit is given out"

    @promise("Q2")
    async def test_a_burst_is_granted_once(self, harness: Harness) -> None:
        want = Want(name="bursty", rule=Rate(count=10, period=60.0, burst=5))
        clients = [limiter(await harness.backend(), n) for n in range(3)]
        found = await asyncio.gather(
            *(client.ask(asks(5, want, prefix=f"{n}-")) for n, client in enumerate(clients))
        )
        assert sum(answer.granted for answers in found for answer in answers) == 5

    @promise("Q4")
    async def test_after_a_pause_nothing_is_made_up_for(self, harness: Harness) -> None:
        client = limiter(await harness.backend())
        short = Want(name="short", rule=Rate(count=20, period=0.2))
        await client.ask(asks(20, short))
        await harness.advance(2.0)
        answers = await client.ask(asks(20, short, prefix="late"))
        assert sum(answer.granted for answer in answers) == 1

    @promise("Q5")
    async def test_a_calendar_window_is_never_overfull(self, harness: Harness) -> None:
        clients = [limiter(await harness.backend(), n) for n in range(3)]
        found = await asyncio.gather(
            *(clients[n % 3].ask(asks(4, DAY, prefix=f"{n}-")) for n in range(6))
        )
        zone = msgspec.structs.asdict(DAY.rule)["tz"]
        days = Counter(_day(answer.at, zone) for answers in found for answer in answers)
        assert sum(days.values()) == 24
        assert max(days.values()) <= 5
        assert sorted(days.values())[:-4:-1] == [5, 5, 5]

    @promise("Q5")
    async def test_a_calendar_window_is_exact_when_the_clock_changes(
        self, harness: Harness
    ) -> None:
        """The day of 25 hours in Berlin, as the ledger's time would be then: a state that is
        ahead of the ledger's clock makes it so."""
        client = limiter(backend := await harness.backend())
        zone = ZoneInfo("Europe/Berlin")
        year = datetime.fromtimestamp(await backend.now(), zone).year + 1
        days = (date(year, 10, 31) - timedelta(n) for n in range(7))
        sunday = next(day for day in days if day.isoweekday() == 7)
        midnight = datetime(sunday.year, sunday.month, sunday.day, tzinfo=zone)
        begun = QuotaState(rule="5/day Europe/Berlin", now=(midnight.timestamp() + 1800))
        await backend.cas([Write(key=DAY.doc, value=msgspec.json.encode(begun))])
        found = [_day(a.at, zone.key) for a in await client.ask(asks(3, DAY))]
        (doc,) = await backend.get_docs([DAY.doc])
        state = read_state(doc)
        assert state is not None
        late = msgspec.structs.replace(state, now=midnight.replace(hour=23).timestamp())
        await backend.cas([Write(key=DAY.doc, value=msgspec.json.encode(late))])
        found += [_day(a.at, zone.key) for a in await client.ask(asks(12, DAY, prefix="late"))]
        assert found == [sunday + timedelta(n) for n in range(3) for _ in range(5)]

    @promise("Q6")
    async def test_never_more_holders_than_slots(self, harness: Harness) -> None:
        backends = [await harness.backend() for _ in range(3)]
        clients = [limiter(backend, n) for n, backend in enumerate(backends)]
        session = harness.session()
        claims = [await started(backends[0], session) for _ in range(harness.limits.racers)]
        answers = await asyncio.gather(
            *(ask_one(clients[n % 3], claim, TWO) for n, claim in enumerate(claims))
        )
        assert sum(answer.granted for answer in answers) == 2
        assert not any(answer.firm for answer in answers if not answer.granted)
        await harness.advance(1.5)
        again = await ask_one(limiter(backends[1]), await started(backends[0], session), TWO)
        assert not again.granted, "a live holder's slot was taken"

    @promise("Q6")
    async def test_the_slot_of_a_dead_holder_is_free(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        one, two, third = [await started(backend, session) for _ in range(3)]
        for claim in (one, two):
            assert (await ask_one(limiter(backend), claim, TWO)).granted
        await finish_one(backend, one, OutcomeKind.DIED)  # nobody released anything
        assert (await ask_one(limiter(backend), third, TWO)).granted
        (view,) = await look(backend, "two")
        assert set(view.holders) == {two.id, third.id}

    @promise("Q7")
    async def test_a_free_slot_goes_to_the_oldest_that_waits(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        sent: list[Ready] = []

        async def send(ready: Sequence[Ready]) -> None:
            sent.extend(ready)

        client = Limiter(backend, SystemClock(), random.Random(1), send=send)
        want = Want(name="one", rule=Slots(count=1))
        holder, *others = [await started(backend, session) for _ in range(4)]
        assert (await ask_one(client, holder, want)).granted
        for claim in reversed(others):
            assert not (await ask_one(client, claim, want)).granted
            await finish_one(backend, claim, OutcomeKind.SNOOZE, delay=600.0, held_by="limit:one")
        (view,) = await look(backend, "one")
        await finish_one(backend, holder)
        await client.release([Release(id=holder.id, fence=holder.fence, wants=(want,))])
        states = [await state_of(backend, claim.id) for claim in others]
        assert view.waiters == 3
        oldest = min(others, key=lambda claim: (claim.created_at, claim.id))
        assert [ready.id for ready in sent] == [oldest.id]
        assert states.count(JobState.PENDING) == 1

    @promise("Q7")
    async def test_who_was_called_too_early_is_called_again(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        client = limiter(backend)
        want = Want(name="one", rule=Slots(count=1))
        holder, denied = [await started(backend, session) for _ in range(2)]
        assert (await ask_one(client, holder, want)).granted
        assert not (await ask_one(client, denied, want)).granted
        # The slot becomes free before the ledger has heard that the other one waits.
        await finish_one(backend, holder)
        await client.release([Release(id=holder.id, fence=holder.fence, wants=(want,))])
        await finish_one(backend, denied, OutcomeKind.SNOOZE, delay=600.0, held_by="limit:one")
        assert await state_of(backend, denied.id) is JobState.SCHEDULED
        who = Waiter(denied.created_at, denied.id, denied.gen + 1)
        await client.line_up([(want, who)])
        assert await state_of(backend, denied.id) is JobState.PENDING
        await client.line_up([(want, who)])  # safe to repeat
        (view,) = await look(backend, "one")
        assert view.waiters <= 1

    @promise("Q8")
    async def test_a_turn_given_back_is_used_again(self, harness: Harness) -> None:
        client = limiter(await harness.backend())
        want = Want(name="slow", rule=Rate(count=60, period=60.0))
        answers = await client.ask(asks(10, want))
        assert await client.give_back(Turn(name="slow"), answers[5].at)
        (again,) = await client.ask(asks(1, want, prefix="new"))
        assert abs(again.at - answers[5].at) < 1e-3
        daily = await client.ask(asks(12, DAY))
        assert await client.give_back(Turn(name="daily"), daily[7].at)
        (again,) = await client.ask(asks(1, DAY, prefix="new"))
        assert _day(again.at, "Europe/Berlin") == _day(daily[7].at, "Europe/Berlin")

    @promise("Q9")
    async def test_of_several_limits_all_must_grant(self, harness: Harness) -> None:
        backend = await harness.backend()
        client = limiter(backend)
        slow = Want(name="slow", rule=Rate(count=1, period=600.0))
        first = await client.ask(asks(1, slow, RATE))
        assert first[0].granted
        denied = await client.ask(asks(3, slow, RATE, prefix="later"))
        assert [answer.by for answer in denied] == [slow] * 3
        await harness.advance(0.2)
        (free,) = await client.ask(asks(1, RATE, prefix="other"))
        assert free.granted, "a turn was kept that can't be used"

    @promise("Q10")
    async def test_a_change_counts_from_the_next_asking(self, harness: Harness) -> None:
        backend = await harness.backend()
        client = limiter(backend)
        slow = Want(name="slow", rule=Rate(count=1, period=600.0))
        old = await client.ask(asks(5, slow))
        await set_rule(backend, "slow", Rate(count=100, period=1.0), by="tester")
        new = await client.ask(asks(5, slow, prefix="new"))
        assert new[-1].at - new[-1].now < 5
        assert {answer.change for answer in new if not answer.granted} == {1}
        assert not await client.give_back(Turn(name="slow"), old[4].at)
        await set_rule(backend, "slow", None, by="tester")
        last = await client.ask(asks(2, slow, prefix="last"))
        assert last[-1].at - last[-1].now > 500

    @promise("Q11")
    async def test_a_limit_does_not_grow_with_its_backlog(self, harness: Harness) -> None:
        backend = await harness.backend()
        client, session = limiter(backend), harness.session()
        holders = [await started(backend, session) for _ in range(2)]
        for claim in holders:
            await ask_one(client, claim, TWO)
        sizes: dict[str, list[int]] = {}
        for round_ in range(3):
            wanted = asks(200, RATE, prefix=f"r{round_}-") + asks(200, DAY, prefix=f"d{round_}-")
            await client.ask(wanted + asks(200, TWO, prefix=f"s{round_}-"))
            for doc in await backend.docs("limit/"):
                sizes.setdefault(doc.key, []).append(len(doc.value))
        assert len(sizes) == 3
        assert all(after[-1] <= after[0] * 1.2 for after in sizes.values())
        assert all(after[-1] < 8192 for after in sizes.values())

    @promise("Q12")
    async def test_looking_has_no_effect(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        client = limiter(backend)
        claim = await started(backend, session)
        await ask_one(client, claim, TWO)
        await client.ask(asks(5, RATE) + asks(7, DAY))
        before = [(doc.key, doc.version) for doc in await backend.docs("limit")]
        views = {view.name: view for view in await look(backend)}
        assert (views["two"].used, views["two"].holders) == (1, (claim.id,))
        assert views["api"].rule == "20/s"
        assert (views["daily"].used, views["daily"].waiters) == (5, 2)
        assert views["daily"].next_turn is not None
        assert [(doc.key, doc.version) for doc in await backend.docs("limit")] == before
        assert (await record(backend, claim.id)).state is JobState.PROCESSING


def _day(at: float, zone: str) -> object:
    return datetime.fromtimestamp(at, UTC).astimezone(ZoneInfo(zone)).date()
