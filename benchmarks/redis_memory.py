"""``python -m benchmarks.redis_memory [--jobs N] [--json FILE]``: bytes that jobs take in servers,
from what ``INFO`` says before and after.

Each job has two numbers as arguments and one as its result. A *pending* job waits in its queue; a
*kept* one is done, with its record, message, result and timeline; *events* are the part of these
that goes after an hour by default.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
from pathlib import Path
from typing import Any, Final

from bananas import Bananas
from bananas_core.embed import run_worker
from bananas_core.job import Retention
from integration.servers import RedisServer, ValkeyServer

KINDS: Final[tuple[type[RedisServer], ...]] = (RedisServer, ValkeyServer)


async def measure(server: RedisServer, count: int) -> dict[str, Any]:
    """Bytes a job of one server."""
    app, stop, done = Bananas(server.url), asyncio.Event(), 0

    @app.task(name="shop.price")
    async def price(order: int, customer: int) -> int:
        nonlocal done
        done += 1
        if done == count:
            stop.set()
        return order + customer

    async with app:
        empty = memory(server)
        for start in range(0, count, 500):
            numbers = range(start, min(count, start + 500))
            jobs = await price.submit_many([{"order": n, "customer": 1} for n in numbers])
        (record,) = await app.backend.get([jobs[-1].id])
        assert record is not None
        pending = memory(server) - empty
        await run_worker(app, concurrency=100, stop=stop)
        kept = memory(server) - empty
        await app.backend.prune(Retention(events=0.0), 1)
        without_events = memory(server) - empty
        (ended,) = await app.backend.get([jobs[-1].id])
        assert ended is not None
        assert ended.state == "completed", ended
    info = server.info("server")
    return {
        "server": server.name,
        "version": info.get("valkey_version", info["redis_version"]),
        "allocator": server.info("memory")["mem_allocator"],
        "message_bytes": len(record.message),
        "pending": round(pending / count),
        "kept": round(kept / count),
        "events": round((kept - without_events) / count),
    }


def memory(server: RedisServer) -> int:
    """Bytes that the server has allocated; what it needs for connections is in both numbers."""
    return int(server.info("memory")["used_memory"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.redis_memory", description=__doc__)
    parser.add_argument("--jobs", type=int, default=200_000)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    rows = []
    for kind in KINDS:
        with kind(appendonly=False) as server:
            rows.append(asyncio.run(measure(server, options.jobs)))
        print(rows[-1], flush=True)
    if options.json:
        about = {"jobs": options.jobs, "python": platform.python_version()}
        text = json.dumps({"about": about, "rows": rows}, indent=2, sort_keys=True)
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
