"""Celery."""

from __future__ import annotations

import time
from collections.abc import Sequence

from celery import Celery

from benchmarks.subjects.common import HOLD_SECONDS, Options, options, started, started_again

NAME = "Celery"
PACKAGES = ["celery[redis]", "hiredis"]
SETTINGS = (
    "task_acks_late and task_reject_on_worker_lost (run at least once); pool solo, the fastest for "
    "short tasks in one process; prefetch 100; no events, gossip, mingle or heartbeat; one "
    "producer for a whole batch, since there is no bulk call"
)
RELIABLE = True

settings = options()
app = Celery("bench", broker=settings.url, backend=settings.url if settings.results else None)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=not settings.results,
    result_expires=3600,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=100,
)
blob = settings.payload()


@app.task(name="noop")
def noop(number: int, blob: str = "") -> int:
    started(number)
    return number


@app.task(name="sleeper")
def sleeper() -> None:
    started_again()
    time.sleep(HOLD_SECONDS)


def worker(options: Options) -> list[str]:
    return [
        *("celery", "-A", "benchmarks.peers.celery", "worker", "--loglevel", "warning"),
        *("--pool", "solo", "--concurrency", "1"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]


def one(number: int) -> None:
    noop.apply_async((number, blob))


def many(numbers: Sequence[int]) -> None:
    with app.producer_pool.acquire(block=True) as producer:
        for number in numbers:
            noop.apply_async((number, blob), producer=producer)


def hold() -> None:
    sleeper.apply_async()
