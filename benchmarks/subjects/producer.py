"""Runs the producer's side of a subject: ``python -m benchmarks.subjects.producer MODULE WHAT N``.

Prints one JSON object. Times are seconds of the monotonic clock, CPU is this process's own.

- ``import``: how long the module took to import (a task defined, nothing connected);
- ``submit``: N calls of ``one``, each awaited: the duration of each, and the CPU of all;
- ``bulk``: jobs 0 to N-1 by ``many``: the duration of all;
- ``latency``: N calls of ``one``, 20 ms apart, from number 1 on: when each was made;
- ``hold``: one call of ``hold``; N doesn't matter.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from types import ModuleType
from typing import Any

CHUNK = 500
"""Jobs in one call of ``many``."""
PAUSE = 0.02


async def call(function: Callable[..., Any], *arguments: object) -> None:
    """Call a plain function or a coroutine."""
    made = function(*arguments)
    if isinstance(made, Awaitable):
        await made


async def run(module: ModuleType, what: str, count: int) -> dict[str, object]:
    if opens := getattr(module, "open", None):
        await call(opens)
    try:
        gc.collect()
        gc.freeze()
        return await MEASURES[what](module, count)
    finally:
        if closes := getattr(module, "close", None):
            await call(closes)


async def submit(module: ModuleType, count: int) -> dict[str, object]:
    one, durations = module.one, []
    await call(one, 0)  # connects
    cpu = time.process_time()
    begun = time.perf_counter()
    for number in range(1, count):
        before = time.perf_counter()
        made = one(number)
        if made is not None and isinstance(made, Awaitable):
            await made
        now = time.perf_counter()
        durations.append(now - before)
        if now - begun > LONGEST:
            break
    return {"durations": durations, "cpu": time.process_time() - cpu}


async def bulk(module: ModuleType, count: int) -> dict[str, object]:
    cpu = time.process_time()
    begun = time.perf_counter()
    sent = 0
    for first in range(0, count, CHUNK):
        numbers: Sequence[int] = range(first, min(first + CHUNK, count))
        await call(module.many, numbers)
        sent += len(numbers)
    return {
        "seconds": time.perf_counter() - begun,
        "cpu": time.process_time() - cpu,
        "jobs": sent,
    }


async def latency(module: ModuleType, count: int) -> dict[str, object]:
    made: list[float] = []
    for number in range(1, count + 1):
        made.append(time.monotonic())
        await call(module.one, number)
        await asyncio.sleep(PAUSE)
    return {"made": made}


async def hold(module: ModuleType, count: int) -> dict[str, object]:
    await call(module.hold)
    return {}


MEASURES = {"submit": submit, "bulk": bulk, "latency": latency, "hold": hold}
LONGEST = 5.0
"""Seconds for the sequential submits of a slow subject."""


def main(arguments: list[str]) -> None:
    name, what, count = arguments[0], arguments[1], int(arguments[2])
    begun = time.perf_counter()
    module = importlib.import_module(name)
    took = time.perf_counter() - begun
    if what == "import":
        print(json.dumps({"seconds": took}))
        return
    runner: Callable[..., Any] = asyncio.run
    try:
        import uvloop
    except ImportError:
        pass
    else:
        runner = uvloop.run
    print(json.dumps(runner(run(module, what, count))))


if __name__ == "__main__":
    main(sys.argv[1:])
