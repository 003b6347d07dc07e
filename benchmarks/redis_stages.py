"""``python -m benchmarks.redis_stages [--jobs N] [--rounds N] [--json FILE]``: the processor time
of one short job, stage by stage, each measured alone and with nothing else under way.

Stages of the worker run without those around them: its core with claims that are made up and
outcomes that are accepted at once, the driver without a worker. What the sum lacks of a real drain
is what processes do to each other: wake-ups, caches, reading in smaller pieces.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from unittest import mock

from bananas import Bananas
from bananas_core.clock import SystemClock
from bananas_core.held import NumberedClaims
from bananas_core.job import (
    Claim,
    FinishAnswer,
    JobState,
    Outcome,
    OutcomeKind,
    RenewMode,
    Session,
    Verdict,
    VerdictKind,
)
from bananas_core.link import Frames
from bananas_core.pipe import Hello, PipeKeeper, Work, from_child
from bananas_core.renew import LoopKeeper
from bananas_core.transport import Received
from bananas_core.worker import Worker, WorkerOptions
from benchmarks.lab import processor
from integration.servers import RedisServer

BATCH: Final = 100
SESSION: Final = Session(id="s", name="stages", routing_keys=("default",), slots=BATCH, free=BATCH)
Figures = dict[str, float]


async def noop(number: int, blob: str = "") -> int:
    return number


def batches(count: int) -> Iterator[range]:
    for first in range(0, count, BATCH):
        yield range(first, min(count, first + BATCH))


def made_up(numbers: range) -> list[Claim]:
    """Claims like those of a drain."""
    return [
        Claim(
            id=f"{number:032x}",
            fence=numbers[0] + 1,
            gen=1,
            name="noop",
            routing_key="default",
            priority=50,
            attempt=1,
            failures=0,
            deaths=0,
            max_attempts=3,
            created_at=1.0,
            at=1.0,
            message=b'{"v":1,"id":"%032x","name":"noop","payload":{"number":%d,"blob":""},'
            b'"created_at":"2026-11-25T10:00:00.123456Z","put":true}' % (number, number),
        )
        for number in numbers
    ]


def success(claim: Claim) -> Outcome:
    return Outcome(
        id=claim.id,
        fence=claim.fence,
        kind=OutcomeKind.COMPLETED,
        result=b'{"v":%d}' % claim.fence,
        ran=1e-5,
    )


async def bare_tasks(count: int) -> float:
    """An asyncio task a job, and nothing else."""
    loop = asyncio.get_running_loop()

    async def body() -> int:
        return 1

    begun = time.process_time()
    for some in batches(count):
        tasks = [loop.create_task(body()) for _ in some]
        await tasks[-1]
    return time.process_time() - begun


async def core(count: int) -> float:
    """From claims to outcomes in the worker: start, run, encode, collect."""
    app, clock = Bananas("memory://stages"), SystemClock()
    app.task(name="noop")(noop)
    ready = [made_up(some) for some in batches(count)]
    ready.reverse()

    async def receive(*_: Any) -> list[Received]:
        await asyncio.sleep(0 if ready else 1)
        claims = ready.pop() if ready else []
        return [Received(verdict=Verdict(kind=VerdictKind.RUN, id=c.id, claim=c)) for c in claims]

    async def finish(outcomes: Sequence[Outcome]) -> tuple[list[FinishAnswer], list[Any]]:
        await asyncio.sleep(0)
        state = JobState.COMPLETED
        return [FinishAnswer(id=o.id, accepted=True, state=state) for o in outcomes], []

    async with app:
        pair = app.pair
        assert pair is not None
        keeper = LoopKeeper(app.backend, clock)
        worker = Worker(app, WorkerOptions(concurrency=BATCH), keeper=keeper, clock=clock)
        with (
            mock.patch.object(pair.transport, "receive_claimed", receive),
            mock.patch.object(pair.backend, "finish", finish),
        ):
            begun = time.process_time()
            running = asyncio.ensure_future(worker.run())
            while worker.done < count:
                await asyncio.sleep(0.02)
            took = time.process_time() - begun
        worker.stop()
        await running
    return took


async def telling(count: int) -> tuple[float, float]:
    """What a child tells of its claims, and what the supervisor makes of it."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    keeper = PipeKeeper(
        ours, SystemClock(), hello=lambda _: Hello.__new__(Hello), memory=int, stop=lambda _: None
    )
    told = supervised = 0.0
    frames, held = Frames(), NumberedClaims()
    for some in batches(count):
        claims = made_up(some)
        begun = time.process_time()
        keeper.hold(claims)
        keeper.started([(claim.id, claim.fence, None) for claim in claims])
        keeper.drop([(claim.id, claim.fence) for claim in claims])
        await asyncio.sleep(0)
        between = time.process_time()
        told += between - begun
        for body in frames.feed(theirs.recv(1 << 16)):
            work = from_child(body)
            assert isinstance(work, Work)
            held.hold(work.first, work.count, work.held)
            for start in work.started:
                held.started(*start)
            for run in work.dropped:
                held.dropped(*run)
        supervised += time.process_time() - between
    assert not held.claims()
    keeper.close()
    theirs.close()
    return told, supervised


