"""What a limit says, as a value and as text. Pure."""

from __future__ import annotations

import re
from typing import Final, Literal
from zoneinfo import ZoneInfo

import msgspec

from bananas_core.errors import ConfigurationError

Unit = Literal["hour", "day", "week", "month"]

MOST_SLOTS: Final = 1000
"""The slots of a limit are kept in one document."""

_PERIODS: Final = {"s": 1.0, "sec": 1.0, "second": 1.0, "min": 60.0, "minute": 60.0, "h": 3600.0}
_UNITS: Final[dict[str, Unit]] = {"hour": "hour", "day": "day", "week": "week", "month": "month"}
_TEXT: Final = re.compile(
    r"(?P<count>\d+)\s*(?:/\s*(?P<times>\d+(?:\.\d+)?)?\s*(?P<unit>[a-z]+)"
    r"(?:\s+burst\s+(?P<burst>\d+))?(?:\s+(?P<tz>[A-Za-z][\w+/-]*))?|at\s+once)"
)


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """``count`` starts in any ``period`` seconds, evenly spaced, but for ``burst`` at once after a
    pause: no window of one period has more than ``count + burst``."""

    count: int
    period: float
    burst: int = 1


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """``count`` starts in each calendar hour, day, week (from Monday) or month of a time zone."""

    count: int
    unit: Unit
    tz: str = "UTC"


class Slots(msgspec.Struct, frozen=True, kw_only=True):
    """``count`` at the same time."""

    count: int


Rule = Rate | Quota | Slots


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What a limit has for a job: it may start at ``at`` (ledger's time; now or earlier: at once),
    not later than ``until``. ``place`` says where in the limit's own order that is. Not ``firm``:
    nothing can be reserved, ``at`` is when to ask again."""

    at: float
    until: float = float("inf")
    place: float = 0.0
    firm: bool = True


def parse_rule(text: str, *, burst: int | None = None, tz: str | None = None) -> Rule:
    """``100/s``, ``5/10s``, ``1000/min burst 50``, ``1000/day Europe/Berlin``, ``5 at once``.

    Args:
        burst, tz: go before what the text says.

    Raises:
        ConfigurationError: it is none of these; the text says what is wrong.
    """
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        raise ConfigurationError(
            f"{text!r} is no limit: give e.g. 100/s, 5/10s, 1000/min, 1000/day or 5 at once"
        )
    count = int(found["count"])
    if not 1 <= count <= 10**9:
        raise ConfigurationError(f"limit {text!r}: the number is from 1 to 1000000000")
    burst = burst if burst is not None or found["burst"] is None else int(found["burst"])
    tz = tz or found["tz"]
    unit = found["unit"]
    if unit is None:
        _only(text, burst=burst, tz=tz)
        if count > MOST_SLOTS:
            raise ConfigurationError(f"limit {text!r}: at most {MOST_SLOTS} at once")
        return Slots(count=count)
    if unit in _UNITS:
        if found["times"] is not None:
            raise ConfigurationError(f"limit {text!r}: a calendar {unit} can't be multiplied")
        _only(text, burst=burst)
        return Quota(count=count, unit=_UNITS[unit], tz=_zone(tz or "UTC"))
    if unit not in _PERIODS:
        known = ", ".join((*_PERIODS, *_UNITS))
        raise ConfigurationError(f"limit {text!r}: unit {unit!r} is not one of {known}")
    _only(text, tz=tz)
    period = _PERIODS[unit] * float(found["times"] or 1)
    burst = 1 if burst is None else burst
    if period <= 0 or not 1 <= burst <= 10**9:
        raise ConfigurationError(f"limit {text!r}: the period and the burst must be positive")
    return Rate(count=count, period=period, burst=burst)


def text_of(rule: Rule) -> str:
    """The rule as ``parse_rule`` reads it."""
    if isinstance(rule, Slots):
        return f"{rule.count} at once"
    if isinstance(rule, Quota):
        return f"{rule.count}/{rule.unit}" + ("" if rule.tz == "UTC" else f" {rule.tz}")
    unit = {1.0: "s", 60.0: "min", 3600.0: "h"}.get(rule.period) or f"{rule.period:g}s"
    return f"{rule.count}/{unit}" + ("" if rule.burst == 1 else f" burst {rule.burst}")


def _only(text: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise ConfigurationError(f"limit {text!r} takes no {name}")


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ConfigurationError(f"{name!r} is no time zone, like Europe/Berlin") from error
    return name
