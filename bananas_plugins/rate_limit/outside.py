"""Limits for code that is no job, shared with the jobs that have a limit of the same name."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from bananas_core.clock import SystemClock, new_ids
from bananas_core.errors import ConfigurationError
from bananas_core.limits import (
    Ask,
    Limiter,
    Release,
    Slots,
    Turn,
    Want,
    key_token,
    parse_rule,
)

if TYPE_CHECKING:
    from bananas_core.app import Bananas

LEASE: Final = 15.0
"""Seconds for which a slot is kept for a process that says nothing any more."""
RENEW_EVERY: Final = 4.0


@asynccontextmanager
async def limiter(
    app: Bananas, name: str, rule: str, *, key: str = "", burst: int | None = None, cost: int = 1
) -> AsyncIterator[None]:
    """Wait until the limit lets the block begin: ``async with limiter(app, "api", "10/s"): …``.

    Of ``"5 at once"`` the block holds a slot until it ends; one whose process dies, or stands still
    for 15 s, loses it.

    Args:
        rule: as the tasks say it that share the limit.
        key: a limit of its own for each.

    Raises:
        ConfigurationError: the rule is none.
        ResultBackendError: the ledger can't be asked.
    """
    if key_token(name) != name or not name or cost < 1:
        raise ConfigurationError(f"limit {name!r} with cost {cost} is not possible")
    parsed = parse_rule(rule, burst=burst)
    want = Want(name=name, key=key_token(key), rule=parsed, cost=cost)
    client = Limiter(app.backend, SystemClock(), random.Random(), send=app.send_ready)
    ask = Ask(id=f"outside-{new_ids(1)[0]}", fence=1, wants=(want,))
    await _begin(app, client, ask)
    if not isinstance(parsed, Slots):
        yield
        return
    renewing = asyncio.get_running_loop().create_task(_renew(app, client, ask))
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        await client.release([Release(id=ask.id, fence=ask.fence, wants=ask.wants)])


async def _begin(app: Bananas, client: Limiter, ask: Ask) -> None:
    """Until it was let in."""
    loop = asyncio.get_running_loop()
    while True:
        until = await app.backend.now() + LEASE
        (answer,) = await client.ask([replace(ask, until=until)])
        asked = loop.time()
        if answer.granted:
            return
        assert answer.by is not None
        try:
            await asyncio.sleep(max(0.0, answer.at - answer.now))
        except asyncio.CancelledError:
            if answer.firm:
                turn = Turn(name=answer.by.name, key=answer.by.key, change=answer.change)
                with contextlib.suppress(Exception):
                    await client.give_back(turn, answer.at)
            raise
        if answer.firm and answer.now + loop.time() - asked <= answer.until:
            return


async def _renew(app: Bananas, client: Limiter, ask: Ask) -> None:
    while True:
        await asyncio.sleep(RENEW_EVERY)
        with contextlib.suppress(Exception):  # an outage: the next one may succeed
            await client.ask([replace(ask, until=await app.backend.now() + LEASE)])