def server_time(server: RedisServer) -> float:
    cpu = server.info("cpu")
    return float(cpu["used_cpu_user_main_thread"]) + float(cpu["used_cpu_sys_main_thread"])


async def driver(server: RedisServer, count: int) -> Figures:
    """Submit, receive and finish in batches of 100: in the calling process and in the server."""
    app, found = Bananas(server.url, namespace=f"stages-{time.monotonic_ns()}"), Figures()
    task = app.task(name="noop")(noop)

    async def stage(name: str, work: Callable[[], Awaitable[None]]) -> None:
        ours, theirs = time.process_time(), server_time(server)
        await work()
        found[f"{name}: client"] = time.process_time() - ours
        found[f"{name}: server"] = server_time(server) - theirs

    async with app:
        pair = app.pair
        assert pair is not None
        claimed: list[list[Claim]] = []

        async def submit() -> None:
            for some in batches(count):
                await task.submit_many([{"number": number, "blob": ""} for number in some])

        async def receive() -> None:
            while some := await pair.transport.receive_claimed("s", ["default"], BATCH, 0):
                claimed.append([r.verdict.claim for r in some if r.verdict and r.verdict.claim])

        async def finish() -> None:
            for outcomes in ended:
                answers, _ = await pair.backend.finish(outcomes)
                assert all(answer.accepted for answer in answers)

        await pair.backend.renew(SESSION, [], mode=RenewMode.FULL)
        await stage("submit", submit)
        await stage("receive and claim", receive)
        ended = [[success(claim) for claim in claims] for claims in claimed]
        assert sum(map(len, ended)) == count
        await stage("finish", finish)
        await app.backend.erase()  # type: ignore[attr-defined]
    return found


async def once(server: RedisServer, count: int) -> Figures:
    """Microseconds a job of each stage."""
    gc.collect()
    gc.freeze()
    told, supervised = await telling(count)
    seconds = {
        "an asyncio task, alone": await bare_tasks(count),
        "core, claim to outcome": await core(count),
        "telling the supervisor": told,
        "supervisor": supervised,
        **await driver(server, count),
    }
    return {name: value / count * 1e6 for name, value in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.redis_stages", description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5, help="the least of them counts")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    with RedisServer(appendonly=False) as server:
        rounds = [asyncio.run(once(server, options.jobs)) for _ in range(options.rounds)]
    least = {name: round(min(each[name] for each in rounds), 2) for name in rounds[0]}
    for name, value in least.items():
        print(f"{name:28} {value:6.2f} µs")
    if options.json:
        about = {
            "jobs": options.jobs,
            "rounds": options.rounds,
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "processor": processor(),
        }
        text = json.dumps({"about": about, "stages": least}, indent=2)
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
