"""A worker inside another program: a web server's process, a script, a notebook."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bananas_core.clock import SystemClock
from bananas_core.errors import ConfigurationError
from bananas_core.keepers import ThreadKeeper
from bananas_core.pair import Pair, load_pair
from bananas_core.renew import Keeper, LoopKeeper
from bananas_core.worker import StopReason, Worker, WorkerOptions

if TYPE_CHECKING:
    from bananas_core.app import Bananas


async def run_worker(
    app: Bananas,
    *,
    routing_keys: Sequence[str] = (),
    concurrency: int = 16,
    grace: float = 30.0,
    stop: asyncio.Event | None = None,
) -> StopReason:
    """Run the jobs of an open app on this event loop until ``stop`` is set.

    Claims are renewed from a thread of their own, so that a loop that is blocked for a while loses
    none; but nothing here can kill a job that never gives way, nor isolate one that kills its
    process: that takes ``bananas worker``. ``memory://`` lives on one loop, and is renewed there.

    Args:
        routing_keys: what to serve; default: the keys of the app's tasks.
        grace: seconds that running jobs get to end. What is left is handed back, unspent.
        stop: set it to stop gracefully. Cancelling instead stops at once, like a crash.

    Raises:
        ConfigurationError: the app is not open.
        BananasError: broker or ledger can't be reached at the start.
    """
    if app.pair is None:
        raise ConfigurationError("open the app before running a worker: async with app: …")
    settings, clock = app.settings, SystemClock()

    def make_pair() -> Pair:
        return load_pair(settings.broker_url, settings.result_backend_url, settings.namespace)

    keeper: Keeper = ThreadKeeper(make_pair, clock)
    if settings.broker_url.startswith("memory:"):
        keeper = LoopKeeper(app.backend, clock)
    keys = tuple(routing_keys) or tuple(sorted({t.routing_key for t in app.tasks.values()}))
    options = WorkerOptions(
        name="embedded", routing_keys=keys or ("default",), concurrency=concurrency, grace=grace
    )
    worker = Worker(app, options, keeper=keeper, clock=clock)
    waiting = asyncio.get_running_loop().create_task(_stop_when(stop, worker))
    try:
        return await worker.run()
    finally:
        waiting.cancel()


async def _stop_when(stop: asyncio.Event | None, worker: Worker) -> None:
    if stop is not None:
        await stop.wait()
        worker.stop()


async def run_until_idle(app: Bananas, *, timeout: float = 30.0) -> None:
    """Run the app's jobs in this process until none is pending or processing, and no message for
    them is at the transport, also of clients that write theirs there; for tests.

    Scheduled jobs whose time has not come stay.

    Raises:
        TimeoutError: still busy after ``timeout`` seconds.
    """
    routing_keys = {task.routing_key for task in app.tasks.values()} | {"default"}
    clock = SystemClock()
    backend = app.backend
    options = WorkerOptions(name="until-idle", routing_keys=tuple(sorted(routing_keys)), grace=5.0)
    worker = Worker(app, options, keeper=LoopKeeper(backend, clock), clock=clock)
    run = asyncio.get_running_loop().create_task(worker.run())
    try:
        async with asyncio.timeout(timeout):
            while True:
                await worker.due_once()
                done, settled = worker.done, worker.settled
                # First the messages: one that leaves its queue meanwhile has a record by then.
                queues = await app.transport.stats(options.routing_keys)
                counts = {c.group[0]: c.count for c in await backend.count(["state"])}
                busy = (
                    any(queue.ready or queue.leased for queue in queues)
                    or counts.get("pending")
                    or counts.get("processing")
                )
                # What ended while the jobs were counted may have released others.
                if not busy and settled and worker.settled and worker.done == done:
                    return
                if run.done():
                    break
                await asyncio.sleep(0.005)
        run.result()
    finally:
        worker.stop()
        await asyncio.gather(run, return_exceptions=True)
