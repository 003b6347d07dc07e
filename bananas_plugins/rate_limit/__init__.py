"""Limits on how many jobs start in a time, or run at once, for all workers together.

    @app.task(limits=Limit("100/s", burst=10, key="{user_id}"))
    async def call_api(user_id: int) -> None: ...

The plugin comes with the first task that has a ``Limit``. How limits are kept is decided in
``bananas_core/limits``.
"""

from bananas_plugins.rate_limit.limit import Limit
from bananas_plugins.rate_limit.outside import limiter
from bananas_plugins.rate_limit.plugin import RateLimit

__all__ = ["Limit", "RateLimit", "limiter", "plugin"]


def plugin() -> RateLimit:
    """The plugin; a task with a ``Limit`` brings it by itself."""
    return RateLimit()
