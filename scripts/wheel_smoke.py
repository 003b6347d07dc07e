"""Uses an installed Bananas as a newcomer would: an app, a worker, a job, in an empty folder.

`scripts/check_package.sh` runs it in an environment that holds the wheel and nothing else. Only
names that the documentation promises are used here.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

IMPORT_BUDGET_MS = 100.0
# Loading any of these is work that most programs never need, or need only once they run.
NOT_AT_IMPORT = (
    "aio_pika",
    "asyncio",
    "asyncpg",
    "pydantic",
    "pydantic_settings",
    "redis",
    "rich",
    "sqlite3",
    "typer",
)

APP = """\
from bananas import Bananas

app = Bananas()


@app.task(name="double")
async def double(number: int) -> int:
    return 2 * number
"""


def expect(condition: bool, message: str) -> None:
    if not condition:
        raise SystemExit(f"wheel_smoke: {message}")


def check_where() -> None:
    """The packages come from the environment, not from a checkout that happens to be near."""
    for package in ("bananas", "bananas_core", "bananas_brokers", "bananas_plugins"):
        file = __import__(package).__file__
        inside = file is not None and Path(file).is_relative_to(sys.prefix)
        expect(inside, f"{package} is imported from {file}")


def check_import() -> None:
    """`import bananas` is quick and loads no client library."""
    probe = f"import bananas, sys; print(*[m for m in {NOT_AT_IMPORT!r} if m in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", probe], check=True, capture_output=True, text=True
    ).stdout.strip()
    expect(not loaded, f"import bananas loads {loaded}")

    took = (best_of_5("import bananas") - best_of_5("pass")) * 1000
    print(f"import bananas: {took:.0f} ms")
    expect(took <= IMPORT_BUDGET_MS, f"import bananas takes {took:.0f} ms")


def best_of_5(code: str) -> float:
    """Seconds of processor time of an interpreter that runs `code`: waiting for a busy machine is
    not counted."""
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


async def submit_and_wait(number: int) -> int:
    """By the task and its handle."""
    from app import app, double  # type: ignore[import-not-found, unused-ignore]

    async with app:
        job = await double.submit(number)
        value: int = await job.result(timeout=30)
        return value


def submit_and_wait_by_name(number: int) -> object:
    """By name and blocking, as a program does that doesn't have the task's code."""
    from bananas import Client

    with Client("sqlite:///.bananas/bananas.db") as client:
        job_id = client.submit_job("double", payload={"number": number})
        return client.wait_for_result(job_id, timeout=30)


def main() -> None:
    check_where()
    check_import()

    Path("app.py").write_text(APP, encoding="utf-8")
    importlib.invalidate_caches()  # the folder has been listed before app.py was in it
    log = Path("worker.log")
    command = Path(sys.prefix) / "bin" / "bananas"
    with log.open("wb") as stderr:
        worker = subprocess.Popen([os.fspath(command), "worker", "app:app"], stderr=stderr)
    try:
        expect(asyncio.run(submit_and_wait(21)) == 42, "a wrong result by the task")
        expect(submit_and_wait_by_name(4) == 8, "a wrong result by name")
        expect(Path(".bananas/bananas.db").exists(), "the database is not where it should be")
        worker.send_signal(signal.SIGTERM)
        code = worker.wait(timeout=30)
        expect(code == 0, f"the worker ended with {code} on SIGTERM")
        expect("ready" in log.read_text(encoding="utf-8"), "the worker never said that it is ready")
    except BaseException:
        print(log.read_text(encoding="utf-8"), file=sys.stderr)
        raise
    finally:
        if worker.poll() is None:
            worker.kill()
            worker.wait()
    print("a job ran, and the worker stopped gracefully")


if __name__ == "__main__":
    main()
