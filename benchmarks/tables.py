"""A report for people, on a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rich.table import Table

from benchmarks.report import Point, Report, place

SHOW: Final[dict[str, Callable[[float], str]]] = {
    "jobs/s": lambda value: f"{value:,.0f}",
    "bytes": lambda value: f"{value / (1 << 20):.0f} MiB",
    "s": lambda value: f"{value:.1f} s" if value >= 1 else shown_small(value),
}


def shown_point(point: Point) -> str:
    """Rate, share of the base and CPU. ``!``: the target is missed."""
    text = f"{point.value:,.0f}{' *' if point.note else ''}"
    if point.share is not None:
        missed = point.least is not None and point.share < point.least
        wanted = "" if point.least is None else f" (≥ {point.least:g})"
        text += f"  × {point.share:.2f}{wanted}{' !' if missed else ''}"
    if point.client_cpu_us is None or point.server_cpu_us is None:
        return text
    return f"{text}  {point.client_cpu_us:.1f} + {point.server_cpu_us:.1f} µs"


def shown_small(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


def tables(report: Report) -> list[Table]:
    made = []
    for item in report.measures:
        show = SHOW[item.unit]
        names = ["subject", item.unit, "range", "× simple", "× tight"]
        table = Table(title=f"{item.title} ({item.better} is better)", title_justify="left")
        with_cpu = any(row.client_cpu_us is not None for row in item.rows)
        for name in [*names, *(["CPU µs/job", "server"] if with_cpu else []), "note"]:
            table.add_column(name, justify="left" if name in ("subject", "note") else "right")
        for row in item.rows:
            cpu = [f"{v:.1f}" for v in (row.client_cpu_us, row.server_cpu_us) if v is not None]
            table.add_row(
                row.subject,
                show(row.value),
                f"{show(row.low)} – {show(row.high)}",
                *("" if v is None else f"{v:.3g}" for v in (row.to_simple, row.to_tight)),
                *cpu,
                row.note,
            )
        made.append(table)
    for line in report.curves:
        table = Table(title=line.title, title_justify="left")
        subjects = list(dict.fromkeys(point.subject for point in line.points))
        table.add_column(line.x_label, justify="right")
        for subject in subjects:
            table.add_column(f"{subject}: jobs/s, × {line.base}, CPU", justify="right")
        for x in dict.fromkeys(point.x for point in line.points):
            at = {point.subject: point for point in line.points if point.x == x}
            table.add_row(
                place(x),
                *(shown_point(at[s]) if s in at else "" for s in subjects),
            )
        notes_below = dict.fromkeys(f"* {p.subject}: {p.note}" for p in line.points if p.note)
        table.caption = "\n".join(notes_below) or None
        made.append(table)
    return made
