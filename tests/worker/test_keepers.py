"""Keepers whose renewals don't depend on the worker's loop, and the pipe to the supervisor."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from bananas import Bananas
from bananas_core.clock import SystemClock
from bananas_core.errors import ResultBackendError, ResultBackendUnavailable
from bananas_core.held import pack
from bananas_core.job import Cancel, Claim, Session, VerdictKind
from bananas_core.keepers import ThreadKeeper
from bananas_core.link import MOST, BrokenFrame, Frames, Link, frame
from bananas_core.pair import load_pair
from bananas_core.pipe import (
    Beat,
    Confirmed,
    EndSession,
    FromChild,
    FromParent,
    Hello,
    PipeKeeper,
    SessionEnded,
    Stop,
    Work,
    from_child,
    to_bytes,
)
from tests.worker.conftest import eventually
from tests.worker.test_isolate import claim_of

SESSION = Session(id="s-1", name="worker")


# -- frames and links ------------------------------------------------------------------------------


def test_frames_are_cut_out_of_any_pieces() -> None:
    bodies = [b"", b"a", b"b" * 300]
    stream = b"".join(frame(body) for body in bodies)
    for size in (1, 3, 7, len(stream)):
        frames = Frames()
        found: list[bytes] = []
        for begin in range(0, len(stream), size):
            found += frames.feed(stream[begin : begin + size])
        assert found == bodies


def test_a_length_that_nobody_sends_is_refused() -> None:
    with pytest.raises(BrokenFrame):
        list(Frames().feed((MOST + 1).to_bytes(4, "little")))


async def test_a_full_pipe_blocks_nobody_and_loses_nothing() -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    got: list[bytes] = []
    link = Link(ours, received=got.append, closed=lambda: None)
    body = b"x" * 10_000
    begun = time.monotonic()
    for _ in range(500):
        link.send(body)
    assert time.monotonic() - begun < 1.0
    assert link.unsent > 0
    frames, found = Frames(), 0
    end = time.monotonic() + 5
    while found < 500 and time.monotonic() < end:
        try:
            found += len(list(frames.feed(theirs.recv(1 << 16))))
        except BlockingIOError:
            await asyncio.sleep(0.001)
    assert found == 500
    assert link.unsent == 0
    link.close()
    theirs.close()


async def test_a_link_that_rests_reads_all_and_is_woken_seldom() -> None:
    ours, theirs = socket.socketpair()
    got: list[bytes] = []
    wakes: list[int] = []
    ends: list[bool] = []

    def take(body: bytes) -> None:
        got.append(body)

    link = Link(ours, received=take, closed=lambda: ends.append(True), rest=0.02)
    begun = time.monotonic()
    for number in range(200):
        theirs.sendall(frame(b"%d" % number))
        before = len(got)
        await asyncio.sleep(0.0005)
        if len(got) > before:
            wakes.append(len(got))

    async def all_read() -> bool:
        return len(got) == 200

    await eventually(all_read)
    assert got == [b"%d" % number for number in range(200)]
    assert len(wakes) <= 2 + (time.monotonic() - begun) / 0.02
    theirs.sendall(frame(b"last"))
    theirs.close()

    async def ended() -> bool:
        return bool(ends)

    await eventually(ended)
    assert got[-1] == b"last"
    assert ends == [True]
    assert not link.open


# -- the pipe's keeper -----------------------------------------------------------------------------


class Parent:
    """The supervisor's end of the pipe, read without any loop."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._frames = Frames()
        sock.setblocking(False)

    def read(self) -> list[FromChild]:
        try:
            return [from_child(body) for body in self._frames.feed(self._sock.recv(1 << 16))]
        except BlockingIOError:
            return []

    def tell(self, message: FromParent) -> None:
        self._sock.sendall(frame(to_bytes(message)))

    def close(self) -> None:
        self._sock.close()


class Ends:
    def __init__(self, keeper: PipeKeeper, parent: Parent, stops: list[bool]) -> None:
        self.keeper = keeper
        self.parent = parent
        self.stops = stops


def hello(session: Session) -> Hello:
    return Hello(
        session=session,
        broker_url="sqlite://",
        result_backend_url=None,
        namespace="n",
        processes=1,
        grace=1.0,
    )


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    ours, theirs = socket.socketpair()
    stops: list[bool] = []
    keeper = PipeKeeper(ours, SystemClock(), hello=hello, memory=lambda: 7, stop=stops.append)
    parent = Parent(theirs)
    starting = asyncio.create_task(keeper.start(SESSION))
    told: list[FromChild] = []

    async def said() -> bool:
        told.extend(parent.read())
        return bool(told)

    await eventually(said)
    assert told == [hello(SESSION)]
    assert not starting.done(), "before the first renewal a worker must not claim"
    parent.tell(Confirmed(at=time.monotonic()))
    await starting
    yield Ends(keeper, parent, stops)
    keeper.close()
    parent.close()


async def test_a_start_is_in_the_pipe_before_the_body_runs(ends: Ends) -> None:
    claim = claim_of("t")
    seen: list[FromChild] = []

    async def body() -> None:
        seen.extend(ends.parent.read())

    ends.keeper.hold([claim])
    ends.keeper.started([(claim.id, 1, 5.0)])
    await asyncio.create_task(body())
    held = pack([(claim.id, 1)])
    assert seen == [Work(first=0, count=1, held=held, started=[(0, 1, 5.0)])]


