"""What is run, in which order, and how much of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from bananas_core.settings import Settings
from benchmarks import measures
from benchmarks.environments import Subject
from benchmarks.lab import Lab
from benchmarks.measures import Figures

BANANAS: Final = "Bananas"
TIGHT: Final = "tight loop"
SIMPLE: Final = "simple loop"
LOOPS_TOO: Final = ("depth", "payload")
"""Curves that the loops have, too."""
JUDGED: Final = ("depth", "keys", "priorities", "ways")
"""Curves with a target (``report.TARGETS``): ours is measured more often."""
AHEAD: Final = 5_000
"""Jobs that warm a worker up before a drain by depth: else a thousand jobs would tell of its start
only."""
BEST: Final = "100 at once"
DEFAULT: Final = f"{Settings().concurrency} at once (default)"
THREADS: Final = "`def` task in threads, 100 at once"
EVERYSEC: Final = "append-only file, everysec"
ALWAYS: Final = "append-only file, always"
MOST_BYTES: Final = 100_000_000
"""All payloads of one point together."""


WAYS: Final[dict[str, dict[str, Any]]] = {
    BEST: {},
    DEFAULT: {"concurrency": Settings().concurrency},
    THREADS: {"plain": True},
    EVERYSEC: {"fsync": "everysec"},
    ALWAYS: {"fsync": "always"},
}


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """How much: ``fast`` subjects are ours and the loops. Rounds are interleaved."""

    name: str
    seconds: float
    """All steps together; what doesn't fit any more is left out, and said to be."""
    rounds: int
    peer_rounds: int
    fast_jobs: int
    tight_jobs: int
    peer_jobs: int
    submits: int
    latencies: int
    imports: int
    peers_redelivered: bool
    depths: Sequence[int]
    keys: Sequence[int] = (1, 10, 100, 1000)
    priorities: Sequence[int] = (1, 3, 10, 101)
    payloads: Sequence[int] = (100, 1_000, 10_000, 100_000)
    processes: Sequence[int] = (1, 2, 4)
    curve_jobs: int = 20_000
    curve_rounds: int = 1
    judged_rounds: int = 3


QUICK: Final = Profile(
    name="quick",
    seconds=540,
    rounds=3,
    peer_rounds=1,
    fast_jobs=40_000,
    tight_jobs=200_000,
    peer_jobs=3_000,
    submits=1_000,
    latencies=100,
    imports=3,
    peers_redelivered=False,
    depths=(1_000, 10_000, 100_000),
)
FULL: Final = Profile(
    name="full",
    seconds=3_480,
    rounds=7,
    peer_rounds=3,
    fast_jobs=200_000,
    tight_jobs=500_000,
    peer_jobs=10_000,
    submits=5_000,
    latencies=500,
    imports=5,
    peers_redelivered=True,
    depths=(1_000, 10_000, 100_000, 1_000_000),
    priorities=(1, 3, 10, 30, 101),
    curve_jobs=50_000,
    curve_rounds=3,
)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one subject. ``x``: where on a curve it is. Steps with ``together`` that follow
    each other run at the same time: they only wait."""

    measure: str
    subject: str
    round: int
    x: float | str | None = None
    together: bool = False
    call: Callable[[Lab], Figures]


def steps(profile: Profile, subjects: Sequence[Subject]) -> Iterator[Step]:
    """All steps of a run; within a measure the subjects take turns."""
    p = profile
    every = partial(_rounds, p, subjects)
    yield from every("import", lambda s: partial(measures.importing, subject=s), rounds=p.imports)
    yield from every("submit", lambda s: partial(measures.submit, subject=s, jobs=p.submits))
    for results in (True, False):
        yield from every(
            "flow with results" if results else "flow",
            lambda s, results=results: partial(
                measures.flow, subject=s, jobs=_jobs(p, s), results=results
            ),
        )
    yield from every("idle", lambda s: partial(measures.idle, subject=s, jobs=p.latencies))
    yield from curves(p, subjects)
    for subject in subjects:
        waits = subject.reliable is not None and (p.peers_redelivered or not subject.peer)
        if waits:
            yield Step(
                measure="redelivery",
                subject=subject.name,
                round=0,
                together=True,
                call=partial(measures.redelivery, subject=subject),
            )


def _rounds(
    profile: Profile,
    subjects: Sequence[Subject],
    measure: str,
    make: Callable[..., Callable[[Lab], Figures]],
    rounds: int | None = None,
) -> Iterator[Step]:
    for number in range(max(profile.rounds, rounds or 0)):
        for subject in subjects:
            most = rounds or (profile.peer_rounds if subject.peer else profile.rounds)
            if number < most:
                yield Step(measure=measure, subject=subject.name, round=number, call=make(subject))


def curves(profile: Profile, subjects: Sequence[Subject]) -> Iterator[Step]:
    """How Bananas, and the loops where they have such a thing, change with size and number."""
    ours = [s for s in subjects if s.name == BANANAS]
    with_loops = [s for s in subjects if not s.peer]
    for number in range(max(profile.curve_rounds, profile.judged_rounds)):
        for curve, x, jobs, options in points(profile):
            judged = curve in JUDGED
            for subject in with_loops if curve in LOOPS_TOO else ours:
                mine = judged and subject.name == BANANAS
                if number >= (profile.judged_rounds if mine else profile.curve_rounds):
                    continue
                function = measures.durable if "fsync" in options else measures.flow
                call = partial(function, subject=subject, jobs=jobs, **options)
                yield Step(measure=curve, subject=subject.name, round=number, x=x, call=call)


def points(profile: Profile) -> Iterator[tuple[str, int | str, int, dict[str, Any]]]:
    """Curve, place on it, how many jobs, and the options that make the difference."""
    p, jobs = profile, profile.curve_jobs
    for way, options in WAYS.items():
        yield "ways", way, jobs, {"results": True, **options}
    for depth in p.depths:
        yield "depth", depth, depth, {"results": True, "ahead": AHEAD}
    for keys in p.keys:
        yield "keys", keys, jobs, {"results": True, "keys": keys}
    for count in p.priorities:
        yield "priorities", count, jobs, {"results": True, "priorities": count}
    for size in p.payloads:
        yield "payload", size, max(1_000, min(jobs, MOST_BYTES // size)), {"blob": size}
    for processes in p.processes:
        yield "processes", processes, jobs, {"results": True, "processes": processes}


def _jobs(profile: Profile, subject: Subject) -> int:
    if subject.peer:
        return profile.peer_jobs
    return profile.tight_jobs if subject.name == TIGHT else profile.fast_jobs
