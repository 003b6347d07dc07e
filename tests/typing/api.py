"""Checked by mypy in `test_api_types.py`: right calls pass, wrong ones are the errors listed there.
Not run."""

from datetime import timedelta
from typing import assert_type

from bananas import (
    Backoff,
    Bananas,
    Client,
    Job,
    JobSpec,
    JobState,
    Priority,
    RetryPolicy,
    Workflow,
    chain,
    chord,
    group,
)

app = Bananas("redis://localhost:6379/0", result_backend_url=None, namespace="bananas", plugins=[])


@app.task(routing_key="media", priority=60, max_attempts=5, timeout=30, result=True)
async def thumbnail(path: str, size: int = 128) -> str:
    return f"{path}@{size}"


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task(name="x", timeout=timedelta(seconds=1), retry=RetryPolicy(retry_on=(OSError,)))
def noted() -> None: ...


@app.task(retry=Backoff(delay=1))
async def slow() -> dict[str, int]:
    return {}


async def right() -> None:
    job = await thumbnail.submit("a", size=1)
    assert_type(job, Job[str])
    assert_type(await job.result(timeout=10), str)
    assert_type(await job.status(), JobState)
    assert_type(await add.submit(1, b=2), Job[int])
    assert_type(await slow.submit(), Job[dict[str, int]])
    assert_type(thumbnail.job("a").options(priority=Priority.HIGH, delay=30), JobSpec[str])
    assert_type(await thumbnail.submit_many([{"path": "a"}]), list[Job[str]])
    assert_type(await thumbnail("a"), str)
    assert_type(add(1, 2), int)
    assert_type(add.submit_blocking(1, 2).result_blocking(), int)
    client = Client("redis://localhost:6379")
    assert_type(await chain(thumbnail.job("a"), add.step(b=1)).submit(), Workflow)
    assert_type(await (thumbnail.job("a") | add.job()).submit(workflow_id="w"), Workflow)
    assert_type(group(add.job(n, 1) for n in range(3)).submit_blocking(), Workflow)
    assert_type(await (await chord([add.job(1, 1)], slow.job()).submit()).status(), JobState)
    assert_type(client.submit_job("n", payload={"a": 1}, priority=Priority.HIGH), str)


async def wrong() -> None:
    await thumbnail.submit("a", sze=1)  # E: call-arg
    await thumbnail.submit(1)  # E: arg-type
    await thumbnail.submit()  # E: call-arg
    thumbnail.job("a", "b")  # E: call-overload
    thumbnail.job("a").options(colour="red")  # E: call-arg
    add.submit_blocking("a", 1)  # E: arg-type
    add("a", 1)  # E: arg-type
    Client().submit_job("n", prioriti=1)  # E: call-arg
