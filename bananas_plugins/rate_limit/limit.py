"""``Limit``: what a task says about how many of its jobs start, or run at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from bananas_core.errors import ConfigurationError, InvalidPayload
from bananas_core.keys import JobView, KeyMaker, TaskArguments
from bananas_core.limits import Rule, Slots, Want, key_token, parse_rule

if TYPE_CHECKING:
    from bananas_core.plugins import Plugin

Maker = str | Callable[[JobView], object]


class Limit(msgspec.Struct, frozen=True):
    """How many jobs may start in a time, or run at the same time, on all workers together.

    Raises:
        ConfigurationError: it says nothing that can be kept.
    """

    rate: str | None = None
    """``100/s``, ``5/10s``, ``1000/min``: evenly spaced. ``1000/day``, also ``hour``, ``week``,
    ``month``: in each calendar window of ``tz``."""
    concurrency: int | None = None
    """Instead of a rate: so many at the same time."""
    burst: int | None = None
    """Of a rate: this many may start at once after a pause; default 1."""
    key: Maker | None = None
    """One limit for each value: a template (``"{user_id}"``, also ``"{user.id}"``), or a function
    of the job (``lambda job: job.payload["user_id"]``)."""
    name: str | None = None
    """Limits of the same name are one, also of several tasks. Default: the task's own."""
    cost: int | Maker = 1
    """How much of a rate one job uses: a number, a template or a function that gives one."""
    on_excess: Literal["queue", "drop"] = "queue"
    """``queue``: a job waits for its turn. ``drop``: it is cancelled, with the reason."""
    tz: str | None = None
    """Time zone of calendar windows, like ``Europe/Berlin``; default UTC."""

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.concurrency is None):
            raise ConfigurationError("a Limit has a rate or a concurrency, and not both")
        if self.on_excess not in ("queue", "drop"):
            raise ConfigurationError(f"on_excess is 'queue' or 'drop', not {self.on_excess!r}")
        if isinstance(self.rule, Slots) and self.cost != 1:
            raise ConfigurationError("a concurrency has no cost: each job has one slot")
        if isinstance(self.cost, int) and self.cost < 1:
            raise ConfigurationError(f"cost is at least 1, not {self.cost}")
        if self.name is not None and key_token(self.name) != self.name:
            raise ConfigurationError(
                f"limit name {self.name!r} is not 1-64 letters, digits and ._@+-"
            )

    @property
    def rule(self) -> Rule:
        """What it says. Raises ConfigurationError."""
        if self.concurrency is not None:
            return parse_rule(f"{self.concurrency} at once", burst=self.burst, tz=self.tz)
        return parse_rule(self.rate or "", burst=self.burst, tz=self.tz)

    def plugin(self) -> Plugin:
        """What keeps limits."""
        from bananas_plugins.rate_limit.plugin import RateLimit

        return RateLimit()

    def check(self, task: Any) -> None:
        """Raises ConfigurationError if key or cost name what the task doesn't take."""
        Plan(self, "", TaskArguments(task.fn, task.name))


class Plan:
    """What one limit means for one task."""

    def __init__(self, limit: Limit, name: str, arguments: TaskArguments) -> None:
        """Raises ConfigurationError."""
        self.limit = limit
        self.name = limit.name or name
        self.rule = limit.rule
        self.drops = limit.on_excess == "drop"
        self._key = None if limit.key is None else KeyMaker(limit.key, arguments)
        self._cost = None if isinstance(limit.cost, int) else KeyMaker(limit.cost, arguments)

    @property
    def needs_job(self) -> bool:
        """Whether the arguments of a job must be read."""
        return self._key is not None or self._cost is not None

    def want(self, view: JobView | None) -> Want:
        """What a job asks of it. Raises InvalidPayload."""
        key, cost = "", 1 if not isinstance(self.limit.cost, int) else self.limit.cost
        if view is not None and self._key is not None:
            key = key_token(self._key.make(view))
        if view is not None and self._cost is not None:
            cost = _whole(self._cost.make(view), self.name)
        return Want(name=self.name, key=key, cost=cost, rule=self.rule)


def plans_of(task: Any) -> tuple[Plan, ...]:
    """The limits of a task. Raises ConfigurationError."""
    arguments = TaskArguments(task.fn, task.name)
    limits = [limit for limit in task.limits if isinstance(limit, Limit)]
    own = key_token(task.name)
    return tuple(
        Plan(limit, own if i == 0 else f"{own}.{i + 1}", arguments)
        for i, limit in enumerate(limits)
    )


def _whole(text: str, name: str) -> int:
    try:
        cost = int(text)
    except ValueError:
        cost = 0
    if not 1 <= cost <= 10**9:
        raise InvalidPayload(f"the cost for limit {name} is a whole number from 1, not {text!r}")
    return cost
