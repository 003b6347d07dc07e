"""Programs that the tests run in processes of their own: ``python worker.py NAME URL ARGUMENTS``.

Each prints JSON lines; nothing here is imported by a test.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sqlite3
import sys
import threading
import time

from bananas_brokers.sqlite.results import SQLiteResultBackend
from bananas_brokers.sqlite.transport import SQLiteTransport
from bananas_core.clock import new_ids
from bananas_core.errors import ResultBackendUnavailable
from bananas_core.job import JobPut, Outcome, OutcomeKind
from bananas_core.pair import Pair


def say(**values: object) -> None:
    print(json.dumps(values), flush=True)


def put_of(job_id: str, size: int = 0) -> JobPut:
    return JobPut(id=job_id, name="task", message=b'{"v":1}' + b" " * size)


async def opened(url: str) -> Pair:
    pair = Pair(SQLiteTransport(url, "test"), SQLiteResultBackend(url, "test"))
    await pair.open()
    return pair


async def hammer(url: str, session: str, seconds: float) -> None:
    """Submit and run jobs as fast as it goes; tell what was accepted and what was finished."""
    pair = await opened(url)
    accepted, finished, worst = 0, [], 0.0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        answers = await pair.backend.put([put_of(i) for i in new_ids(5)])
        accepted += len(answers)
        received = await pair.transport.receive_claimed(session, ["default"], 5, 0.1)
        claims = [r.verdict.claim for r in received if r.verdict and r.verdict.claim]
        outcomes = [
            Outcome(id=c.id, fence=c.fence, kind=OutcomeKind.COMPLETED, ran=0.0) for c in claims
        ]
        done, _ = await pair.backend.finish(outcomes)
        finished += [answer.id for answer in done if answer.accepted]
        worst = max(worst, time.monotonic() - began)
    await pair.close()
    say(accepted=accepted, finished=finished, worst=worst)


async def stream(url: str) -> None:
    """Put jobs one batch at a time for ever, and print each id once it was accepted."""
    pair = await opened(url)
    while True:
        ids = new_ids(20)
        await pair.backend.put([put_of(i, 500) for i in ids])
        say(ids=ids)


async def starve(url: str, most: int) -> None:
    """Put large jobs until the file may not grow any more; print what was accepted."""
    pair = await opened(url)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    accepted: list[str] = []
    error = ""
    for _ in range(10_000):
        ids = new_ids(5)
        try:
            await pair.backend.put([put_of(i, 20_000) for i in ids])
        except ResultBackendUnavailable as refused:
            error = str(refused)
            break
        accepted += ids
    await pair.close()
    say(accepted=accepted, error=error)


async def submit_at_once(url: str) -> None:
    """Put one job for each line on stdin, and print the time at which that was accepted."""
    pair = await opened(url)
    say(ready=True)
    loop = asyncio.get_running_loop()
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        await pair.backend.put([put_of(line)])
        say(id=line, at=time.time())
    await pair.close()


async def hold_lock(url: str) -> None:
    """Keep SQLite's write lock until stdin ends."""
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    say(locked=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    connection.close()


async def fork(url: str) -> None:
    """Use one pair of objects before a fork, in the child, and in the parent after it."""
    pair = await opened(url)
    await pair.backend.put([put_of("before")])
    pid = os.fork()
    if pid == 0:
        return await in_child(pair)
    await pair.backend.put([put_of("parent")])
    status = (await asyncio.to_thread(os.waitpid, pid, 0))[1]
    found = await pair.backend.get(["before", "child", "parent"])
    (stats,) = await pair.transport.stats(["default"])
    await pair.close()
    say(found=[job is not None for job in found], ready=stats.ready, status=status)
    return None


async def in_child(pair: Pair) -> None:
    """In a thread, since the parent's event loop is still the running one here."""

    def main() -> None:
        asyncio.run(use())

    async def use() -> None:
        await pair.backend.put([put_of("child")])
        (job,) = await pair.backend.get(["before"])
        (stats,) = await pair.transport.stats(["default"])
        assert job is not None
        assert stats.ready >= 2
        await pair.close()

    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            main()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    os._exit(1 if failed else 0)


if __name__ == "__main__":
    name, target, *rest = sys.argv[1:]
    if name == "hammer":
        asyncio.run(hammer(target, rest[0], float(rest[1])))
    elif name == "starve":
        asyncio.run(starve(target, int(rest[0])))
    else:
        programs = {"stream": stream, "submit": submit_at_once, "lock": hold_lock, "fork": fork}
        asyncio.run(programs[name](target))
