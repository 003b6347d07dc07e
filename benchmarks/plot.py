"""The figures as pictures: rates of all subjects, and the curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks.plan import BANANAS, SIMPLE, TIGHT
from benchmarks.report import Curve, Measure, Report

COLOURS: Final = {BANANAS: "#e3a008", SIMPLE: "#6b7280", TIGHT: "#374151"}
PEER: Final = "#2563eb"
RATES: Final = ("bulk", "drain", "drain_results")


def plot(report: Report, rates: Path, scaling: Path) -> None:
    """Write both pictures as SVG. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    # The same figures give the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "bananas", "font.size": 9})
    import matplotlib.pyplot as plt

    shown = [item for item in report.measures if item.id in RATES]
    if shown:
        figure, axes = plt.subplots(1, len(shown), figsize=(11, 4), squeeze=False)
        for axis, item in zip(axes[0], shown, strict=True):
            draw_rates(axis, item)
        save(figure, rates)
        plt.close(figure)
    lines = [line for line in report.curves if not isinstance(line.points[0].x, str)]
    if lines:
        figure, axes = plt.subplots(1, len(lines), figsize=(2.9 * len(lines), 3.2), squeeze=False)
        for axis, line in zip(axes[0], lines, strict=True):
            draw_curve(axis, line)
        save(figure, scaling)
        plt.close(figure)


def draw_rates(axis: Any, item: Measure) -> None:
    """Points with their ranges: on a logarithmic axis a bar's length would mean nothing."""
    rows = list(reversed(item.rows))
    for place, row in enumerate(rows):
        span = [[row.value - row.low], [row.high - row.value]]
        colour = COLOURS.get(row.subject, PEER)
        axis.errorbar(row.value, place, xerr=span, fmt="o", ms=6, color=colour, ecolor=colour)
        axis.text(row.high * 1.25, place, f"{row.value:,.0f}", va="center", fontsize=7)
    axis.set_yticks(range(len(rows)), [row.subject for row in rows])
    axis.grid(axis="x", color="#e5e7eb")
    axis.set_axisbelow(True)
    axis.set_xscale("log")
    axis.set_xlim(right=max(row.high for row in rows) * 8)
    axis.set_xlabel("jobs/s (logarithmic)")
    axis.set_title(item.title, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)


def draw_curve(axis: Any, line: Curve) -> None:
    for subject in dict.fromkeys(point.subject for point in line.points):
        points = [point for point in line.points if point.subject == subject]
        xs, colour = [point.x for point in points], COLOURS.get(subject, PEER)
        axis.plot(xs, [point.value for point in points], "o-", ms=3, color=colour, label=subject)
        low, high = [point.low for point in points], [point.high for point in points]
        axis.fill_between(xs, low, high, color=colour, alpha=0.2)
    if max(float(point.x) for point in line.points) > 10:
        axis.set_xscale("log")
    if len({point.subject for point in line.points}) > 1:  # orders of magnitude apart
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    axis.set_xlabel(line.x_label)
    axis.set_ylabel("jobs/s")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")
    axis.set_title(line.title, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    if len({point.subject for point in line.points}) > 1:
        axis.legend(fontsize=7, frameon=False)


def save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
