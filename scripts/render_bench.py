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
        ("memory", "idle worker, all of it"),
        ("largest", "its largest process"),
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
    """A row a subject. Figures come with their range; rates with the ratios to both loops; what
    has CPU per job, with that."""
    head, rule = ["subject"], ["---"]
    for measure, label in shown:
        extra = extras(measure)
        head += [label, *extra]
        rule += ["--:"] * (1 + len(extra))
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join(rule)}|"
    for subject in subjects:
        cells = [subject["name"]]
        for measure, _ in shown:
            row = next((r for r in measure["rows"] if r["subject"] == subject["name"]), None)
            cells += [""] * (1 + len(extras(measure))) if row is None else cells_of(measure, row)
        yield f"| {' | '.join(cells)} |"


def extras(measure: dict[str, Any]) -> list[str]:
    """The columns beside a measure's own."""
    found = ["× simple / tight"] if measure["id"] in WITH_RATIOS else []
    if any(row["client_cpu_us"] is not None for row in measure["rows"]):
        found.append("CPU µs/job + server")
    return found


def cells_of(measure: dict[str, Any], row: dict[str, Any]) -> list[str]:
    show = SHOW[measure["unit"]]
    value = f"**{show(row['value'])}**"
    if row["rounds"] > 1:
        value += f" ({show(row['low'])} – {show(row['high'])})"
    if row["note"]:
        value = row["note"] if "not within" in row["note"] else f"{value}; {row['note']}"
    cells = [value]
    if measure["id"] in WITH_RATIOS:
        ratios = [row["to_simple"], row["to_tight"]]
        cells.append(" / ".join("–" if ratio is None else f"{ratio:.2g}" for ratio in ratios))
    if len(extras(measure)) > len(cells) - 1:
        cells.append(cpu_of(row))
    return cells


def cpu_of(found: dict[str, Any]) -> str:
    if found["client_cpu_us"] is None:
        return "–"
    return f"{found['client_cpu_us']:.1f} + {found['server_cpu_us']:.1f}"


def curves(found: list[dict[str, Any]]) -> Iterator[str]:
    for curve in found:
        subjects = list(dict.fromkeys(point["subject"] for point in curve["points"]))
        yield f"### {curve['title']}\n"
        head = [curve["x_label"]]
        for subject in subjects:
            head += [subject, "CPU µs/job + server"]
            if subject == "Bananas":
                head.append(f"share of the {curve['base']}")
        yield f"| {' | '.join(head)} |"
        yield f"|{'--:|' * len(head)}"
        for x in dict.fromkeys(point["x"] for point in curve["points"]):
            at = {p["subject"]: p for p in curve["points"] if p["x"] == x}
            cells = [place(x)]
            for subject in subjects:
                cells += point_cells(at.get(subject), subject == "Bananas")
            yield f"| {' | '.join(cells)} |"
        yield ""
        for point in curve["points"]:
            if point["note"]:
                yield f"\\* {point['subject']} at {place(point['x'])}: {point['note']}.\n"


def point_cells(point: dict[str, Any] | None, with_share: bool) -> list[str]:
    """Rate, CPU and, with the target, the share of the curve's base."""
    if point is None:
        return [""] * (3 if with_share else 2)
    cells = [f"{point['value']:,.0f}" + (" \\*" if point["note"] else ""), cpu_of(point)]
    if with_share:
        share, least = point["share"], point["least"]
        text = "" if share is None else f"{share:.2f}"
        if share is not None and least is not None:
            text += f" (target {least:g}{'' if share >= least else ', missed'})"
        cells.append(text)
    return cells


def place(x: float | str) -> str:
    return x if isinstance(x, str) else f"{x:,.0f}"


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
