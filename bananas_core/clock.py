"""Time, randomness and ids, injected wherever a decision depends on them.

Inside the core and the contracts an instant is a float of unix seconds and a duration a float of
seconds. ``datetime`` and ``timedelta`` appear only at the public face.
"""

from __future__ import annotations

import os
import random
import time
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

_VERSION: Final = bytes(0x40 | byte & 0x0F for byte in range(256))
_VARIANT: Final = bytes(0x80 | byte & 0x3F for byte in range(256))
"""Of a UUID of version 4, bytes 6 and 8: what becomes of a random one."""


class Clock(Protocol):
    """A source of time. The worker's clock is never trusted for what the ledger decides."""

    def now(self) -> float:
        """Unix seconds, may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean something."""
        ...


class SystemClock:
    """The machine's own clock, without a frame between it and those who look at it a million times
    a minute."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


def new_ids(count: int) -> list[str]:
    """``count`` random job ids: 32 lower-case hex digits, 122 random bits (UUID version 4).

    One system call for the whole batch.
    """
    raw = bytearray(os.urandom(16 * count))
    if count == 1:
        raw[6], raw[8] = _VERSION[raw[6]], _VARIANT[raw[8]]
        return [raw.hex()]
    raw[6::16] = raw[6::16].translate(_VERSION)
    raw[8::16] = raw[8::16].translate(_VARIANT)
    text = raw.hex()
    return [text[i : i + 32] for i in range(0, 32 * count, 32)]


def seconds(value: timedelta | float | int) -> float:
    """A duration at the outer API (``timedelta`` or a number of seconds) as float seconds."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    return float(value)


def instant(value: datetime) -> float:
    """An aware datetime as unix seconds.

    Raises:
        ValueError: the datetime has no time zone, so its instant is unknown.
    """
    if value.tzinfo is None:
        raise ValueError(
            f"{value!r} has no time zone; give an aware datetime, e.g. datetime.now(timezone.utc)"
        )
    return value.timestamp()


def to_datetime(value: float | None) -> datetime | None:
    """Unix seconds as an aware UTC datetime; None stays None."""
    return None if value is None else datetime.fromtimestamp(value, UTC)


def system_random() -> random.Random:
    """Randomness for jitter when none is injected."""
    return random.Random()
