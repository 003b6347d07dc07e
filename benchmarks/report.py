"""From samples to medians, ranges and ratios: what is written as JSON, and printed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from benchmarks.measures import DRAIN_SECONDS, GIVE_UP, Figures
from benchmarks.plan import BANANAS, DEFAULT, SIMPLE, THREADS, TIGHT

SCHEMA: Final = "bananas-bench/1"

Unit = Literal["jobs/s", "s", "bytes"]


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One line of figures: which steps it comes from, and how it reads."""

    id: str
    title: str
    step: str
    figure: str
    unit: Unit
    better: Literal["higher", "lower"]
    cpu: tuple[str, str] | None = None
    """Names of the figures with the client's or worker's and the server's CPU per job."""


SUBMIT_CPU: Final = ("submit_cpu_us", "submit_server_cpu_us")
WORKER_CPU: Final = ("worker_cpu_us", "server_cpu_us")
BULK_CPU: Final = ("bulk_cpu_us", "bulk_server_cpu_us")
MEASURES: Final = (
    Kind(
        id="submit_p50",
        title="Submit, one after another, p50",
        step="submit",
        figure="p50",
        unit="s",
        better="lower",
        cpu=SUBMIT_CPU,
    ),
    Kind(
        id="submit_p99",
        title="Submit, one after another, p99",
        step="submit",
        figure="p99",
        unit="s",
        better="lower",
    ),
    Kind(
        id="bulk",
        title="Submit in bulk",
        step="flow",
        figure="bulk",
        unit="jobs/s",
        better="higher",
        cpu=BULK_CPU,
    ),
    Kind(
        id="drain",
        title="Drain without results, one worker process",
        step="flow",
        figure="drain",
        unit="jobs/s",
        better="higher",
        cpu=WORKER_CPU,
    ),
    Kind(
        id="drain_results",
        title="Drain with results, one worker process",
        step="flow with results",
        figure="drain",
        unit="jobs/s",
        better="higher",
        cpu=WORKER_CPU,
    ),
    Kind(
        id="latency_p50",
        title="From submit to start, idle worker, p50",
        step="idle",
        figure="latency_p50",
        unit="s",
        better="lower",
        cpu=WORKER_CPU,
    ),
    Kind(
        id="latency_p99",
        title="From submit to start, idle worker, p99",
        step="idle",
        figure="latency_p99",
        unit="s",
        better="lower",
    ),
    Kind(
        id="memory",
        title="Memory of an idle worker, all its processes (PSS)",
        step="idle",
        figure="memory",
        unit="bytes",
        better="lower",
    ),
    Kind(
        id="largest",
        title="Memory of an idle worker, its largest process (RSS)",
        step="idle",
        figure="largest",
        unit="bytes",
        better="lower",
    ),
    Kind(
        id="import",
        title="Import of a module with a task",
        step="import",
        figure="seconds",
        unit="s",
        better="lower",
    ),
    Kind(
        id="redelivery",
        title="From kill -9 of a worker to the next start of its job",
        step="redelivery",
        figure="seconds",
        unit="s",
        better="lower",
    ),
)
CURVES: Final = {
    "ways": ("Drain with results in other ways", "how"),
    "depth": ("Drain with results by queued jobs", "jobs queued"),
    "keys": ("Drain with results by routing keys", "routing keys"),
    "priorities": ("Drain with results by priorities in use", "priorities"),
    "payload": ("Drain without results by payload", "bytes of payload"),
    "processes": ("Drain with results by worker processes", "worker processes"),
}


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Which share of another rate Bananas is to reach. ``base``: the rate at the first place of the
    curve, or the highest of all; ``least``: at each place, or at those named."""

    base: Literal["first", "highest"] = "first"
    least: float | dict[str, float]

    def at(self, x: float | str) -> float | None:
        if isinstance(self.least, dict):
            return self.least.get(str(x))
        return self.least


TARGETS: Final = {
    "ways": Target(least={DEFAULT: 0.6, THREADS: 0.4}),
    "depth": Target(base="highest", least=0.8),
    "priorities": Target(least=0.75),
    "keys": Target(least=0.7),
}


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One step's outcome: figures, or why there are none."""

    measure: str
    subject: str
    round: int
    x: float | str | None = None
    figures: Figures = {}
    failed: str | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One subject's median, lowest and highest of all rounds. The ratios are medians of each
    round's own pair with a loop. CPU is microseconds per job."""

    subject: str
    value: float
    low: float
    high: float
    rounds: int
    to_simple: float | None = None
    to_tight: float | None = None
    client_cpu_us: float | None = None
    server_cpu_us: float | None = None
    note: str = ""


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    title: str
    unit: Unit
    better: Literal["higher", "lower"]
    rows: list[Row]


