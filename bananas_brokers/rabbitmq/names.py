"""How queues are called at the server, and what they are declared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pamqp.common import FieldValue

LEVELS: Final = 4
"""Bands of a routing key. Their number is in the queues' names, so that another number would make
other queues instead of mixing up these."""
BURIED: Final = "buried"
DELIVERIES: Final = 2**31 - 1
"""A limit that is never reached: the ledger counts. Unset, RabbitMQ 4 takes 20 and drops the
message then; with any limit all versions put what is given back at the front."""
PROBES: Final = "bananas.probe."
"""Queues of one worker process for its health checks, which nobody uses when it is gone."""
PROBES_EXPIRE: Final = 86_400_000
"""Milliseconds."""


def band_queue(namespace: str, routing_key: str, band: int) -> str:
    """The queue of one band. Neither of the names can have a slash."""
    return f"{namespace}/{routing_key}/{band}-of-{LEVELS}"


def buried_queue(namespace: str, routing_key: str) -> str:
    """Where messages lie that were set aside."""
    return f"{namespace}/{routing_key}/{BURIED}"


def queues_of(namespace: str, routing_key: str) -> list[str]:
    """All queues of a routing key, the buried ones last."""
    bands = [band_queue(namespace, routing_key, band) for band in range(LEVELS)]
    return [*bands, buried_queue(namespace, routing_key)]


def arguments_of(queue: str) -> dict[str, FieldValue]:
    """What to declare a queue with: the same on every version, as it must be repeated exactly."""
    arguments: dict[str, FieldValue] = {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERIES,
    }
    if queue.split("/", 1)[1].startswith(PROBES):
        arguments["x-expires"] = PROBES_EXPIRE
    return arguments
