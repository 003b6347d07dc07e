"""The oracle: what was accepted, what ran, and whether the ledger agrees.

The submitter writes each accepted id and syncs it; a task appends its start and end with one
unbuffered O_APPEND write each, so the lines survive kill -9 and don't mix.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import msgspec

from bananas_core.job import JobState
from bananas_core.results import ResultBackend

LOST_PROCESS = ("died", "lapsed", "lost")


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a task: ``what`` is ``start``, ``end`` or ``cancelled``; ``at`` is
    machine time."""

    id: str
    attempt: int
    pid: int
    what: str
    at: float


class Verdict(msgspec.Struct, kw_only=True):
    """What the oracle found. ``lost``: accepted ids that are not final. ``in_flight``: claims
    whose process was lost with their body begun and its outcome not recorded. ``claims``: all that
    the records tell of."""

    accepted: int
    states: dict[str, int]
    lost: list[str]
    in_flight: int
    claims: int
    extra_runs: int
    overlaps: int
    never_ran: int

    @property
    def ok(self) -> bool:
        return not self.lost


class Oracle:
    """Two append-only files in a folder of the scenario's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs_path = folder / "runs.jsonl"
        self._accepted_path = folder / "accepted.txt"
        self._accepted = os.open(self._accepted_path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def accept(self, ids: Iterable[str]) -> None:
        """``submit`` returned for these: from now on they must not be lost."""
        os.write(self._accepted, "".join(f"{id}\n" for id in ids).encode())
        os.fsync(self._accepted)

    def close(self) -> None:
        os.close(self._accepted)

    def accepted(self) -> list[str]:
        return self._accepted_path.read_text().split()

    def runs(self) -> list[Run]:
        if not self.runs_path.exists():
            return []
        decode = msgspec.json.Decoder(Run).decode
        return [decode(line) for line in self.runs_path.read_bytes().splitlines()]

    async def judge(self, backend: ResultBackend) -> Verdict:
        """Compare what was accepted and what ran with the ledger's records."""
        ids = self.accepted()
        states: Counter[str] = Counter()
        lost: list[str] = []
        completed: set[str] = set()
        in_flight = claims = 0
        for begin in range(0, len(ids), 500):
            part = ids[begin : begin + 500]
            for id, job in zip(part, await backend.get(part), strict=True):
                state = "unknown" if job is None else job.state.value
                states[state] += 1
                attempts = () if job is None else job.attempts
                claims += len(attempts)
                in_flight += sum(entry.outcome in LOST_PROCESS for entry in attempts)
                if state not in ("completed", "failed", "cancelled", "quarantined"):
                    lost.append(id)
                if job is not None and job.state is JobState.COMPLETED:
                    completed.add(id)
        starts: dict[str, list[float]] = defaultdict(list)
        ends: dict[str, list[float]] = defaultdict(list)
        for run in self.runs():
            (starts if run.what == "start" else ends)[run.id].append(run.at)
        extra = sum(len(times) - 1 for times in starts.values() if len(times) > 1)
        overlaps = sum(
            1 for id, times in starts.items() if len(times) > 1 and _overlap(times, ends[id])
        )
        return Verdict(
            accepted=len(ids),
            states=dict(states),
            lost=lost,
            in_flight=in_flight,
            claims=claims,
            extra_runs=extra,
            overlaps=overlaps,
            never_ran=len(completed - starts.keys()),
        )


def _overlap(starts: list[float], ends: list[float]) -> bool:
    """Whether a second run began and ended within the first."""
    return len(ends) > 1 and sorted(starts)[1] < sorted(ends)[0]


def note(path: str, id: str, attempt: int, what: str) -> None:
    """Called by tasks: one line, one write."""
    line = msgspec.json.encode(
        Run(id=id, attempt=attempt, pid=os.getpid(), what=what, at=time.time())
    )
    file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    try:
        os.write(file, line + b"\n")
    finally:
        os.close(file)
