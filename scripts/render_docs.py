"""Render the reference pages that are lists of what the code says.

    python scripts/render_docs.py           writes the lists in docs/reference, the figures of
                                            docs/explanation and the badges of docs/data
    python scripts/render_docs.py --check   exits 1 and names the pages that are stale

The words come from docstrings, field descriptions and help texts: change them there.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any, Literal

import msgspec
from render_bench import benchmarks
from render_drivers import badges, drivers
from render_postgres import postgres
from render_redis import redis_memory, redis_stages
from render_workflows import workflows

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
CORE = ROOT / "bananas_core"
FAULTS = [
    ROOT / "docs" / "data" / name
    for name in ("faults.json", "faults-redis.json", "faults-postgres.json", "faults-rabbitmq.json")
]
NOTE = "<!-- Rendered by scripts/render_docs.py from {}; don't edit this page. -->\n\n"
PROMISE = re.compile(r"^([A-Z]\d+)\. ", re.MULTILINE)

GUARANTEES = """# Guarantees

What you may count on, in plain words, then every promise of the two contracts by its number.

- **A job is not lost.** Once `submit` has returned, the job ends as completed, failed, cancelled
  or quarantined, as long as the ledger keeps what it confirmed.
- **A body runs at least once.** If a worker dies after the work and before its outcome is
  recorded, the work is done again. Make bodies safe to repeat: `current_job().id` is the same on
  every run of a job, so it can serve as an idempotency key.
- **An outcome is recorded once.** A worker whose claim was taken away can still be running, but
  what it reports is refused.
- **A crash is noticed.** A claim lasts {ttl:g} s unless it is renewed. A job whose process died is
  run elsewhere; when {deaths} processes have died running it, it is quarantined instead.
- **An outage ends nothing.** When the ledger could not be reached for more than {gap:g} s, no claim
  ends for another {ttl:g} s.

How this is done: [at least once, and the fence](../explanation/at-least-once-and-the-fence.md).
What each capability of a driver means is in the contracts themselves,
`bananas_core/transport.py` and `bananas_core/results.py`. *Tests* are those of the conformance
suite, without their `test_`; they run on every driver.

"""


def main(arguments: list[str]) -> int:
    """Write all pages, or compare them; the number of stale ones decides the exit status."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    stale = []
    for name, render in PAGES.items():
        path = REFERENCE / name
        text = render()
        if not path.exists() or path.read_text("utf-8") != text:
            stale.append(name)
            if not arguments:
                path.write_text(text, "utf-8")
    if arguments and stale:
        print(f"stale: {', '.join(stale)}; run python scripts/render_docs.py", file=sys.stderr)
        return 1
    return 0


def guarantees() -> str:
    """The promises of both contracts, by number."""
    from bananas_core.state import CLAIM_TTL, DUE_GAP, MAX_DEATHS
    from bananas_core.testing.conformance.marks import CONTRACTS

    text = NOTE.format("the contracts' docstrings")
    text += GUARANTEES.format(ttl=CLAIM_TTL, gap=DUE_GAP, deaths=MAX_DEATHS)
    shown_by = tests_by_promise()
    for module, title in CONTRACTS.values():
        text += f"## {title}\n\n| id | call | promise | tests |\n|---|---|---|---|\n"
        for call, number, promise in promises(CORE / f"{module.replace('.', '/')}.py", title):
            tests = ", ".join(f"`{test}`" for test in shown_by.get(number, ())) or "none yet"
            text += f"| {number} | {call} | {cell(promise)} | {tests} |\n"
        text += "\n"
    return (text + measured()).rstrip("\n") + "\n"


def matrix() -> str:
    """What every pair of drivers kept in the run whose report is kept."""
    from bananas_core.testing.conformance.marks import CONTRACTS

    note = NOTE.format("docs/data/conformance-*.json")
    return note + drivers(
        [
            (number, promise)
            for module, title in CONTRACTS.values()
            for _, number, promise in promises(CORE / f"{module.replace('.', '/')}.py", title)
        ]
    )


