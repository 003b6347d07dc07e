"""Counting one file."""

from __future__ import annotations

import ast
from pathlib import PurePosixPath
from textwrap import dedent

import pytest

from examples.codestats.analyse import analyse, complexity, imports_of, module_name
from examples.codestats.report import build_report


def _complexity(source: str) -> int:
    function = ast.parse(dedent(source)).body[0]
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    return complexity(function)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(): pass", 1),
        ("def f(a):\n if a: pass\n elif a > 1: pass\n else: pass", 3),
        ("def f(a):\n return 1 if a and a > 1 or not a else 2", 4),
        ("def f(a):\n for x in a:\n  while x: x -= 1", 3),
        ("def f():\n try: pass\n except ValueError: pass\n except KeyError: pass", 3),
        ("def f(a):\n return [x for x in a if x if x > 1]", 4),
        ("def f(a):\n assert a\n with a: pass", 2),
        ("def f(a):\n match a:\n  case 1: pass\n  case [2]: pass\n  case _: pass", 3),
        ("def f(a):\n match a:\n  case x if x > 1: pass", 2),
        ("def f(a):\n return lambda b: b or a", 2),
        ("def f(a):\n def g(b):\n  if b: pass\n return g", 1),
        ("async def f(a):\n async for x in a: pass", 2),
    ],
)
def test_complexity_counts_the_ways_to_branch(source: str, expected: int) -> None:
    assert _complexity(source) == expected


def test_a_module_is_counted_with_nested_functions_and_methods() -> None:
    stats = analyse(
        dedent(
            """\
            import os.path

            class A:
                def method(self):
                    def inner(x):
                        return x or 1
                    return inner

            if True:
                async def branchy(x):
                    if x:
                        return 1
                    return 2 if x else 3
            """
        ).encode(),
        "pkg.mod",
    )
    assert (stats.lines, stats.functions, stats.classes, stats.complexity) == (13, 3, 1, 6)
    assert [(f.name, f.complexity, f.line, f.lines) for f in stats.most_complex] == [
        ("branchy", 3, 10, 4),
        ("A.method.inner", 2, 5, 2),
        ("A.method", 1, 4, 4),
    ]
    assert stats.imports == ["os.path"]


def test_only_the_most_complex_functions_are_kept() -> None:
    source = "\n".join(f"def f{n}(a):\n return {' or '.join('a' * (n + 1))}" for n in range(20))
    stats = analyse(source.encode(), "m")
    assert stats.functions == 20
    assert [f.name for f in stats.most_complex] == [f"f{n}" for n in range(19, 9, -1)]


@pytest.mark.parametrize(
    ("source", "module", "is_package", "expected"),
    [
        ("import a, b.c as d", "m", False, {"a", "b.c"}),
        ("from a.b import c", "m", False, {"a.b"}),
        ("from . import c", "p.q.m", False, {"p.q"}),
        ("from .x import c", "p.q.m", False, {"p.q.x"}),
        ("from ..x import c", "p.q.m", False, {"p.x"}),
        ("from .x import c", "p.q", True, {"p.q.x"}),
        ("from .. import c", "p.q", True, {"p"}),
        ("from . import c", "m", False, set()),
        ("def f():\n import late", "m", False, {"late"}),
    ],
)
def test_imports_are_absolute(
    source: str, module: str, is_package: bool, expected: set[str]
) -> None:
    assert imports_of(ast.parse(source), module, is_package=is_package) == expected


@pytest.mark.parametrize("source", [b"print 'old'", b"a = '\xff'", b"# coding: nonsense\n", b"\0"])
def test_what_is_no_python_raises(source: bytes) -> None:
    with pytest.raises((SyntaxError, ValueError)):
        analyse(source, "m")


@pytest.mark.parametrize(
    ("path", "name"),
    [("a.py", "a"), ("a/b.py", "a.b"), ("a/__init__.py", "a"), ("__init__.py", "__init__")],
)
def test_module_names_come_from_paths(path: str, name: str) -> None:
    assert module_name(PurePosixPath(path)) == name


def test_the_report_adds_up_and_knows_packages_of_the_tree_only() -> None:
    stats = [
        analyse(b"import b\nimport sys\ndef f(a):\n if a: pass\n", "a.one"),
        analyse(b"import b.x\nfrom a import one\n", "a.two"),
        analyse(b"def g(a): return a\n", "b.x"),
    ]
    report = build_report(stats)
    assert (report.files, report.lines, report.functions, report.classes) == (3, 7, 2, 0)
    assert report.package_imports == [("a", "b", 2)]
    assert [m.module for m in report.largest] == ["a.one", "a.two", "b.x"]
    assert [(module, f.name) for module, f in report.most_complex] == [("a.one", "f"), ("b.x", "g")]
    assert len(build_report(stats, top=1).largest) == 1


def test_equally_complex_functions_are_in_order_of_module_and_line() -> None:
    stats = [analyse(b"def z(): pass\ndef y(): pass\n", name) for name in ("b", "a")]
    report = build_report(stats)
    named = [(module, f.name) for module, f in report.most_complex]
    assert named == [("a", "z"), ("a", "y"), ("b", "z"), ("b", "y")]
