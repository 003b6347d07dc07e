"""Scenarios in which the broker is a server: it is killed while workers are, and a great many jobs
go through it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from math import inf
from typing import Final

from bananas import Bananas
from bananas_core.errors import TransportUnavailable
from integration.faults.inject import Kill, kill_children
from integration.faults.oracle import Run
from integration.faults.stage import IN_FLIGHT, SLOTS, Scenario, Stage
from integration.servers import Network, Proxy, RedisServer, Server

PROCESSES: Final = 4
BACK_WITHIN: Final = 15.0
"""Seconds from the answering broker until workers run as much as they may."""
NETWORK_AWAY: Final = 6.0
ELSEWHERE_WITHIN: Final = 20.0
"""Seconds from the loss of a worker until each of its jobs has started elsewhere."""
VICTIMS: Final = 4
VICTIM_SLOTS: Final = 50


async def broker_kills(stage: Stage) -> None:
    """kill -9 of one worker's children every 2 s, and of the server, which syncs each write,
    several times: nothing is lost, and within 15 s of each restart workers run at full concurrency
    again."""
    await _outages(stage, [_killed(stage, stage.server)] * stage.level.broker_kills)


async def ledger_kills(stage: Stage) -> None:
    """The same with the ledger, where that is another server, in place of the broker."""
    await _outages(stage, [_killed(stage, stage.ledger)] * stage.level.broker_kills)


async def bad_network(stage: Stage) -> None:
    """The same while the way to the broker holds everything back, swallows answers, or resets all
    connections; then it is fine again."""
    with Proxy(stage.server.port) as proxy:
        stage.url = stage.url.replace(f":{stage.server.port}", f":{proxy.port}")
        turns = max(1, stage.level.broker_kills // 3)
        troubles = (Network.HELD, Network.DEAF, Network.GONE) * turns
        await _outages(stage, [_through(proxy, trouble) for trouble in troubles])


Outage = Callable[[], Awaitable[None]]
"""Begins and ends it: when this returns, all is well again."""


def _killed(stage: Stage, server: Server) -> Outage:
    """kill -9, and back some seconds later."""

    async def outage() -> None:
        server.kill()
        await asyncio.sleep(stage.rng.uniform(*stage.level.broker_away))
        await asyncio.to_thread(server.start)

    return outage


def _through(proxy: Proxy, trouble: Network) -> Outage:
    """A bad network, for longer than the driver waits for signs of life."""

    async def outage() -> None:
        proxy.become(trouble)
        await asyncio.sleep(NETWORK_AWAY)
        proxy.become(Network.FINE)

    return outage


async def _outages(stage: Stage, outages: Sequence[Outage]) -> None:
    """Jobs are submitted and run while one outage follows the other. Children of one group are
    killed; those of the other live through all outages, so that somebody has to come back."""
    groups = [stage.group(name, processes=PROCESSES // 2) for name in "ab"]
    count, restarts = stage.level.broker_jobs, len(outages)
    kills: list[Kill] = []
    back: list[float] = []
    async with stage.app() as app:
        begun = time.monotonic()
        killer = asyncio.create_task(kill_children(groups[:1], 2.0, stage.rng, kills))
        submitting = asyncio.create_task(_submit(stage, app, count))
        for number, outage in enumerate(outages):
            await _ended(stage, count * (number + 1) // (restarts + 2))
            await outage()
            back.append(time.time())
        repeated = await submitting
        await _ended(stage, count * (restarts + 1) // (restarts + 2))
        killer.cancel()
        took = await stage.drained(app.backend, 120)
        stage.figures.update(
            jobs=count,
            seconds=round(time.monotonic() - begun, 1),
            kills=len(kills),
            outages=restarts,
            submits_repeated=repeated,
            drained_after_last_kill_s=round(took, 1),
        )
        runs = stage.oracle.runs()
        full = [full_after(runs, at, kills) for at in back]
        stage.figures["full_after_s"] = [None if s is None else round(s, 2) for s in full]
        verdict = await stage.judged(app.backend)
        stage.check(len(kills) >= 2, "too few kills to show anything")
        stage.check(
            all(s is not None and s <= BACK_WITHIN for s in full),
            f"not at full concurrency {BACK_WITHIN:g} s after a restart",
        )
        stage.check(verdict.states == {"completed": count}, "some did not complete")
        stage.check(verdict.extra_runs <= verdict.in_flight, "more extra runs than jobs in flight")
        stage.check(
            verdict.in_flight <= len(kills) * IN_FLIGHT, "more jobs in flight than there can be"
        )


def full_after(runs: Sequence[Run], back: float, kills: Sequence[Kill]) -> float | None:
    """Seconds from ``back`` until each process that ran as many jobs at once as it may before, and
    was not killed meanwhile, has done so again; None if one never did. Others may be made for one
    job that has killed its process. If none of them lived on, as in a long outage, the first to do
    so of those that came after them. Only jobs that started since count: what was running at
    ``back`` says nothing of what is fetched again, and its ends would be missed by a count that had
    not seen the starts."""
    dead = {kill.pid: kill.at for kill in kills}
    before = _full(run for run in runs if run.at < back)
    after = _full(run for run in runs if run.at >= back)
    waiting = {pid for pid in before if dead.get(pid, back) >= back}
    if any(pid not in after and dead.get(pid, inf) > back + BACK_WITHIN for pid in waiting):
        return None
    last = max((after[pid] for pid in waiting if pid in after), default=None)
    first = min(after.values(), default=None)
    at = first if last is None else last
    return None if at is None else at - back


def _full(runs: Iterable[Run]) -> dict[int, float]:
    """When each process first ran as many jobs at once as it may; without those that never did."""
    running: defaultdict[int, set[tuple[str, int]]] = defaultdict(set)
    full: dict[int, float] = {}
    for run in sorted(runs, key=lambda run: run.at):
        started = running[run.pid]
        if run.what == "start":
            started.add((run.id, run.attempt))
        else:
            started.discard((run.id, run.attempt))
        if len(started) >= SLOTS:
            full.setdefault(run.pid, run.at)
    return full


async def kill_worker(stage: Stage) -> None:
    """kill -9 of whole workers, supervisors and all, with default time-outs: each of their jobs
    starts elsewhere within 20 s."""
    waits: list[float] = []
    async with stage.app() as app:
        for turn in range(stage.level.worker_kill_turns):
            victims = [
                stage.group(f"victim-{turn}-{n}", concurrency=VICTIM_SLOTS) for n in range(VICTIMS)
            ]
            count = VICTIMS * VICTIM_SLOTS
            ids = await stage.submit(app, "sleepy", [{"seconds": 8.0}] * count)
            await _all_started(stage, set(ids))
            other = stage.group(f"other-{turn}", concurrency=count)
            killed = time.time()
            for victim in victims:
                victim.signal_all(signal.SIGKILL)
            await stage.drained(app.backend, 60)
            other.terminate()
            other.wait(40)
            starts: dict[str, float] = {}
            for run in stage.oracle.runs():
                if run.what == "start":
                    starts[run.id] = max(run.at, starts.get(run.id, 0.0))
            waits += [starts[id] - killed for id in ids]
        waits.sort()
        stage.figures.update(
            workers_killed=VICTIMS * stage.level.worker_kill_turns,
            started_elsewhere_after_s={
                "median": round(waits[len(waits) // 2], 1),
                "p99": round(waits[len(waits) * 99 // 100], 1),
                "most": round(waits[-1], 1),
            },
        )
        verdict = await stage.judged(app.backend)
        stage.check(waits[0] > 0, "a job was not run again")
        stage.check(waits[-1] <= ELSEWHERE_WITHIN, "started again too late")
        stage.check(verdict.extra_runs == len(waits), "not one extra run for each job in flight")


async def drain_all(stage: Stage) -> None:
    """No fault, many jobs: each is claimed, run and completed exactly once."""
    count = stage.level.drain_jobs
    stage.group("a", processes=2, concurrency=64)
    async with stage.app() as app:
        begun = time.monotonic()
        await stage.submit(app, "quick", [{"number": n} for n in range(count)])
        submitted = time.monotonic() - begun
        await _ended(stage, count, 3600.0)
        await stage.drained(app.backend, 120)
        took = time.monotonic() - begun
        stage.figures.update(
            jobs=count,
            submitted_s=round(submitted, 1),
            seconds=round(took, 1),
            **_held(stage.server),
        )
        verdict = await stage.judged(app.backend)
        stage.figures["judged_s"] = round(time.monotonic() - begun - took, 1)
        stage.check(verdict.states == {"completed": count}, "some did not complete")
        stage.check(verdict.claims == count, "a job was claimed twice")
        stage.check(verdict.extra_runs == 0, "a body ran twice")


async def _submit(stage: Stage, app: Bananas, count: int) -> int:
    """Submit short jobs while others run, over outages too; how many requests were repeated."""
    most = max(5_000, count // 20)
    repeated = 0
    for begin in range(0, count, 500):
        payloads: list[dict[str, object]] = [
            {"number": n} for n in range(begin, min(count, begin + 500))
        ]
        repeated += await stage.submit_surely(app, "short", payloads)
        while True:
            try:
                (queue,) = await app.transport.stats(["default"])
            except TransportUnavailable:
                break  # the next request meets the outage
            if queue.ready < most:
                break
            await asyncio.sleep(0.05)
    return repeated


async def _ended(stage: Stage, count: int, seconds: float = 600.0) -> None:
    """Wait until about so many runs have begun and ended, by what bodies wrote: that asks nothing
    of the broker."""
    until = time.monotonic() + seconds
    lines = 0
    with stage.oracle.runs_path.open("ab+") as file:
        file.seek(0)
        while True:
            while piece := file.read(1 << 20):
                lines += piece.count(b"\n")
            if lines >= 2 * count:
                return
            stage.check(time.monotonic() < until, f"{count} runs are not over after {seconds} s")
            await asyncio.sleep(0.1)


async def _all_started(stage: Stage, ids: set[str], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not ids <= {run.id for run in stage.oracle.runs()}:
        stage.check(time.monotonic() < until, "not all jobs have started")
        await asyncio.sleep(0.1)


def _held(server: Server) -> dict[str, object]:
    """MiB of a server that keeps everything in memory."""
    if not isinstance(server, RedisServer):
        return {}
    memory = server.info("memory")
    return {
        "server_mib_at_end": round(int(memory["used_memory"]) / (1 << 20)),
        "server_mib_at_most": round(int(memory["used_memory_peak"]) / (1 << 20)),
    }


SCENARIOS: Final[tuple[Scenario, ...]] = (broker_kills, kill_worker, drain_all)
IN_PAIRS: Final[tuple[Scenario, ...]] = (ledger_kills, bad_network)
"""For brokers whose ledger is another server."""