def measured() -> str:
    """What the fault scenarios counted in the run whose figures are kept."""
    text = (
        "## Measured\n\n"
        "With real processes, by `python -m integration.faults`. *Extra runs* are starts of a body "
        "beyond one for each accepted job.\n\n"
    )
    for path in FAULTS:
        data = json.loads(path.read_text("utf-8"))
        about = data["about"]
        text += (
            f"On {about['broker']} {about['version']}, level `{about['level']}`, Python "
            f"{about['python']}, {about['cores']} cores:\n\n"
            "| scenario | accepted | lost | extra runs | ended as | other figures |\n"
            "|---|---|---|---|---|---|\n"
        )
        for scenario in data["scenarios"]:
            figures = dict(scenario["figures"])
            verdict = figures.pop("verdict", None)
            figures.pop("accepted", None)
            other = "; ".join(
                f"{name.replace('_', ' ')}: {value}" for name, value in figures.items()
            )
            text += f"| {cell(scenario['promise'])} | {counted(verdict)} | {cell(other)} |\n"
        text += "\n"
    return text


def counted(verdict: dict[str, Any] | None) -> str:
    """What became of the accepted jobs; nothing, where a scenario counts something else."""
    if verdict is None:
        return " | | |"
    states = ", ".join(f"{n} {state}" for state, n in sorted(verdict["states"].items()))
    return f"{verdict['accepted']} | {len(verdict['lost'])} | {verdict['extra_runs']} | {states}"


def promises(path: Path, contract: str) -> Iterator[tuple[str, str, str]]:
    """(call, id, text) of each promise in a contract's docstrings, in the order of the file."""
    tree = ast.parse(path.read_text("utf-8"))
    yield from numbered("every call", ast.get_docstring(tree))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == contract:
            for method in node.body:
                if isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    yield from numbered(f"`{method.name}`", ast.get_docstring(method))


def tests_by_promise() -> dict[str, list[str]]:
    """The tests of the conformance suite that show each promise, without their ``test_``."""
    from bananas_core.testing.conformance import (
        ResultBackendConformance,
        TransportConformance,
        promises_of,
    )

    found: dict[str, list[str]] = {}
    for suite in (TransportConformance, ResultBackendConformance):
        for name in sorted(dir(suite)):
            for number in promises_of(getattr(suite, name)) if name.startswith("test_") else ():
                found.setdefault(number, []).append(name.removeprefix("test_"))
    return found


def numbered(call: str, docstring: str | None) -> Iterator[tuple[str, str, str]]:
    """The paragraphs of a docstring that begin with a promise's id."""
    parts = PROMISE.split(docstring or "")
    for number, text in zip(parts[1::2], parts[2::2], strict=True):
        yield call, number, text.split("\n\n")[0]


def cell(text: str) -> str:
    """Docstring text on one line of a Markdown table."""
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


HOOKS = """# Hooks

What a plugin may take part in. A plugin is a class with some of these methods:

```python
# stopwatch.py
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bananas import Bananas, Plugin, hookimpl


class Stopwatch(Plugin):
    name = "stopwatch"

    @hookimpl
    @asynccontextmanager
    async def around_execute(self, context: Any) -> AsyncIterator[None]:
        started = time.monotonic()
        yield
        context.log(f"took {time.monotonic() - started:.3f} s")


app = Bananas(plugins=[Stopwatch()])
```

A method takes those of the hook's arguments that it names. Built-in features are plugins on the
same hooks. A job that no plugin watches pays nothing for them.

`on_error` says what happens when a hook raises or takes longer than `time_limit` (5 s): `"fail"`
fails the call or job that it belongs to, `"log"` (the default) writes to the log and goes on.

To be found by name (`Bananas(plugins=["stopwatch"])`, or the setting `plugins`), a package names
its class in the entry-point group `bananas.plugins`.

"""


