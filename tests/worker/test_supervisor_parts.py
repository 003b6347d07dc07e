"""The supervisor's decisions and its work in the ledger, without processes."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from bananas_core import upkeep
from bananas_core.children import Child, restart_delay
from bananas_core.clock import SystemClock
from bananas_core.errors import ResultBackendUnavailable
from bananas_core.held import pack
from bananas_core.job import Cancel, ClaimBeat, RenewAnswer, RenewMode, Session
from bananas_core.link import frame
from bananas_core.pipe import (
    Bye,
    EndSession,
    Failed,
    FromChild,
    Hello,
    Work,
    to_bytes,
)
from bananas_core.upkeep import Pairs, end_session, renew_child
from tests.worker.conftest import eventually


def test_young_deaths_are_answered_more_and_more_slowly() -> None:
    delays = [restart_delay(deaths) for deaths in range(12)]
    assert delays[:5] == [0.0, 0.0, 0.1, 0.2, 0.4]
    assert max(delays) == 10.0
    assert delays == sorted(delays)


class Ledger:
    """Answers renewals; away while ``away``."""

    def __init__(self) -> None:
        self.away = False
        self.calls: list[tuple[RenewMode, list[ClaimBeat]]] = []
        self.tries = 0
        self.answer = RenewAnswer(now=0.0)

    async def renew(
        self, session: Session, claims: Sequence[ClaimBeat], *, mode: RenewMode
    ) -> RenewAnswer:
        self.tries += 1
        if self.away:
            raise ResultBackendUnavailable("away")
        self.calls.append((mode, list(claims)))
        return self.answer


class OnePair(Pairs):
    """Always the same ledger, and what was sent."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.backend = ledger
        self.fused = True

    async def get(self, hello: Hello) -> OnePair:  # type: ignore[override]
        return self


class Made:
    """A child whose process is a sleeping stranger, and the other end of its pipe."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
        )
        ours, self.theirs = socket.socketpair()
        self.child = Child(0, self.process, ours, SystemClock())

    def say(self, *messages: FromChild) -> None:
        for message in messages:
            self.theirs.sendall(frame(to_bytes(message)))

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()

    def close(self) -> None:
        self.end()
        self.child.gone()
        self.theirs.close()


@pytest.fixture
async def made(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Made]:
    monkeypatch.setattr(upkeep, "RETRY_EVERY", 0.01)
    made = Made()
    made.say(
        Hello(
            session=Session(id="s-1", name="worker"),
            broker_url="x://",
            result_backend_url=None,
            namespace="n",
            processes=1,
            grace=1.0,
        )
    )
    yield made
    made.close()


WORK = Work(
    count=3,
    held=pack([("a", 1), ("b", 1), ("c", 1)]),
    started=[(0, 1, None), (1, 1, 5.0)],
)


async def told(made: Made, *messages: FromChild) -> Child:
    """The child, once it has taken this in."""
    made.say(*messages)

    async def taken() -> bool:
        return ("a", 1) in made.child.held.claims()

    await eventually(taken)
    return made.child


async def test_only_what_ran_counts_as_a_death_when_a_child_crashes(made: Made) -> None:
    child = await told(made, WORK)
    made.say(Work(dropped=[(1, 1)]))
    made.end()
    assert child.gone()
    ledger = Ledger()
    await end_session(child, OnePair(ledger))
    assert ledger.calls == [(RenewMode.ENDED, [ClaimBeat(id="a", fence=1)])]
    await end_session(child, OnePair(ledger))
    assert len(ledger.calls) == 1, "ended twice"


async def test_the_end_of_a_dead_childs_claims_outlasts_an_outage(made: Made) -> None:
    child = await told(made, WORK)
    made.end()
    ledger = Ledger()
    ledger.away = True
    ending = asyncio.create_task(end_session(child, OnePair(ledger)))

    async def tried() -> bool:
        return ledger.tries >= 3

    await eventually(tried)
    assert not ending.done()
    ledger.away = False
    await asyncio.wait_for(ending, 5)
    assert len(ledger.calls[0][1]) == 2


async def test_a_late_job_is_guilty_and_its_neighbours_are_not(made: Made) -> None:
    child = await told(made, WORK)
    assert child.overdue(4.9) == ()
    late = child.overdue(5.0)
    assert late == (("b", 1),)
    child.kill(late)
    child.kill()
    assert child.deaths() == late


async def test_a_child_that_ends_in_good_order_has_no_deaths(made: Made) -> None:
    child = await told(made, WORK, Bye(reason="recycle"))
    made.end()
    assert child.gone()
    assert child.deaths() == ()


async def test_a_child_that_fails_by_itself_blames_no_job(made: Made) -> None:
    child = await told(made, WORK, Failed(error="the ledger refused"))
    made.end()
    assert child.gone()
    assert child.deaths() == ()


async def test_a_child_may_not_linger_after_its_last_word(made: Made) -> None:
    child = await told(made, WORK)
    assert not child.lingers(time.monotonic() + 1000)
    made.say(Bye(reason="recycle"))

    async def lingers() -> bool:
        return child.lingers(time.monotonic() + 1000)

    await eventually(lingers)
    assert not child.lingers(time.monotonic())


async def test_renewals_go_on_after_an_outage_and_bring_notices(made: Made) -> None:
    child = await told(made, WORK)
    ledger = Ledger()
    ledger.away = True
    renewing = asyncio.create_task(renew_child(child, OnePair(ledger), every=0.01))

    async def tried() -> bool:
        return ledger.tries >= 3

    await eventually(tried)
    assert made.process.poll() is None, "an outage is no reason to kill"
    ledger.answer = RenewAnswer(now=0.0, cancelled={"a": Cancel(at=1.0)}, lost=(("c", 1),))
    begun = time.monotonic()
    ledger.away = False

    async def confirmed() -> bool:
        assert child.renewer is not None
        return child.renewer.confirmed >= begun and ("c", 1) not in child.held.claims()

    await eventually(confirmed)
    made.theirs.settimeout(5)
    assert made.theirs.recv(1 << 16)
    made.say(EndSession())
    await asyncio.wait_for(renewing, 5)
    assert child.ended
    assert ledger.calls[-1] == (RenewMode.ENDED, [])


async def test_rubbish_in_the_pipe_ends_the_child(made: Made) -> None:
    child = await told(made, WORK)
    made.theirs.sendall(frame(b"rubbish"))

    async def gone() -> bool:
        return child.gone()

    await eventually(gone)
    assert child.deaths() == (), "nobody knows whose fault it was"
