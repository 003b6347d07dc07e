"""What the server says of itself, and what of it a user should know."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

import msgspec

OLDEST: Final = (3, 10)
TESTED: Final = 3
"""The newest major version that the tests run on."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """``blocked``: it takes no messages now, because of an alarm."""

    product: str = "RabbitMQ"
    version: str = "0"
    blocked: bool = False


def facts_of(properties: Mapping[str, Any], *, blocked: bool) -> Facts:
    """From what the server sent when it was connected to."""

    def text(key: str) -> str:
        value = properties.get(key, "")
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

    return Facts(product=text("product") or "unknown", version=text("version"), blocked=blocked)


def versions_of(facts: Facts) -> dict[str, str]:
    """Of the client library, and of the server as it was when it was last looked at."""
    return {
        "client": f"aio-pika {version('aio-pika')}",
        "server": f"{facts.product} {facts.version}",
    }


def warnings_of(facts: Facts) -> list[str]:
    """For ``doctor``: what doesn't work, or may not."""
    found = []
    if facts.product != "RabbitMQ":
        found.append(
            f"the server is {facts.product!r}: this driver needs quorum queues, as RabbitMQ has"
        )
    parts = [int(part) for part in facts.version.split(".")[:2] if part.isdigit()]
    if facts.product == "RabbitMQ" and parts:
        if tuple(parts) < OLDEST:
            found.append(f"RabbitMQ {facts.version} is older than 3.10, the oldest that is tested")
        elif parts[0] > TESTED:
            found.append(
                f"RabbitMQ {facts.version}: this driver uses only what 3.10 and 4.x have in "
                "common, but its tests run on 3.10"
            )
    if facts.blocked:
        found.append(
            "the server takes no messages because of an alarm (memory or disk): submitting fails "
            "until it is over; see `rabbitmq-diagnostics alarms`"
        )
    return found