def hooks() -> str:
    """Every hook of ``hooks.py``."""
    path = CORE / "hooks.py"
    text = NOTE.format("bananas_core/hooks.py") + HOOKS
    for node in ast.parse(path.read_text("utf-8")).body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if any("hookspec" in ast.unparse(decorator) for decorator in node.decorator_list):
            text += f"## {node.name}\n\n`{node.name}({ast.unparse(node.args)})`\n\n"
            text += paragraphs(ast.get_docstring(node)) + "\n\n"
    return text.rstrip("\n") + "\n"


SETTINGS = """# Settings

Each setting may come from four places. The first that has it counts:

1. an argument of `Bananas(…)`, or a flag of the command;
2. the environment variable of the table;
3. the table `[tool.bananas]` of the `pyproject.toml` in the current folder;
4. the default.

`bananas doctor` shows where each one came from. An unknown name or an impossible value raises
`ConfigurationError` when the app opens.

"""

URLS = """
## Broker URLs

A URL names a driver and a place, with options as query parameters:
`sqlite:///jobs.db?busy_timeout=10`. Slashes are as in SQLAlchemy: three for a relative path, four
for an absolute one. The file is made, its folder must be there. An unknown option is refused.
Passwords are not shown in logs or errors.

"""


def settings() -> str:
    """The fields of the settings, and the URL options of the shipped drivers."""
    from bananas_core.settings import PREFIX, Settings

    path = CORE / "settings.py"
    text = NOTE.format("bananas_core/settings.py and bananas_brokers/*/settings.py") + SETTINGS
    text += "| setting | environment variable | type | default | meaning |\n|---|---|---|---|---|\n"
    defaults = {f.name: f.default for f in msgspec.structs.fields(Settings)}
    for name, kind, meaning in fields(path, "Settings"):
        default = defaults[name]
        text += f"| `{name}` | `{PREFIX}{name.upper()}` | {cell(kind)} | {shown(default)} | "
        text += f"{cell(meaning)} |\n"
    text += "\nDurations are in seconds, sizes in bytes unless said otherwise. A list in the "
    text += "environment is separated by commas.\n" + URLS
    text += "| driver | option | type | default | meaning |\n|---|---|---|---|---|\n"
    for path in sorted((ROOT / "bananas_brokers").glob("*/settings.py")):
        module = import_module(f"bananas_brokers.{path.parent.name}.settings")
        defaults = {f.name: f.default for f in msgspec.structs.fields(module.Settings)}
        options = url_options(path)
        for name, kind, meaning in fields(path, "Settings"):
            if name in options:
                text += f"| {path.parent.name} | `{name}` | {cell(kind)} | "
                text += f"{shown(defaults[name])} | {cell(meaning)} |\n"
    return text


def url_options(path: Path) -> set[str]:
    """The keys of the dictionary that a driver gives to ``read_options``."""
    found: set[Any] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "read_options":
            known = node.args[1]
            assert isinstance(known, ast.Dict), f"{path}: options are a dictionary literal"
            found |= {key.value for key in known.keys if isinstance(key, ast.Constant)}
    return found


def fields(path: Path, name: str) -> Iterator[tuple[str, str, str]]:
    """(field, type, docstring) of a class whose fields have their docstring below them."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for field, below in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    yield field.target.id, plain_type(field.annotation), docstring(below)


def plain_type(annotation: ast.expr) -> str:
    """A type in words: what ``Annotated`` adds is left out."""
    text = re.sub(r"Annotated\[(.*), \w+(\(.*\))?\]", r"\1", ast.unparse(annotation))
    literal = re.fullmatch(r"Literal\[(.*)\]", text)
    if literal:
        return literal[1].replace("'", "`").replace(", ", " or ")
    return {"tuple[str, ...]": "list"}.get(text, text.replace(" | None", " or none"))


def docstring(node: ast.stmt | None) -> str:
    """The text of a statement that is only a string."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return str(node.value.value)
    return ""