async def test_confirmations_count_although_the_loop_was_blocked(ends: Ends) -> None:
    at = time.monotonic() + 100  # later than any look at the clock: the old one is stale then
    cancel = Cancel(at=1.0, reason="enough")
    ends.parent.tell(Confirmed(at=at, cancelled=[("a", 1, cancel)], lost=[("b", 2)]))
    # No await here: the loop had no chance to read.
    notices = ends.keeper.notices()
    assert ends.keeper.confirmed() == at
    assert notices.cancelled == {("a", 1): cancel}
    assert notices.lost == {("b", 2)}
    assert ends.keeper.notices().lost == frozenset()


async def test_the_parent_may_stop_its_child_and_its_end_stops_it_at_once(ends: Ends) -> None:
    ends.parent.tell(Stop())

    async def told() -> bool:
        return ends.stops == [False]

    await eventually(told)
    ends.parent.close()

    async def orphaned() -> bool:
        return ends.stops == [False, True]

    await eventually(orphaned)
    assert ends.keeper.orphaned
    ends.keeper.drop([("a", 1)])  # harmless now
    await asyncio.wait_for(ends.keeper.stop(), 1)


async def test_the_session_ends_when_the_parent_says_so(ends: Ends) -> None:
    claim = claim_of("t")
    ends.keeper.hold([claim])
    ends.keeper.drop([(claim.id, 1)])
    stopping = asyncio.create_task(ends.keeper.stop())
    told: list[FromChild] = []

    async def asked() -> bool:
        told.extend(ends.parent.read())
        return len(told) == 2

    await eventually(asked)
    assert told == [Work(count=1, held=pack([(claim.id, 1)]), dropped=[(0, 1)]), EndSession()]
    assert not stopping.done()
    ends.parent.tell(SessionEnded())
    await asyncio.wait_for(stopping, 1)


async def test_signs_of_life_are_sent_once_a_second(ends: Ends) -> None:
    for free in range(50):
        ends.keeper.describe(free, 3)
    assert ends.parent.read() == [Beat(free=0, done=3, memory=7)]


async def test_a_parent_that_is_gone_at_the_start_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    keeper = PipeKeeper(ours, SystemClock(), hello=hello, memory=lambda: 0, stop=lambda now: None)
    theirs.close()
    with pytest.raises(ResultBackendUnavailable):
        await keeper.start(SESSION)


def test_something_else_than_a_message_is_refused() -> None:
    with pytest.raises(msgspec.MsgspecError):
        from_child(b"\xc1")


# -- the thread's keeper ---------------------------------------------------------------------------


async def claimed(app: Bananas, url: str) -> tuple[ThreadKeeper, Claim]:
    """A started keeper that holds one claim."""
    keeper = ThreadKeeper(lambda: load_pair(url, None, "bananas"), SystemClock(), every=0.05)
    await keeper.start(SESSION)
    await app.submit_job("any")
    (received,) = await app.transport.receive_claimed(SESSION.id, ["default"], 1, 5.0)
    assert received.verdict is not None
    assert received.verdict.kind is VerdictKind.RUN
    assert received.verdict.claim is not None
    keeper.hold([received.verdict.claim])
    return keeper, received.verdict.claim


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'jobs.db'}"


async def test_a_thread_renews_while_the_loop_is_blocked(url: str) -> None:
    async with Bananas(url) as app:
        keeper, _ = await claimed(app, url)
        before = keeper.confirmed()
        end = time.monotonic() + 5
        while keeper.confirmed() < before + 0.1:  # this very thread blocks the loop
            assert time.monotonic() < end
            time.sleep(0.01)  # noqa: ASYNC251 - the fault itself
        keeper.describe(3, 4)

        async def described() -> bool:
            (record,) = await app.backend.sessions()
            return (record.session.free, record.session.done, record.claims) == (3, 4, 1)

        await eventually(described)
        await keeper.stop()


async def test_a_thread_brings_cancels_and_ends_the_session(url: str) -> None:
    async with Bananas(url) as app:
        keeper, claim = await claimed(app, url)
        keeper.started([(claim.id, claim.fence, None)])
        await (await app.get_job(claim.id)).cancel(reason="enough")
        found: dict[tuple[str, int], Cancel] = {}

        async def heard() -> bool:
            found.update(keeper.notices().cancelled)
            return bool(found)

        await eventually(heard)
        assert found[(claim.id, claim.fence)].reason == "enough"
        await keeper.stop()
        assert await app.backend.sessions() == []
        (job,) = await app.backend.get([claim.id])
        assert job is not None
        assert job.deaths == 0, "what an embedded worker gives up on stopping is no death"


async def test_an_abandoned_session_is_renewed_no_more(url: str) -> None:
    async with Bananas(url) as app:
        keeper, _ = await claimed(app, url)
        keeper.abandon()
        keeper.abandon()

        async def quiet() -> bool:
            return not any(t.name == "bananas-renew" for t in threading.enumerate())

        await eventually(quiet)
        (record,) = await app.backend.sessions()
        assert record.claims == 1, "its claims were ended: a crash doesn't do that"
        await keeper.stop()


async def test_a_thread_that_cannot_connect_says_so(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}"  # a folder is no database
    keeper = ThreadKeeper(lambda: load_pair(url, None, "bananas"), SystemClock())
    with pytest.raises(ResultBackendError):
        await keeper.start(SESSION)
    await keeper.stop()
