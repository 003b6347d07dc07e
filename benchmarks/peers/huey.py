"""huey."""

from __future__ import annotations

import time
from collections.abc import Sequence

from huey import RedisExpireHuey

from benchmarks.subjects.common import HOLD_SECONDS, Options, options, started, started_again

NAME = "huey"
PACKAGES = ["huey", "redis", "hiredis"]
SETTINGS = (
    "one worker thread, as more are no faster for short tasks; blocks on the queue; results expire "
    "after an hour; no bulk call. It takes a job off the queue before the run: there is no setting "
    "that brings it back when the worker dies"
)
RELIABLE = False

settings = options()
huey = RedisExpireHuey(
    "bench",
    url=settings.url or "redis://localhost",
    results=settings.results,
    expire_time=3600,
)
blob = settings.payload()


@huey.task()
def noop(number: int, blob: str = "") -> int:
    started(number)
    return number


@huey.task()
def sleeper() -> None:
    started_again()
    time.sleep(HOLD_SECONDS)


def worker(options: Options) -> list[str]:
    # Periodic tasks and the log of each task cost time and are not used.
    run = ["huey_consumer", "benchmarks.peers.huey.huey", "--workers", "1", "--quiet"]
    return [*run, "--no-periodic"]


def one(number: int) -> None:
    noop(number, blob)


def many(numbers: Sequence[int]) -> None:
    for number in numbers:
        noop(number, blob)


def hold() -> None:
    sleeper()
