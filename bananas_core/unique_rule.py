"""What a job says about its unique key: for how long it is held, and what a second one does."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from bananas_core.clock import seconds
from bananas_core.errors import ConfigurationError

if TYPE_CHECKING:
    from bananas_core.message import Message

META: Final = "unique"
"""The name in ``message.meta``."""


class Until(StrEnum):
    """How long a job holds its key."""

    STARTED = "started"
    """Until it is claimed for the first time."""
    FINISHED = "finished"
    """Until it has ended, over all its attempts."""
    PERIOD = "period"
    """For a time from its submission, whatever becomes of it."""


class OnConflict(StrEnum):
    """What submitting does when another job holds the key."""

    EXISTING = "existing"
    """No new job; the handle is the other one's."""
    DROP = "drop"
    """The same as ``existing``, for those who don't want the handle."""
    RAISE = "raise"
    """``DuplicateJob``, which names the other one."""
    REPLACE = "replace"
    """The other one gets the new arguments if it has not started; else as ``existing``."""
    RESCHEDULE = "reschedule"
    """As ``replace``, and the other one's delay begins anew."""
    KEEP_LAST = "keep_last"
    """As ``replace``; once the other one runs, one more job with the newest arguments follows."""


class UniqueRule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The value of ``message.meta["unique"]``; absent when all is default. Durations in seconds.

    Raises:
        ConfigurationError: from ``check``; the parts don't go together.
    """

    until: Until = Until.FINISHED
    period: float | None = None
    """Given with ``until`` period, and only then."""
    on_conflict: OnConflict = OnConflict.EXISTING
    max_wait: float | None = None
    """Of ``reschedule``: the start is put off by at most this from the first submission."""
    after: str | None = None
    """Of the follow-up of a ``keep_last``: the job whose end it waits for."""

    def check(self) -> None:
        """Whether the parts go together."""
        if (self.period is not None) != (self.until is Until.PERIOD):
            raise ConfigurationError('a period is given with until="period", and only then')
        for name, value in (("period", self.period), ("max_wait", self.max_wait)):
            if value is not None and not 0 < value < 1e10:
                raise ConfigurationError(f"{name} must be positive, not {value!r}")
        if self.max_wait is not None and self.on_conflict is not OnConflict.RESCHEDULE:
            raise ConfigurationError('max_wait is given with on_conflict="reschedule" only')
        if self.on_conflict is OnConflict.KEEP_LAST and self.until is not Until.FINISHED:
            raise ConfigurationError('on_conflict="keep_last" needs until="finished"')


class UniqueKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that is known already, with its rule."""

    key: str
    rule: UniqueRule = UniqueRule()


def rule_from(
    until: str | None,
    period: timedelta | float | None,
    on_conflict: str,
    max_wait: timedelta | float | None,
) -> UniqueRule:
    """A checked rule from what users give. ``until`` None: as long as makes sense with the rest.

    Raises:
        ConfigurationError: an unknown word, or the parts don't go together.
    """
    try:
        policy = OnConflict(on_conflict)
        if until is not None:
            held = Until(until)
        elif period is not None:
            held = Until.PERIOD
        else:
            held = Until.STARTED if policy is OnConflict.RESCHEDULE else Until.FINISHED
    except ValueError as error:
        raise ConfigurationError(f"of a unique job: {error}") from error
    rule = UniqueRule(
        until=held,
        period=None if period is None else seconds(period),
        on_conflict=policy,
        max_wait=None if max_wait is None else seconds(max_wait),
    )
    rule.check()
    return rule


def mark(message: Message, key: str, rule: UniqueRule) -> Message:
    """A message that asks for this key."""
    meta: dict[str, Any] = {k: v for k, v in (message.meta or {}).items() if k != META}
    plain = msgspec.to_builtins(rule)
    if plain:
        meta[META] = plain
    return replace(message, unique=key, meta=meta or None)


def rule_of(message: Message) -> UniqueRule:
    """What a message says; the default if it says nothing that can be read."""
    try:
        return msgspec.convert((message.meta or {}).get(META, {}), UniqueRule)
    except msgspec.ValidationError:
        return UniqueRule()
