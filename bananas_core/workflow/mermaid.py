"""The graph of a workflow as Mermaid text, for documents, issues and dashboards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from bananas_core.workflow.compile import Record
from bananas_core.workflow.node import NodeInfo, node_id
from bananas_core.workflow.tree import Found
from bananas_core.workflow.views import is_skipped, state_of

LONGEST: Final = 60
"""Characters of a label."""
COLOURS: Final = {
    "completed": "fill:#d5f0d5,stroke:#2c7a2c",
    "failed": "fill:#f6d0d0,stroke:#a32020",
    "quarantined": "fill:#e8d0f0,stroke:#7a2c8f",
    "cancelled": "fill:#f5e9c4,stroke:#8f6f12",
    "skipped": "fill:#eeeeee,stroke:#888888,stroke-dasharray:4",
    "processing": "fill:#cfe6f7,stroke:#1f6291",
}
"""By state; others have none."""


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """A node. ``note``: what stands after its name; ``state``: its colour."""

    id: str
    info: NodeInfo
    note: str = ""
    state: str = ""


def planned(records: Sequence[Record]) -> list[Drawn]:
    """A workflow that was not submitted yet."""
    return [
        Drawn(id=record.id, info=record.info, note="" if record.place is None else "× …")
        for record in records
    ]


def running(found: Found) -> Drawn:
    """A node of a workflow that was submitted."""
    return Drawn(
        id=found.job.id,
        info=found.info,
        note=f"and {found.left_out} more" if found.left_out else "",
        state="skipped" if is_skipped(found.job) else state_of(found.job).value,
    )


def mermaid(nodes: Iterable[Drawn]) -> str:
    """A flowchart; groups and dags are subgraphs. The first node is the workflow itself."""
    root, *rest = nodes
    names = {node.id: f"n{number}" for number, node in enumerate(rest)}
    inside: dict[str | None, list[Drawn]] = {}
    for node in rest:
        inside.setdefault(node.info.scope, []).append(node)
    lines = ["flowchart TD", *_boxes(inside, names, root.id, "  ")]
    for node in rest:
        info = node.info
        if info.stands_for is not None:
            lines.append(f"  {names[info.stands_for]} -.-> {names[node.id]}")
        elif info.scope is not None:
            before = [names.get(node_id(info.scope, i)) for i in info.after]
            lines += [f"  {name} --> {names[node.id]}" for name in before if name is not None]
    for state, colour in COLOURS.items():
        of = [names[node.id] for node in rest if node.state == state]
        if of:
            lines += [f"  classDef {state} {colour}", f"  class {','.join(of)} {state}"]
    return "\n".join(lines) + "\n"


def _boxes(
    inside: dict[str | None, list[Drawn]], names: dict[str, str], scope: str, indent: str
) -> list[str]:
    lines = []
    for node in inside.get(scope, ()):
        text = _text(f"{node.info.node.rpartition('/')[2]} {node.note}".strip())
        if node.info.kind is None:
            lines.append(f'{indent}{names[node.id]}["{text}"]')
        else:
            lines.append(f'{indent}subgraph {names[node.id]}["{text}"]')
            lines += _boxes(inside, names, node.id, indent + "  ")
            lines.append(f"{indent}end")
    return lines


def _text(text: str) -> str:
    short = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return short.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
