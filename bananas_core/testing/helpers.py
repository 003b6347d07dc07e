"""For tests of programs that use Bananas: an app in memory, a clock that is set by hand, and
running what was submitted."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from bananas_core.app import Bananas
from bananas_core.clock import Clock
from bananas_core.errors import ConfigurationError
from bananas_core.job import Query
from bananas_core.pair import Pair, installed
from bananas_core.record import JobRecord, full_record
from bananas_core.task import Task
from bananas_core.testing.clock import ManualClock

if TYPE_CHECKING:
    from bananas_core.plugins import Plugin
    from bananas_core.settings import Settings

__all__ = ["ManualClock", "assert_submitted", "drain", "memory_app"]


def memory_app(
    *, clock: Clock | None = None, plugins: Iterable[Plugin | str] = (), **settings: Any
) -> Bananas:
    """A new app on a ``memory://`` store of its own, not opened yet.

    Args:
        clock: decides when delayed jobs are due, e.g. a ``ManualClock``.
        plugins, **settings: as for ``Bananas``.
    """
    url = f"memory://{uuid.uuid4().hex}"
    return Bananas(url, plugins=plugins, clock=clock, make_pair=_pair_on(clock), **settings)


async def drain(app: Bananas, *, timeout: float = 30.0) -> None:
    """Run the app's jobs here until none is pending or running, and no message that a program
    wrote to the broker by itself is left. What is due only later stays; move a ``ManualClock``
    on and drain again.

    Raises:
        TimeoutError: still busy after ``timeout`` seconds.
    """
    from bananas_core.embed import run_until_idle

    await run_until_idle(app, timeout=timeout)


async def assert_submitted(
    app: Bananas, task: Task[Any, Any] | str, /, **payload: Any
) -> list[JobRecord]:
    """Check that at least one job of the task has these arguments among its own, and return all
    that do, newest first. Values are compared as JSON has them.

    Raises:
        AssertionError: there is none; the text lists what was submitted.
    """
    name = task if isinstance(task, str) else task.name
    wanted_values = msgspec.to_builtins(payload)
    seen, found = [], []
    cursor = None
    while True:
        page = await app.backend.query(Query(name=name, cursor=cursor))
        for job in page.jobs:
            record = await full_record(
                job, codecs=app.codecs, backend=app.backend, max_size=app.max_payload
            )
            seen.append(record.payload)
            if _contains(record.payload, wanted_values):
                found.append(record)
        cursor = page.cursor
        if cursor is None:
            break
    if not found:
        wanted = f" with {payload}" if payload else ""
        raise AssertionError(f"no job of {name}{wanted} was submitted; submitted: {seen}")
    return found


def _contains(payload: Any, wanted: dict[str, Any]) -> bool:
    return isinstance(payload, dict) and all(
        name in payload and payload[name] == value for name, value in wanted.items()
    )


def _pair_on(clock: Clock | None) -> Any:
    """Builds the pair of ``memory://`` on a clock."""

    def make(settings: Settings) -> Pair:
        drivers = []
        for group in ("bananas.transports", "bananas.result_backends"):
            point = installed(group).get("memory")
            if point is None:
                raise ConfigurationError("the memory driver is not installed")
            drivers.append(point.load()(settings.broker_url, settings.namespace, clock=clock))
        return Pair(drivers[0], drivers[1])

    return make
