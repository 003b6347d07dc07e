"""``bananas bench``: how fast this broker is, from this machine."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer

from bananas_core.cli.options import Json, ResultBackendUrl
from bananas_core.cli.output import Column, Output
from bananas_core.cli.run import complain
from bananas_core.processes import loop_factory
from bananas_core.urls import redact

if TYPE_CHECKING:
    from rich.progress import TaskID

    from bananas_core.app import Bananas
    from bananas_core.cli.bench_run import Tell

SECONDS: Final = 60.0

COLUMNS: Final = (
    Column("measure"),
    Column("jobs"),
    Column("jobs/s"),
    Column("p50"),
    Column("p99"),
)
TITLES: Final = {
    "submit": "submit, one after another",
    "bulk": "submit in bulk",
    "drain": "drain with results, one worker",
    "latency": "submit to start, idle worker",
}


def bench(
    url: Annotated[str, typer.Argument(metavar="URL", help="The broker to measure.")],
    result_backend_url: ResultBackendUrl = None,
    seconds: Annotated[
        float, typer.Option("--seconds", help="How long to measure.", min=1, metavar="S")
    ] = SECONDS,
    concurrency: Annotated[
        int, typer.Option("--concurrency", help="Of the worker.", min=1, metavar="N")
    ] = 100,
    as_json: Json = False,
) -> None:
    """Measure a broker from here: submit, drain and latency, with jobs that do nothing.

    Jobs, a producer and one worker run in this process, in a namespace of their own that is removed
    afterwards. Don't run it on a broker that is busy with real jobs.
    """
    out = Output(json=as_json)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_bench(url, result_backend_url, seconds, concurrency, out))


async def _bench(
    url: str, result_backend_url: str | None, seconds: float, concurrency: int, out: Output
) -> None:
    from bananas_core.app import Bananas
    from bananas_core.cli.bench_run import Bench

    namespace = f"bench-{secrets.token_hex(6)}"
    producer, consumer = (
        Bananas(url, result_backend_url=result_backend_url, namespace=namespace, plugins=[])
        for _ in range(2)
    )
    rows: list[tuple[object, ...]] = []
    async with producer, consumer:
        try:
            with progress() as tell:
                measures = Bench(
                    producer, consumer, seconds=seconds, concurrency=concurrency, tell=tell
                )
                async for figure in measures.run():
                    if out.json:
                        out.line(figure)
                    title, rate = TITLES[figure.measure], f"{figure.rate:,.0f}"
                    if figure.measure == "latency":  # which is how often it was asked
                        rate = ""
                    rows.append((title, figure.jobs, rate, *map(shown, (figure.p50, figure.p99))))
        finally:
            await remove(producer, namespace)
    if not out.json:
        out.table(redact(url), COLUMNS, rows)


async def remove(app: Bananas, namespace: str) -> None:
    """Clean up, and say so if something stays."""
    from bananas_core.cli.bench_run import clean_up

    assert app.pair is not None
    if not await clean_up(app.pair):
        complain(
            f"this driver can't remove a namespace: the records of {namespace!r} stay at the broker"
        )


@contextmanager
def progress() -> Iterator[Tell]:
    """A bar for each part on stderr, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(file=sys.stderr)
    bars: dict[str, TaskID] = {}
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as shown:

        def tell(part: str, done: float) -> None:
            if part not in bars:
                for bar in bars.values():
                    shown.update(bar, completed=1.0)
                bars[part] = shown.add_task(TITLES[part], total=1.0)
            shown.update(bars[part], completed=done)

        yield tell


def shown(seconds: float | None) -> str:
    """A short duration."""
    if seconds is None:
        return ""
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"
