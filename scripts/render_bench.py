"""The figures of docs/explanation/benchmarks.md, from the JSON that ``make bench`` writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "explanation" / "benchmarks.md"
DATA: Final = ROOT / "docs" / "data" / "bench-redis.json"
SCHEMA: Final = "bananas-bench/1"
BEGIN: Final = "<!-- Figures: rendered by scripts/render_docs.py from docs/data; don't edit. -->\n"
END: Final = "<!-- End of the figures. -->\n"
TABLES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "Submit": (("submit_p50", "one call, p50"), ("submit_p99", "p99"), ("bulk", "in bulk")),
    "Run": (("drain", "without results"), ("drain_results", "with results")),
    "Wait and cost": (
        ("latency_p50", "submit to start, p50"),
        ("latency_p99", "p99"),
        ("memory", "idle worker"),
        ("import", "import"),
        ("redelivery", "start after kill -9"),
    ),
}
WITH_RATIOS: Final = ("bulk", "drain", "drain_results")


def benchmarks() -> str:
    """The page with its figures replaced by those of the JSON."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    data = json.loads(DATA.read_text("utf-8"))
    assert data["schema"] == SCHEMA, f"{DATA}: schema {data['schema']}, this knows {SCHEMA}"
    return before + BEGIN + "\n" + "\n".join(figures(data)) + "\n" + END + after


def figures(data: dict[str, Any]) -> Iterator[str]:
    about = data["about"]
    yield (
        f"Run of {about['date']}, profile {about['profile']}: {about['server']} "
        f"(append-only file: {about['append_only']}), Python {about['python']}, {about['system']}, "
        f"{about['cores']} cores, {about['processor']}.\n"
    )
    if all(subject["name"] != "Bananas" for subject in data["subjects"]):
        yield "Bananas was left out of this run.\n"
    measures = {measure["id"]: measure for measure in data["measures"]}
    for title, columns in TABLES.items():
        shown = [(measures[id], label) for id, label in columns if id in measures]
        if shown:
            yield f"### {title}\n"
            yield from table(data["subjects"], shown)
            yield ""
    yield from curves(data["curves"])
    yield "### Versions and settings\n"
    yield "| subject | versions | settings | survives the death of a worker |"
    yield "|---|---|---|---|"
    for subject in data["subjects"]:
        versions = ", ".join(f"{name} {version}" for name, version in subject["versions"].items())
        reliable = {True: "yes", False: "no", None: ""}[subject["reliable"]]
        yield f"| {subject['name']} | {versions} | {subject['settings']} | {reliable} |"


def table(subjects: list[dict[str, Any]], shown: list[tuple[dict[str, Any], str]]) -> Iterator[str]:
    """A row a subject. Rates come with their range, ratios to both loops and CPU per job."""
    head, rule = ["subject"], ["---"]
    for measure, label in shown:
        extra = ["× simple / tight", "CPU µs/job + server"] if measure["id"] in WITH_RATIOS else []
        head += [label, *extra]
        rule += ["--:"] * (1 + len(extra))
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join(rule)}|"
    for subject in subjects:
        cells = [subject["name"]]
        for measure, _ in shown:
            row = next((r for r in measure["rows"] if r["subject"] == subject["name"]), None)
            extra = 2 if measure["id"] in WITH_RATIOS else 0
            cells += [""] * (1 + extra) if row is None else cells_of(measure, row)
        yield f"| {' | '.join(cells)} |"


def cells_of(measure: dict[str, Any], row: dict[str, Any]) -> list[str]:
    show = SHOW[measure["unit"]]
    value = f"**{show(row['value'])}**"
    if row["rounds"] > 1:
        value += f" ({show(row['low'])} – {show(row['high'])})"
    if row["note"]:
        value = row["note"] if "not within" in row["note"] else f"{value}; {row['note']}"
    if measure["id"] not in WITH_RATIOS:
        return [value]
    ratios = [row["to_simple"], row["to_tight"]]
    cpu = [row["client_cpu_us"], row["server_cpu_us"]]
    return [
        value,
        " / ".join("–" if ratio is None else f"{ratio:.2g}" for ratio in ratios),
        " + ".join(f"{part:.1f}" for part in cpu),
    ]


def curves(found: list[dict[str, Any]]) -> Iterator[str]:
    for curve in found:
        subjects = list(dict.fromkeys(point["subject"] for point in curve["points"]))
        yield f"### {curve['title']}\n"
        yield f"| {curve['x_label']} | {' | '.join(subjects)} |"
        yield f"|--:|{'--:|' * len(subjects)}"
        for x in dict.fromkeys(point["x"] for point in curve["points"]):
            at = {p["subject"]: p for p in curve["points"] if p["x"] == x}
            rates = [shown_point(at[s]) if s in at else "" for s in subjects]
            yield f"| {x:,.0f} | {' | '.join(rates)} |"
        yield ""
        for point in curve["points"]:
            if point["note"]:
                yield f"\\* {point['subject']} at {point['x']:,.0f}: {point['note']}.\n"


def shown_point(point: dict[str, Any]) -> str:
    return f"{point['value']:,.0f}" + (" \\*" if point["note"] else "")


def seconds(value: float) -> str:
    if value >= 1:
        return f"{value:.1f} s"
    if value < 1e-3:
        return f"{value * 1e6:.0f} µs"
    return f"{value * 1e3:.{0 if value >= 0.01 else 1}f} ms"


SHOW: Final[dict[str, Callable[[float], str]]] = {
    "jobs/s": lambda value: f"{value:,.0f}",
    "bytes": lambda value: f"{value / (1 << 20):.0f} MiB",
    "s": seconds,
}