def shown(value: object) -> str:
    """A default for people."""
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if value < 1e6 else f"{value:.0f}"
    return f"`{value}`"


CLI = """# Command line

Commands take the app as their first argument, `package.module:name`. It may be left out when
`BANANAS_APP` or `app` in `[tool.bananas]` names it, or when `--broker-url` says where to look.
Modules of the current folder are found.

With `--json`, standard output has one JSON object a line, with the field names of `JobRecord`.
Without it, tables leave out columns that are empty or that a narrow terminal has no room for; times
are in UTC.

| exit status | meaning |
|---|---|
"""

MEANINGS = {
    "OK": "done",
    "JOB_FAILED": "the job failed or was cancelled",
    "USAGE": "wrong arguments or settings",
    "UNAVAILABLE": "broker or ledger can't be reached",
    "NOT_FOUND": "no such job or task",
    "TIMEOUT": "not done in time",
}


def cli() -> str:
    """Every command with its arguments and options, from the functions' annotations."""
    from bananas_core.cli.commands import make_cli
    from bananas_core.cli.run import ExitCode

    text = NOTE.format("bananas_core/cli") + CLI
    text += "".join(f"| {code.value} | {MEANINGS[code.name]} |\n" for code in ExitCode)
    for command in make_cli().registered_commands:
        assert command.callback is not None
        if not command.hidden:
            name = command.name or command.callback.__name__.replace("_", "-")
            text += f"\n## {name}\n\n" + describe(name, command.callback)
    return text


def describe(name: str, function: Callable[..., Any]) -> str:
    """One command: how it is called, what it does, and a table of its options."""
    from typer.models import ArgumentInfo

    usage, rows = [f"bananas {name}"], ""
    hints = typing.get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        kind, info = typing.get_args(hints[parameter.name])[:2]
        if isinstance(info, ArgumentInfo):
            usage.append(info.metavar or parameter.name.upper())
        elif not info.hidden:
            value = placeholder(kind, info.metavar)
            default = parameter.default
            # Inside Annotated the first flag is where a plain typer.Option has its default.
            flags = ", ".join(f"`{flag}`" for flag in (info.default, *info.param_decls))
            rows += f"| {flags}{value} | {shown(default) if value and default else ''} | "
            rows += f"{cell(info.help or '')} |\n"
    if rows:
        usage.append("[OPTIONS]")
        rows = "\n| option | default | meaning |\n|---|---|---|\n" + rows
    return f"`{' '.join(usage)}`\n\n{paragraphs(inspect.getdoc(function))}\n{rows}"


def placeholder(kind: Any, metavar: str | None) -> str:
    """What stands for an option's value; nothing for a flag."""
    members = [k for k in typing.get_args(kind) if k is not NoneType]
    if metavar:
        return f" {metavar}"
    if typing.get_origin(kind) is Literal:
        return " " + "\\|".join(members)
    if members:  # a list, or something that may be left out
        return placeholder(members[0], None)
    if issubclass(kind, Enum):
        return " " + "\\|".join(str(member.value) for member in kind)
    return {bool: "", int: " N", float: " SECONDS"}.get(kind, " TEXT")


def paragraphs(text: str | None) -> str:
    """Docstring text as Markdown."""
    return (text or "").replace("``", "`").strip()


PAGES: dict[str, Callable[[], str]] = {
    "guarantees.md": guarantees,
    "drivers.md": matrix,
    "hooks.md": hooks,
    "settings.md": settings,
    "cli.md": cli,
    "../explanation/benchmarks.md": benchmarks,
    "../explanation/workflows.md": workflows,
    "../explanation/where-the-time-goes.md": redis_stages,
    "../how-to/postgres.md": postgres,
    "../how-to/redis.md": redis_memory,
    **badges(),
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
