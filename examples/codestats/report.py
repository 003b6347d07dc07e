"""From the files' statistics to tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from examples.codestats.analyse import FunctionStats, ModuleStats


@dataclass(frozen=True)
class Report:
    """What the whole tree comes to."""

    files: int
    lines: int
    functions: int
    classes: int
    largest: list[ModuleStats]
    most_complex: list[tuple[str, FunctionStats]]
    """(module, function)"""
    package_imports: list[tuple[str, str, int]]
    """(importing package, imported package, number of modules that do so)"""


def build_report(stats: Iterable[ModuleStats], *, top: int = 10) -> Report:
    """Sums and top lists."""
    modules = list(stats)
    packages = {package(module.module) for module in modules}
    edges: Counter[tuple[str, str]] = Counter()
    for module in modules:
        own = package(module.module)
        edges.update({(own, package(name)) for name in module.imports if package(name) in packages})
    functions = [(module.module, f) for module in modules for f in module.most_complex]
    return Report(
        files=len(modules),
        lines=sum(module.lines for module in modules),
        functions=sum(module.functions for module in modules),
        classes=sum(module.classes for module in modules),
        largest=sorted(modules, key=lambda m: (-m.lines, m.module))[:top],
        most_complex=sorted(functions, key=lambda f: (-f[1].complexity, f[0], f[1].line))[:top],
        package_imports=[
            (importer, imported, count)
            for (importer, imported), count in sorted(edges.items(), key=lambda e: (-e[1], e[0]))
            if importer != imported
        ][:top],
    )


def package(module: str) -> str:
    """The first part of a dotted name."""
    return module.partition(".")[0]


def print_report(report: Report, console: Console) -> None:
    """Three tables and a line of sums."""
    console.print(
        _table(
            "Largest modules",
            ("module", "lines", "functions", "classes"),
            [(m.module, m.lines, m.functions, m.classes) for m in report.largest],
        )
    )
    console.print(
        _table(
            "Most complex functions",
            ("function", "complexity", "lines", "at line"),
            [(f"{m}.{f.name}", f.complexity, f.lines, f.line) for m, f in report.most_complex],
        )
    )
    console.print(
        _table(
            "Imports between packages",
            ("package", "imports", "modules"),
            report.package_imports,
        )
    )
    console.print(
        f"{report.files:,} files, {report.lines:,} lines, {report.functions:,} functions, "
        f"{report.classes:,} classes"
    )


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # Text, not str: names from a strange tree are never read as markup.
        table.add_row(*(Text(f"{v:,}" if isinstance(v, int) else str(v)) for v in row))
    return table
