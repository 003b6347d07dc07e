"""The simple loop: what a few lines of redis-py do, one batch at a time, and no task queue.

Enqueue: ZADD and HSET, 100 jobs each. Take: one Lua script pops 100 ids, marks them as in flight
and fetches their messages. Finish: for each result a SET with a time to live, then all 100 out of
the in-flight set and the messages, in one pipeline.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import redis

from benchmarks.subjects.common import HOLD_SECONDS, Options, options, started, started_again

BATCH = 100
IDLE = 0.001
"""Seconds between two looks at an empty queue."""
READY, FLIGHT, JOBS = "bare:ready", "bare:flight", "bare:jobs"
KEEP = 3600
TAKE = """
local popped = redis.call('ZPOPMIN', KEYS[1], ARGV[1])
if #popped == 0 then return {{}, {}} end
local ids, flight = {}, {}
for i = 1, #popped, 2 do
    ids[#ids + 1] = popped[i]
    flight[#flight + 1] = ARGV[2]
    flight[#flight + 1] = popped[i]
end
redis.call('ZADD', KEYS[2], unpack(flight))
return {ids, redis.call('HMGET', KEYS[3], unpack(ids))}
"""

settings = options()
client = redis.Redis.from_url(settings.url) if settings.url else redis.Redis()
blob = settings.payload()


def worker(options: Options) -> list[str]:
    return ["python", "-m", __name__]


def message(number: int) -> bytes:
    """A job of the usual size, as JSON."""
    fields = {
        "v": 1,
        "id": f"{number:032x}",
        "name": "noop",
        "payload": {"number": number, "blob": blob},
        "created_at": "2026-01-01T00:00:00.000000Z",
        "routing_key": "default",
        "meta": {"tenant": "acme"},
    }
    return json.dumps(fields).encode()


def one(number: int) -> None:
    many([number])


def many(numbers: Sequence[int]) -> None:
    for first in range(0, len(numbers), BATCH):
        part = numbers[first : first + BATCH]
        pipe = client.pipeline(transaction=False)
        pipe.hset(JOBS, mapping={f"{number:032x}": message(number) for number in part})
        pipe.zadd(READY, {f"{number:032x}": number for number in part})
        pipe.execute()


def hold() -> None:
    many([-1])


def main() -> None:
    take = client.register_script(TAKE)
    while True:
        ids, messages = take([READY, FLIGHT, JOBS], [BATCH, time.time()])
        if not ids:
            time.sleep(IDLE)
            continue
        pipe = client.pipeline(transaction=False)
        for id, raw in zip(ids, messages, strict=True):
            number = json.loads(raw)["payload"]["number"]
            if number < 0:
                started_again()
                time.sleep(HOLD_SECONDS)
            started(number)
            if settings.results:
                pipe.set(b"bare:result:" + id, json.dumps(number), ex=KEEP)
        pipe.zrem(FLIGHT, *ids)
        pipe.hdel(JOBS, *ids)
        pipe.execute()


if __name__ == "__main__":
    main()