class Point(msgspec.Struct, frozen=True, kw_only=True):
    subject: str
    x: float | str
    value: float
    low: float
    high: float
    client_cpu_us: float | None
    server_cpu_us: float | None
    share: float | None = None
    """Of the base: the median of each round's own share."""
    least: float | None = None
    """The target for that; Bananas only."""
    note: str = ""


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    title: str
    x_label: str
    base: Literal["first", "highest"] = "first"
    """Of which the points are shares."""
    points: list[Point]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON file. Times in seconds, sizes in bytes, rates in jobs per second."""

    schema: str
    about: dict[str, Any]
    subjects: list[dict[str, Any]]
    measures: list[Measure]
    curves: list[Curve]
    failures: list[str]


def summarise(
    samples: Sequence[Sample], about: dict[str, Any], subjects: list[dict[str, Any]]
) -> Report:
    good = [s for s in samples if s.failed is None]
    return Report(
        schema=SCHEMA,
        about=about,
        subjects=subjects,
        measures=[m for m in (measure(kind, good) for kind in MEASURES) if m.rows],
        curves=[c for c in (curve(id, good) for id in CURVES) if c.points],
        failures=[
            f"{s.subject}, {s.measure}{'' if s.x is None else f' at {place(s.x)}'}: {s.failed}"
            for s in samples
            if s.failed is not None
        ],
    )


def measure(kind: Kind, samples: Sequence[Sample]) -> Measure:
    mine = [s for s in samples if s.measure == kind.step and s.x is None]
    loops = {
        name: {s.round: s.figures[kind.figure] for s in mine if s.subject == name}
        for name in (SIMPLE, TIGHT)
    }
    rows = []
    for subject in dict.fromkeys(s.subject for s in mine):
        found = [s for s in mine if s.subject == subject]
        values = [s.figures[kind.figure] for s in found]
        cpu: list[float | None] = [None, None]
        if kind.cpu is not None:
            cpu = [middle(found, name) for name in kind.cpu]
        rows.append(
            Row(
                subject=subject,
                value=statistics.median(values),
                low=min(values),
                high=max(values),
                rounds=len(values),
                to_simple=ratio(found, kind.figure, loops[SIMPLE]),
                to_tight=ratio(found, kind.figure, loops[TIGHT]),
                client_cpu_us=cpu[0],
                server_cpu_us=cpu[1],
                note=notes(found),
            )
        )
    return Measure(id=kind.id, title=kind.title, unit=kind.unit, better=kind.better, rows=rows)


def ratio(samples: Sequence[Sample], figure: str, loop: dict[int, float]) -> float | None:
    pairs = [s.figures[figure] / loop[s.round] for s in samples if loop.get(s.round)]
    return statistics.median(pairs) if pairs else None


def curve(id: str, samples: Sequence[Sample]) -> Curve:
    mine = [s for s in samples if s.measure == id]
    target = TARGETS.get(id)
    base: Literal["first", "highest"] = "first" if target is None else target.base
    points = []
    for subject, x in dict.fromkeys((s.subject, s.x) for s in mine):
        found = [s for s in mine if (s.subject, s.x) == (subject, x)]
        values = [s.figures["drain"] for s in found]
        assert x is not None
        points.append(
            Point(
                subject=subject,
                x=x,
                value=statistics.median(values),
                low=min(values),
                high=max(values),
                client_cpu_us=middle(found, "worker_cpu_us"),
                server_cpu_us=middle(found, "server_cpu_us"),
                share=share(found, [s for s in mine if s.subject == subject], base),
                least=target.at(x) if target is not None and subject == BANANAS else None,
                note=notes(found),
            )
        )
    title, label = CURVES[id]
    return Curve(id=id, title=title, x_label=label, base=base, points=points)


def share(
    found: Sequence[Sample], mine: Sequence[Sample], base: Literal["first", "highest"]
) -> float | None:
    """Of one place's samples, beside all of the same subject."""
    shares = []
    for sample in found:
        beside = [s for s in mine if s.round == sample.round]
        if base == "highest":
            whole = max(s.figures["drain"] for s in beside)
        else:
            whole = next((s.figures["drain"] for s in beside if s.x == mine[0].x), 0.0)
        if whole:
            shares.append(sample.figures["drain"] / whole)
    return statistics.median(shares) if shares else None


def middle(samples: Sequence[Sample], figure: str) -> float | None:
    """The median of those that have it."""
    found = [s.figures[figure] for s in samples if figure in s.figures]
    return statistics.median(found) if found else None


def notes(samples: Sequence[Sample]) -> str:
    """What a reader must know to read the figure."""
    found = []
    if any(s.figures.get("never") for s in samples):
        found.append(f"not within {GIVE_UP:.0f} s")
    if short := max((s.figures.get("short", 0) for s in samples), default=0):
        found.append(f"the first {DRAIN_SECONDS:.0f} s only: up to {short:.0f} jobs were left")
    if twice := max((s.figures.get("twice", 0) for s in samples), default=0):
        found.append(f"{twice:.0f} jobs ran twice")
    return "; ".join(found)


def place(x: float | str) -> str:
    return x if isinstance(x, str) else f"{x:,.0f}"
