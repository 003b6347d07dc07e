"""Racing submits of unique jobs in one process, on both memory forms. ``BANANAS_RACE`` sets how
many submits; processes that race are in ``integration/faults/unique.py``."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

import pytest

from bananas import Bananas
from bananas_core.job import Job, JobState
from bananas_core.unique import PREFIX
from bananas_plugins.unique import Unique
from tests.worker.conftest import eventually, working

SUBMITS = int(os.environ.get("BANANAS_RACE", "4000"))
KEYS = max(20, SUBMITS // 100)
CLIENTS = 4
TASKS = 64
FREE_WITHIN = 5.0


class Race:
    """Apps of their own connections, and what their tasks and bodies saw."""

    def __init__(self, url: str) -> None:
        self.apps = [self._app(url) for _ in range(CLIENTS)]
        self.active: Counter[int] = Counter()
        self.together = 0
        self.submits = 0
        self.told: dict[str, int] = {}
        self.last_begin: dict[str, float] = {}

    def _app(self, url: str) -> Bananas:
        app = Bananas(url)

        @app.task(name="keyed", unique=Unique(args=("key",)))
        async def keyed(key: int) -> None:
            self.active[key] += 1
            self.together += self.active[key] > 1
            await asyncio.sleep(0.001)
            self.active[key] -= 1

        return app

    async def submit(self, app: Bananas, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(SUBMITS // (CLIENTS * TASKS)):
            key, begin = rng.randrange(KEYS), time.time()
            job = await app.submit_job("keyed", {"key": key})
            assert self.told.setdefault(job.id, key) == key
            self.last_begin[job.id] = max(begin, self.last_begin.get(job.id, 0.0))
            self.submits += 1


async def records(app: Bananas, ids: Sequence[str]) -> list[Job]:
    jobs: list[Job] = []
    for begin in range(0, len(ids), 500):
        found = await app.backend.get(ids[begin : begin + 500])
        jobs += [job for job in found if job is not None]
    return jobs


@pytest.mark.parametrize("form", ["fused", "split"])
async def test_racing_submits_leave_no_violation_and_no_key(form: str, tmp_path: object) -> None:
    race = Race(f"memory://race-{form}-{id(tmp_path)}?form={form}")
    first = race.apps[0]
    for app in race.apps:
        await app.open()
    async with working(first, concurrency=32), working(race.apps[1], concurrency=32):
        begun = time.monotonic()
        await asyncio.gather(
            *(race.submit(race.apps[n % CLIENTS], n) for n in range(CLIENTS * TASKS))
        )
        took = time.monotonic() - begun

        async def tidy() -> bool:
            return await first.backend.docs(PREFIX) == []

        await eventually(tidy, within=30.0)
        jobs = await records(first, list(race.told))
        counts = await first.backend.count(["state"])
    for app in race.apps:
        await app.close()
    print(f"{form}: {race.submits} submits, {KEYS} keys, {len(jobs)} jobs in {took:.1f} s")
    by_key: dict[int, list[Job]] = defaultdict(list)
    for job in jobs:
        assert job.state is JobState.COMPLETED
        by_key[race.told[job.id]].append(job)
    assert [(c.group, c.count) for c in counts] == [(("completed",), len(jobs))]
    assert race.together == 0
    assert sum(map(len, by_key.values())) == len(race.told)
    for mine in by_key.values():
        mine.sort(key=lambda job: (job.created_at, job.finished_at))
        for job, after in pairwise(mine):
            assert job.finished_at is not None
            assert job.finished_at <= after.created_at
    late = [race.last_begin[job.id] - (job.finished_at or 0.0) for job in jobs]
    assert max(late) <= FREE_WITHIN, "a job that was over was the answer"
