"""Time, randomness and ids, injected wherever a decision depends on them.

Inside the core and the contracts an instant is a float of unix seconds and a duration a float of
seconds. ``datetime`` and ``timedelta`` appear only at the public face.
"""

from __future__ import annotations

import os
import random
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """A source of time. The worker's clock is never trusted for what the ledger decides."""

    def now(self) -> float:
        """Unix seconds, may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean something."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


def new_ids(count: int) -> list[str]:
    """``count`` random job ids: 32 lower-case hex digits, 122 random bits (UUID version 4).

    One system call for the whole batch.
    """
    raw = os.urandom(16 * count).hex()
    ids = []
    for i in range(0, 32 * count, 32):
        h = raw[i : i + 32]
        ids.append(f"{h[:12]}4{h[13:16]}{'89ab'[int(h[16], 16) & 3]}{h[17:]}")
    return ids


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
