"""A submitter process: 64 threads that submit unique jobs through one blocking client, until they
have done their share or their time is over; prints what they were told.

``python -m integration.faults.racer URL KEYS SUBMITS SECONDS JOBS HOLDS SEED``: SUBMITS, SECONDS or
having been told of JOBS jobs (0: any number) end it, whichever comes first; a job takes HOLDS
seconds. It begins at a line on stdin.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from typing import Final

import msgspec

from bananas import Client

THREADS: Final = 64
TASK: Final = "keyed"


class Told(msgspec.Struct, kw_only=True):
    """What submitters were told of one job, by this machine's clock: it answered a call that began
    at ``last_begin``, the latest of all, and one that ended at ``first_end``, the earliest."""

    key: int
    count: int = 0
    last_begin: float = 0.0
    first_end: float = float("inf")


class Report(msgspec.Struct, kw_only=True):
    """Of one process; ``told`` by job id."""

    submits: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    told: dict[str, Told] = {}
    errors: list[str] = []


class Racer:
    """Threads that share a client and a report."""

    def __init__(
        self,
        client: Client,
        *,
        keys: int,
        submits: int,
        seconds: float,
        jobs: int,
        holds: float,
        seed: int,
    ) -> None:
        self.report = Report()
        self._client = client
        self._keys = keys
        self._share = -(-submits // THREADS)
        self._seconds = seconds
        self._jobs = jobs
        self._holds = holds
        self._seed = seed
        self._lock = threading.Lock()

    def run(self) -> Report:
        """All threads begin at once."""
        start = threading.Barrier(THREADS + 1)
        threads = [threading.Thread(target=self._race, args=(n, start)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        start.wait()
        begun = time.monotonic()
        for thread in threads:
            thread.join()
        self.report.seconds = time.monotonic() - begun
        return self.report

    def _race(self, number: int, start: threading.Barrier) -> None:
        rng = random.Random(f"{self._seed}/{number}")
        start.wait()
        end = time.monotonic() + self._seconds
        for _ in range(self._share):
            if time.monotonic() > end or 0 < self._jobs <= len(self.report.told):
                return
            self._submit(rng.randrange(self._keys))

    def _submit(self, key: int) -> None:
        begin = time.time()
        try:
            payload = {"key": key, "seconds": self._holds}
            id = self._client.submit_unique_job(TASK, payload, unique_key=str(key))
        except Exception as error:
            with self._lock:
                self.report.errors.append(f"{type(error).__name__}: {error}")
            return
        end = time.time()
        with self._lock:
            told = self.report.told.setdefault(id, Told(key=key))
            if told.key != key:
                self.report.errors.append(f"{id} was the answer for two keys")
            told.count += 1
            told.last_begin = max(told.last_begin, begin)
            told.first_end = min(told.first_end, end)
            self.report.submits += 1
            self.report.slowest = max(self.report.slowest, end - begin)


def main(url: str, keys: str, submits: str, seconds: str, jobs: str, holds: str, seed: str) -> None:
    with Client(url) as client:
        racer = Racer(
            client,
            keys=int(keys),
            submits=int(submits),
            seconds=float(seconds),
            jobs=int(jobs),
            holds=float(holds),
            seed=int(seed),
        )
        print("ready", flush=True)
        sys.stdin.readline()
        sys.stdout.buffer.write(msgspec.json.encode(racer.run()) + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
