"""RQ."""

from __future__ import annotations

import time
from collections.abc import Sequence

from redis import Redis
from rq import Queue, Retry

from benchmarks.subjects.common import HOLD_SECONDS, Options, options, started, started_again

NAME = "RQ"
PACKAGES = ["rq", "hiredis"]
SETTINGS = (
    "Retry(max=3), without which a job of a dead worker fails; SimpleWorker, which runs jobs in "
    "its own process (the default forks for each job); enqueue_many for bulk"
)
RELIABLE = True

settings = options()
queue = Queue("bench", connection=Redis.from_url(settings.url or "redis://localhost"))
blob = settings.payload()
KEEP = 3600 if settings.results else 0


def noop(number: int, blob: str = "") -> int | None:
    started(number)
    return number


def sleeper() -> None:
    started_again()
    time.sleep(HOLD_SECONDS)


def worker(options: Options) -> list[str]:
    kind = [] if options.defaults else ["--worker-class", "rq.worker.SimpleWorker"]
    return ["rq", "worker", "--url", options.url, "--quiet", *kind, "bench"]


def one(number: int) -> None:
    queue.enqueue(noop, number, blob, result_ttl=KEEP, retry=Retry(max=3))


def many(numbers: Sequence[int]) -> None:
    queue.enqueue_many(
        [
            Queue.prepare_data(noop, (number, blob), result_ttl=KEEP, retry=Retry(max=3))
            for number in numbers
        ]
    )


def hold() -> None:
    queue.enqueue(sleeper, retry=Retry(max=3))
