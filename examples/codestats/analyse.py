"""What can be said of one Python file: pure functions on its source, no queue in sight."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePath

KEPT_FUNCTIONS = 10
"""How many functions of a module are kept, the most complex ones."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.Assert,
)


@dataclass(frozen=True)
class FunctionStats:
    """One function or method; ``name`` is qualified by its classes and functions."""

    name: str
    line: int
    lines: int
    complexity: int


@dataclass(frozen=True)
class ModuleStats:
    """One file."""

    module: str
    lines: int
    functions: int
    classes: int
    complexity: int
    """The sum over all functions."""
    most_complex: list[FunctionStats] = field(default_factory=list)
    imports: list[str] = field(default_factory=list)
    """Absolute names, each once, sorted."""


def module_name(path: PurePath) -> str:
    """The dotted name of a file from its path below the tree's root."""
    parts = list(path.with_suffix("").parts)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return ".".join(parts)


def analyse(source: bytes, module: str, *, is_package: bool = False) -> ModuleStats:
    """Parse a file and count.

    Args:
        source: as it lies on disk; the encoding is found as Python finds it.
        module: the file's dotted name.
        is_package: it is an ``__init__.py``, which counts for relative imports.

    Raises:
        SyntaxError, ValueError: it is not Python of this version.
    """
    tree = ast.parse(source, filename=module)  # named in a SyntaxError's text
    functions = sorted(
        functions_of(tree), key=lambda function: (-function.complexity, function.line)
    )
    return ModuleStats(
        module=module,
        lines=len(source.splitlines()),
        functions=len(functions),
        classes=sum(isinstance(node, ast.ClassDef) for node in _statements(tree)),
        complexity=sum(function.complexity for function in functions),
        most_complex=functions[:KEPT_FUNCTIONS],
        imports=sorted(imports_of(tree, module, is_package=is_package)),
    )


def functions_of(node: ast.AST, prefix: str = "") -> Iterator[FunctionStats]:
    """All named functions under a node, those inside classes and functions too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{prefix}{child.name}"
            yield FunctionStats(
                name=name,
                line=child.lineno,
                lines=(child.end_lineno or child.lineno) - child.lineno + 1,
                complexity=complexity(child),
            )
            yield from functions_of(child, f"{name}.")
        elif isinstance(child, ast.ClassDef):
            yield from functions_of(child, f"{prefix}{child.name}.")
        elif not isinstance(child, ast.expr):  # no statement hides in an expression
            yield from functions_of(child, prefix)


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes that are no expressions, which most nodes are."""
    stack = [tree]
    while stack:
        for child in ast.iter_child_nodes(stack.pop()):
            if not isinstance(child, ast.expr):
                yield child
                stack.append(child)


def complexity(function: _Function) -> int:
    """McCabe's cyclomatic complexity: 1 and one more for each way to branch. A function inside
    counts for itself, a lambda and a comprehension for the function that they stand in."""
    return 1 + sum(_branches(node) for node in _own_nodes(function))


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    stack = [function]
    while stack:
        for child in ast.iter_child_nodes(stack.pop()):
            if not isinstance(child, _SCOPES):
                yield child
                stack.append(child)


def _branches(node: ast.AST) -> int:
    if isinstance(node, _BRANCHES):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    if isinstance(node, ast.match_case):
        default = isinstance(node.pattern, ast.MatchAs) and node.pattern.pattern is None
        return 0 if default and node.guard is None else 1
    return 0


def imports_of(tree: ast.AST, module: str, *, is_package: bool) -> set[str]:
    """Absolute names of all that is imported, relative imports resolved."""
    found: set[str] = set()
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                found.add(node.module or "")
                continue
            parts = module.split(".")
            up = node.level - (1 if is_package else 0)
            base = parts[: len(parts) - up] if up else parts
            target = [*base, *([node.module] if node.module else [])]
            if target:
                found.add(".".join(target))
    found.discard("")
    return found
