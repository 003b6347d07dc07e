"""The measures: each runs one subject once and returns figures by name."""

from __future__ import annotations

import statistics
import time
from typing import Any, Final

from benchmarks.environments import Subject
from benchmarks.lab import Lab, Run, SubjectFailed, WorkerProcess, look, server_cpu
from integration.servers import RedisServer
from integration.servers.redis import Fsync

Figures = dict[str, float]
"""By name; what they mean is said in ``report.MEASURES``. ``jobs`` is how many were measured,
``twice`` how many ran twice, ``short`` how many of them did not start in time."""

DRAIN_SECONDS: Final = 20.0
IDLE_AFTER: Final = 1.0
"""Seconds after the first job until memory is read."""
HELD_READY: Final = 8.0
"""Seconds that the second worker has to get ready before the first one is killed."""
GIVE_UP: Final = 90.0
"""Seconds after a kill -9 until a job counts as not started again."""


def importing(lab: Lab, subject: Subject) -> Figures:
    """Seconds to import a module that defines a task."""
    with lab.run(subject, 1) as run:
        return {"seconds": run.produce("import", 0)["seconds"]}


def submit(lab: Lab, subject: Subject, jobs: int) -> Figures:
    """Calls one after another."""
    with lab.run(subject, jobs) as run:
        before = server_cpu(lab.server)
        said = run.produce("submit", jobs)
        found: list[float] = said["durations"]
        return {
            "p50": percentile(found, 50),
            "p99": percentile(found, 99),
            "submit_cpu_us": said["cpu"] / len(found) * 1e6,
            "submit_server_cpu_us": (server_cpu(lab.server) - before) / len(found) * 1e6,
            "jobs": len(found),
        }


def flow(lab: Lab, subject: Subject, jobs: int, ahead: int = 0, **options: Any) -> Figures:
    """Bulk submit, then one worker that finds all of it in the queue. ``ahead``: so many more jobs
    come first and warm the worker up; ``jobs`` are queued when the drain is measured."""
    jobs += ahead
    with lab.run(subject, jobs, **options) as run:
        before = server_cpu(lab.server)
        bulk = run.produce("bulk", jobs)
        figures = {
            "bulk": bulk["jobs"] / bulk["seconds"],
            "bulk_cpu_us": bulk["cpu"] / jobs * 1e6,
            "bulk_server_cpu_us": (server_cpu(lab.server) - before) / jobs * 1e6,
        }
        with run.worker() as worker:
            return figures | drain(run, worker, jobs, ahead)


def durable(lab: Lab, subject: Subject, jobs: int, fsync: Fsync, **options: Any) -> Figures:
    """``flow`` on a server of its own with an append-only file."""
    with RedisServer(appendonly=True, appendfsync=fsync) as server:
        return flow(Lab(server, lab.folder, lab.bananas_url), subject, jobs, **options)


def drain(run: Run, worker: WorkerProcess, jobs: int, ahead: int = 0) -> Figures:
    """From the first to the last start, as the tasks see it; CPU between two looks in between."""
    run.wait_for_any(worker)
    if ahead:
        run.wait_for(ahead, worker, DRAIN_SECONDS)
    first = look(worker, run.server)
    run.wait_for(jobs, worker, DRAIN_SECONDS)
    last = look(worker, run.server)
    starts = sorted(cell for cell in run.cells[1 : jobs + 1] if cell)[ahead:]
    if not starts:
        raise SubjectFailed(f"the first {ahead} jobs took too long: {worker.log()}")
    begun, ended = starts[0], starts[-1]
    figures = {
        "drain": (len(starts) - 1) / (ended - begun) if ended > begun else 0.0,
        "jobs": len(starts),
        "short": jobs - ahead - len(starts),
        "twice": run.twice,
    }
    between = sum(first.at < cell <= last.at for cell in starts)
    if between > len(starts) / 5:  # else the first look came too late to tell anything
        figures["worker_cpu_us"] = (last.worker - first.worker) / between * 1e6
        figures["server_cpu_us"] = (last.server - first.server) / between * 1e6
    return figures


def idle(lab: Lab, subject: Subject, jobs: int) -> Figures:
    """A worker with nothing to do: its memory, and how soon it starts a job."""
    with lab.run(subject, jobs + 1) as run:
        run.produce("bulk", 1)
        with run.worker() as worker:
            run.wait_for(1, worker, DRAIN_SECONDS)
            time.sleep(IDLE_AFTER)
            memory, largest = worker.memory(), worker.largest()
            before = look(worker, run.server)
            made: list[float] = run.produce("latency", jobs)["made"]
            run.wait_for(jobs + 1, worker, DRAIN_SECONDS)
            after = look(worker, run.server)
            starts = run.cells[2 : jobs + 2]
            waits = [start - at for start, at in zip(starts, made, strict=True) if start]
            if not waits:
                raise SubjectFailed(f"no job started: {worker.log()}")
            return {
                "memory": memory,
                "largest": largest,
                "worker_cpu_us": (after.worker - before.worker) / len(waits) * 1e6,
                "server_cpu_us": (after.server - before.server) / len(waits) * 1e6,
                "latency_p50": percentile(waits, 50),
                "latency_p99": percentile(waits, 99),
                "jobs": len(waits),
                "short": jobs - len(waits),
            }


def redelivery(lab: Lab, subject: Subject) -> Figures:
    """Kill -9 of a worker that runs a job while another one is idle; seconds until the job starts
    again there, or ``GIVE_UP`` and more. Time-outs are the library's defaults.

    On a server of its own, so that several subjects can wait at the same time.
    """
    with RedisServer(appendonly=False) as server:
        own = Lab(server, lab.folder, lab.bananas_url)
        with own.run(subject, 2, defaults=True) as run, run.worker("first") as first:
            run.produce("hold", 1)
            run.wait_for(1, first, 0.0)
            with run.worker("second") as second:
                time.sleep(HELD_READY)
                if second.ended or first.ended:
                    raise SubjectFailed(f"a worker ended: {first.log()} | {second.log()}")
                killed = time.monotonic()
                first.kill()
                while not run.cells[2] and time.monotonic() < killed + GIVE_UP:
                    time.sleep(0.02)
                again = run.cells[2]
                return {
                    "seconds": again - killed if again else GIVE_UP,
                    "never": 0.0 if again else 1.0,
                }


def percentile(values: list[float], percent: int) -> float:
    """The smallest value that at least ``percent`` of all don't exceed; in the values' unit."""
    if len(values) < 2:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
