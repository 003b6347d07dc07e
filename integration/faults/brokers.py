"""Scenarios for any broker that is a server: it is killed, or the network to it is bad.

``stage.url`` names it, ``BANANAS_RESULT_BACKEND_URL`` a ledger that stays up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Final

from bananas import Bananas
from bananas_core.errors import TransportError
from integration.faults.inject import Deadline
from integration.faults.stage import Stage
from integration.servers import Network, Proxy, Server

CONSUMING_WITHIN: Final = 15.0
BATCH: Final = 20
LOADED: Final = 2.0
"""Seconds of load before the fault."""
DRAINED_WITHIN: Final = 90.0


class Load:
    """Submits all the time; what is not accepted is not counted on."""

    def __init__(self, stage: Stage, app: Bananas) -> None:
        self._stage = stage
        self._app = app
        self.refused = 0
        self.slowest = 0.0
        """Seconds that one call took."""

    async def run(self) -> None:
        number = 0
        while True:
            begun = time.monotonic()
            try:
                payloads = [{"number": number + n} for n in range(BATCH)]
                await self._stage.submit(self._app, "short", payloads)
            except TransportError:
                self.refused += BATCH
            self.slowest = max(self.slowest, time.monotonic() - begun)
            number += BATCH
            await asyncio.sleep(0.05)


async def under_load(
    stage: Stage, fault: Callable[[], AbstractAsyncContextManager[Any]], *, rounds: int = 1
) -> None:
    """Inject a fault while jobs are submitted and run; when it is over, they go on within 15 s, and
    nothing that was accepted is lost."""
    stage.group("a", processes=2)
    async with Bananas(stage.url) as app:
        load = Load(stage, app)
        loading = asyncio.create_task(load.run())
        waits: list[float] = []
        try:
            for _ in range(rounds):
                await started_after(stage, time.time(), 20.0)
                await asyncio.sleep(LOADED)
                async with fault():
                    pass
                over = time.time()
                waits.append(await started_after(stage, over, CONSUMING_WITHIN) - over)
        finally:
            loading.cancel()
            with suppress(asyncio.CancelledError):
                await loading
        stage.figures.update(
            consuming_after_s=[round(wait, 1) for wait in waits],
            refused=load.refused,
            slowest_submit_s=round(load.slowest, 1),
        )
        await accepted_done(stage, app)
        verdict = await stage.judged(app.backend)
        stage.check(verdict.accepted >= BATCH, "nothing was accepted")


async def accepted_done(stage: Stage, app: Bananas) -> None:
    """Wait for what was accepted. What was refused may be recorded, and is sent by workers when its
    guard fires; nobody waits for that."""
    deadline = Deadline(DRAINED_WITHIN)
    while (await stage.oracle.judge(app.backend)).lost and not deadline.over:
        await asyncio.sleep(0.5)


async def started_after(stage: Stage, moment: float, within: float) -> float:
    """When the first job started after this moment."""
    deadline = Deadline(within)
    while not deadline.over:
        starts = [run.at for run in stage.oracle.runs() if run.what == "start" and run.at > moment]
        if starts:
            return min(starts)
        await asyncio.sleep(0.1)
    stage.check(False, f"no job started within {within} s")
    raise AssertionError


def killed(server: Server, seconds: float) -> Callable[[], AbstractAsyncContextManager[Any]]:
    """kill -9, and back after so long."""

    @asynccontextmanager
    async def fault() -> Any:
        await asyncio.to_thread(server.kill)
        yield
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.start)

    return fault


def network(
    proxy: Proxy, trouble: Network, seconds: float
) -> Callable[[], AbstractAsyncContextManager[Any]]:
    """The network is in trouble for so long."""

    @asynccontextmanager
    async def fault() -> Any:
        proxy.become(trouble)
        yield
        await asyncio.sleep(seconds)
        proxy.become(Network.FINE)

    return fault
