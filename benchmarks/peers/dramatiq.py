"""dramatiq."""

from __future__ import annotations

import time
from collections.abc import Sequence

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.subjects.common import HOLD_SECONDS, Options, options, started, started_again

NAME = "dramatiq"
PACKAGES = ["dramatiq[redis]", "hiredis"]
SETTINGS = (
    "acknowledges after the run by default; one process with its 8 threads; queue prefetch 1,000 "
    "(default twice the threads); results in Redis where results are measured; no bulk call"
)
RELIABLE = True

settings = options()
broker = RedisBroker(url=settings.url)
if settings.results:
    broker.add_middleware(Results(backend=RedisBackend(url=settings.url), result_ttl=3_600_000))
dramatiq.set_broker(broker)
blob = settings.payload()


def noop_body(number: int, blob: str = "") -> int | None:
    started(number)
    return number if settings.results else None


extra = {"store_results": True} if settings.results else {}
noop = dramatiq.actor(noop_body, actor_name="noop", **extra)


@dramatiq.actor(actor_name="sleeper")
def sleeper() -> None:
    started_again()
    time.sleep(HOLD_SECONDS)


def worker(options: Options) -> list[str]:
    prefetch = [] if options.defaults else ["env", "dramatiq_queue_prefetch=1000"]
    run = ["dramatiq", "benchmarks.peers.dramatiq", "--processes", "1", "--threads", "8"]
    return [*prefetch, *run]


def one(number: int) -> None:
    noop.send(number, blob)


def many(numbers: Sequence[int]) -> None:
    for number in numbers:
        noop.send(number, blob)


def hold() -> None:
    sleeper.send()
