"""``python -m benchmarks.redis_path [--url URL] [--jobs N]``: bulk submit and drain with results of
one worker, beside a loop over redis-py that does the least a durable queue must.

The loop takes 100 messages with one script that moves them to a hash of those under way, then
writes 100 results and removes them from it in one pipeline. It has no priorities, claims, records,
time-outs or recovery.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import sys
import time
import uuid
from collections.abc import Awaitable, Callable

import redis.asyncio as redis

from bananas import Bananas
from bananas_core.embed import run_worker

TAKE = """
local found = redis.call('LPOP', KEYS[1], ARGV[1]) or {}
for i, m in ipairs(found) do redis.call('HSET', KEYS[2], string.sub(m, 1, 32), m) end
return found
"""


async def bare_submit(url: str, count: int) -> float:
    client = redis.Redis.from_url(url)
    await client.flushdb()
    begun = time.perf_counter()
    for start in range(0, count, 500):
        messages = [
            uuid.uuid4().hex + json.dumps({"name": "add", "payload": {"a": i, "b": 1}})
            for i in range(start, min(count, start + 500))
        ]
        await client.rpush("q", *messages)
    took = time.perf_counter() - begun
    await client.aclose()
    return took


async def bare_drain(url: str, count: int) -> float:
    client = redis.Redis.from_url(url)
    take = client.register_script(TAKE)
    begun, done = time.perf_counter(), 0
    while done < count:
        pipe = client.pipeline(transaction=False)
        for raw in await take(keys=["q", "busy"], args=[100]):
            job_id, message = raw[:32], json.loads(raw[32:])
            value = await add(**message["payload"])
            pipe.set(b"r:" + job_id, json.dumps({"value": value}), ex=86400)
            pipe.hdel("busy", job_id)
            done += 1
        await pipe.execute()
    took = time.perf_counter() - begun
    await client.aclose()
    return took


async def add(a: int, b: int) -> int:
    return a + b


async def ours_submit(url: str, count: int) -> float:
    client = redis.Redis.from_url(url)
    await client.flushdb()
    await client.aclose()
    app = Bananas(url)
    task = app.task(name="add")(add)
    async with app:
        begun = time.perf_counter()
        for start in range(0, count, 500):
            await task.submit_many(
                [{"a": i, "b": 1} for i in range(start, min(count, start + 500))]
            )
        return time.perf_counter() - begun


async def ours_drain(url: str, count: int) -> float:
    app, stop = Bananas(url), asyncio.Event()
    seen, begun, ended = 0, 0.0, 0.0

    async def body(a: int, b: int) -> int:
        nonlocal seen, begun, ended
        if not seen:
            begun = time.perf_counter()
        seen += 1
        if seen == count:
            ended = time.perf_counter()
            stop.set()
        return a + b

    app.task(name="add")(body)
    async with app:
        await run_worker(app, concurrency=100, stop=stop)
    client = redis.Redis.from_url(url)  # a count by Bananas would be measured along
    done = int(await client.hlen("{bananas}:results"))
    await client.aclose()
    assert done == count, done
    return ended - begun


async def measure(
    url: str, run: Callable[[str, int], Awaitable[float]], count: int
) -> tuple[float, float, float]:
    """Jobs a second, CPU µs a job here, and in the server's main thread."""
    client = redis.Redis.from_url(url)

    async def server_cpu() -> float:
        info = await client.info("cpu")
        return float(info["used_cpu_user_main_thread"]) + float(info["used_cpu_sys_main_thread"])

    before, here = await server_cpu(), _cpu()
    took = await run(url, count)
    here, there = _cpu() - here, await server_cpu() - before
    await client.aclose()
    return count / took, here / count * 1e6, there / count * 1e6


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.redis_path", description=__doc__)
    parser.add_argument("--url", default="redis://127.0.0.1:6379/15", help="emptied!")
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    if options.uvloop:
        import uvloop

        run = uvloop.run
    else:
        run = asyncio.run
    lines = {"bare submit": bare_submit, "bare drain": bare_drain}
    lines |= {"bananas submit": ours_submit, "bananas drain": ours_drain}
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in lines}
    for _ in range(options.rounds):
        for name, function in lines.items():
            found[name].append(run(measure(options.url, function, options.jobs)))
    print(f"{'':16}{'jobs/s':>10}{'range':>18}{'CPU µs here':>13}{'in Redis':>10}")
    for name, rounds in found.items():
        rates = sorted(rate for rate, _, _ in rounds)
        here, there = (statistics.median(r[i] for r in rounds) for i in (1, 2))
        spread = f"{rates[0]:,.0f}-{rates[-1]:,.0f}"
        print(
            f"{name:16}{statistics.median(rates):>10,.0f}{spread:>18}{here:>13.1f}{there:>10.1f}",
            file=sys.stdout,
        )


if __name__ == "__main__":
    main()
