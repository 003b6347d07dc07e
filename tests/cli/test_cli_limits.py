"""``bananas limits``."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from bananas import Bananas
from bananas_core.clock import SystemClock
from bananas_core.limits import Ask, Limiter, Rate, Want

Cli = Callable[..., Any]


def _use(count: int) -> None:
    """Ask a limit for some jobs."""

    async def ask() -> None:
        async with Bananas() as app:
            want = Want(name="api", key="42", rule=Rate(count=1, period=60.0))
            client = Limiter(app.backend, SystemClock(), random.Random(1))
            await client.ask([Ask(id=f"job{n}", fence=1, wants=(want,)) for n in range(count)])

    asyncio.run(ask())


def test_limits_shows_what_is_used_and_who_waits(cli: Cli) -> None:
    assert cli("limits", "shop:app", "--json").lines == []
    _use(3)
    (line,) = cli("limits", "shop:app", "--json").lines
    assert (line["name"], line["key"], line["rule"]) == ("api", "42", "1/min")
    assert (line["used"], line["waiters"]) == (3, 2)
    assert cli("limits", "shop:app", "api", "--json").lines == [line]
    assert cli("limits", "shop:app", "other", "--json").lines == []
    assert "1/min" in cli("limits", "shop:app").stdout


def test_a_limit_is_set_and_reset(cli: Cli) -> None:
    done = cli("limits", "shop:app", "api", "--set", "200/s burst 20")
    assert (done.code, "200/s burst 20" in done.stdout) == (0, True)
    (line,) = cli("limits", "shop:app", "--json").lines
    assert (line["rule"], line["changed"]) == ("200/s burst 20", True)
    assert cli("limits", "shop:app", "api", "--reset").code == 0
    assert cli("limits", "shop:app", "--json").lines == []


def test_what_is_no_rule_is_refused(cli: Cli) -> None:
    assert cli("limits", "shop:app", "api", "--set", "many").code == 2
    assert cli("limits", "shop:app", "--reset").code == 2
    assert cli("limits", "shop:app", "api", "--set", "1/s", "--reset").code == 2
