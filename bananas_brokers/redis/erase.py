"""Removes one namespace from the server, with everything in it."""

from __future__ import annotations

import re
from typing import Final

from bananas_brokers.redis.store import Store

_PORTION: Final = 1000
"""Keys looked at in one call, about: few enough that others get their turn."""
_SPECIAL: Final = re.compile(r"([*?\[\]^\\])")


async def erase(store: Store) -> None:
    """Look until nothing is found: over a reconnect, a scan may miss keys."""
    while await _look(store):
        pass


async def _look(store: Store) -> bool:
    """Delete what one scan of the server finds; whether there was anything."""
    pattern = _SPECIAL.sub(r"\\\1", store.keys.prefix) + "*"
    found_any, cursor = False, b"0"
    while True:
        cursor, found = await store.call("SCAN", cursor, "MATCH", pattern, "COUNT", _PORTION)
        if found:
            found_any = True
            await store.call("UNLINK", *found)
        if cursor == b"0":
            return found_any
