"""The figures as pictures: rates of all subjects, and the curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from benchmarks.plan import BANANAS, SIMPLE, TIGHT
from benchmarks.report import Curve, Measure, Report

COLOURS: Final = {BANANAS: "#e3a008", SIMPLE: "#6b7280", TIGHT: "#374151"}
PEER: Final = "#93c5fd"
BARS: Final = ("bulk", "drain", "drain_results")


def plot(report: Report, rates: Path, scaling: Path) -> None:
    """Write both pictures as SVG. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    # The same figures give the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "bananas", "font.size": 9})
    import matplotlib.pyplot as plt

    bars = [item for item in report.measures if item.id in BARS]
    if bars:
        figure, axes = plt.subplots(1, len(bars), figsize=(11, 4), squeeze=False)
        for axis, item in zip(axes[0], bars, strict=True):
            draw_bars(axis, item)
        save(figure, rates)
        plt.close(figure)
    if report.curves:
        figure, axes = plt.subplots(
            1, len(report.curves), figsize=(2.9 * len(report.curves), 3.2), squeeze=False
        )
        for axis, line in zip(axes[0], report.curves, strict=True):
            draw_curve(axis, line)
        save(figure, scaling)
        plt.close(figure)


def draw_bars(axis: Any, item: Measure) -> None:
    rows = list(reversed(item.rows))
    colours = [COLOURS.get(row.subject, PEER) for row in rows]
    values = [row.value for row in rows]
    spans = [[r.value - r.low for r in rows], [r.high - r.value for r in rows]]
    axis.barh([row.subject for row in rows], values, color=colours, xerr=spans, ecolor="#9ca3af")
    for place, row in enumerate(rows):
        axis.text(row.high * 1.1, place, f"{row.value:,.0f}", va="center", fontsize=7)
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
    if max(point.x for point in line.points) > 10:
        axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set_xlabel(line.x_label)
    axis.set_ylabel("jobs/s")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value / 1000:.0f}k")
    axis.set_title(line.title, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    if len({point.subject for point in line.points}) > 1:
        axis.legend(fontsize=7, frameon=False)


def save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
