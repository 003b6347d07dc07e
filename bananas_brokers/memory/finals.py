"""Records that have ended, in the order in which ``prune`` has to look at them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bananas_brokers.memory.ordered import Ordered
from bananas_core import state
from bananas_core.job import FINAL, Job, JobState, Retention

_STATES: Final = sorted(FINAL)


class Finals:
    """A record that must stay though its time is over is not looked at in every call: until it
    is followed up, or its workflow has ended, it is set aside, and then it comes back when that
    record may go.
    """

    def __init__(self, jobs: Mapping[str, Job]) -> None:
        self.by_state: dict[JobState, Ordered[str]] = {final: Ordered() for final in _STATES}
        """Final state → jobs, first finished in front: what goes by age."""
        self.by_end: Ordered[str] = Ordered()
        """All of them: what goes by count."""
        self._jobs = jobs
        self._all: set[str] = set()
        self._aside: dict[str, dict[str, None]] = {}
        """Id of a record that has not ended, or is not followed up → those that stay until then:
        itself, or the nodes of the workflow that it stands for."""

    def __len__(self) -> int:
        return len(self._all)

    def add(self, job: Job) -> None:
        """A record has ended, or something else of it has changed since."""
        self._all.add(job.id)
        self._place(job)

    def discard(self, job: Job) -> None:
        """A record that had ended is live again, or gone."""
        self._all.discard(job.id)
        self._displace(job)
        for reason in (job.id, job.workflow or ""):
            if reason in self._aside:
                self._aside[reason].pop(job.id, None)

    def free(self, workflow: str) -> None:
        """The record of this id has ended and was followed up, or is gone."""
        for job_id in self._aside.pop(workflow, ()):
            self._place(self._jobs[job_id])

    def may_go(
        self, order: Ordered[str], policy: Retention, kept: float, limit: int, now: float
    ) -> list[Job]:
        """Up to ``limit`` records of ``order`` that may go; the caller deletes them. ``kept``:
        seconds for which they stay at least."""
        found: list[Job] = []
        later: list[tuple[str, float]] = []
        while len(found) < limit and (ids := order.take(now - kept, 1)):
            job = self._jobs[ids[0]]
            whole = self._jobs.get(job.workflow or "")
            if state.prunable(job, now, policy, whole):
                found.append(job)
                continue
            times = {one.id: state.prune_at(one, policy) for one in (job, whole) if one is not None}
            unknown = [one for one, at in times.items() if at is None]
            if unknown:
                self._displace(job)
                self._aside.setdefault(unknown[0], {})[job.id] = None
            else:
                later.append((job.id, max(at for at in times.values() if at is not None) - kept))
        for job_id, place in later:
            order.add(job_id, place)
        return found

    def _place(self, job: Job) -> None:
        ended = job.finished_at or 0.0
        self.by_state[job.state].add(job.id, ended)
        self.by_end.add(job.id, ended)

    def _displace(self, job: Job) -> None:
        self.by_state[job.state].discard(job.id)
        self.by_end.discard(job.id)
