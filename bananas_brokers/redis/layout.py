"""What a namespace says of its own form, so that programs which would misread it are refused."""

from __future__ import annotations

from typing import Final

from bananas_brokers.redis.keys import Keys
from bananas_brokers.redis.scripts import script
from bananas_brokers.redis.settings import Settings
from bananas_brokers.redis.wire import Wire
from bananas_core.errors import ConfigurationError

SCHEMA: Final = 1


async def agree(wire: Wire, keys: Keys, settings: Settings) -> None:
    """Write down schema and number of shards where nothing is yet. Safe to repeat.

    Raises:
        ConfigurationError: what is there has a newer schema, or another number of shards.
        RedisError, OSError: as they come.
    """
    text = script("open").text
    answer = await wire.call("EVAL", text, 1, keys.meta, b"", SCHEMA, settings.shards)
    schema, shards = int(answer[0]), int(answer[1])
    if schema > SCHEMA:
        raise ConfigurationError(
            f"{settings.label}: namespace written by a newer version (schema {schema}, this "
            f"program knows {SCHEMA}); update this program"
        )
    if shards != settings.shards:
        raise ConfigurationError(
            f"{settings.label}: the namespace has shards={shards} and was opened with "
            f"shards={settings.shards}; its records would not be found. Use the same number "
            "everywhere, or a new namespace"
        )
