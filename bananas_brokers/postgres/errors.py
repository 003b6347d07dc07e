"""The one place where the client's errors become ours."""

from __future__ import annotations

from typing import Final

from asyncpg import PostgresError
from asyncpg.exceptions import InterfaceError, InternalClientError

from bananas_core.errors import BananasError


class NotOpen(Exception):
    """The connection was closed, or never opened."""


class Changed(Exception):
    """Somebody else was quicker: the whole operation is to be done again."""


CAUGHT: Final = (
    PostgresError,
    InterfaceError,
    InternalClientError,
    OSError,
    TimeoutError,
    UnicodeError,
    NotOpen,
    Changed,
)
"""All that calls of the client may raise."""

_AGAIN: Final = ("40001", "40P01")
"""Serialization failure, deadlock: nothing was done, and the same may succeed now."""
_PASSING: Final = ("08", "25P03", "25006", "40", "53", "55", "57", "58", "XX")
"""How codes begin whose cause may be gone at the next try."""
_GONE: Final = ("08", "25006", "57P0")
"""How codes begin after which another connection is needed; a standby takes no writes (25006)."""
_REFUSED: Final = {
    "28": "the login was refused",
    "3D000": "there is no such database",
    "42501": "the user lacks a permission",
    "22021": "the text can't be stored",
    "22P05": "the text can't be stored",
}


def to_repeat(error: BaseException) -> bool:
    """Whether the server undid everything, so that the driver repeats it by itself."""
    return isinstance(error, Changed) or code(error) in _AGAIN


def usable_after(error: BaseException) -> bool:
    """Whether the connection on which it happened may be used again: the server answered, and is
    the one to talk to."""
    if isinstance(error, Changed):
        return True
    return bool(code(error)) and not code(error).startswith(_GONE)


def code(error: BaseException) -> str:
    """The SQLSTATE of an error, empty when there is none."""
    return str(getattr(error, "sqlstate", None) or "")


def translate(
    error: Exception, label: str, refused: type[BananasError], unavailable: type[BananasError]
) -> BananasError:
    """Our error for one of the client's, of the caller's family."""
    if isinstance(error, NotOpen):
        return unavailable(f"{label} is not open; call open() first")
    text = str(error) or type(error).__name__
    if isinstance(error, ValueError):  # of the client: what can't be written as a parameter
        return refused(f"{label}: a value can't be stored: {text}")
    if isinstance(error, PostgresError) and not code(error).startswith(_PASSING):
        reason = next((why for begin, why in _REFUSED.items() if code(error).startswith(begin)), "")
        return refused(f"{label}: {reason or 'the server refused'} ({text})")
    return unavailable(f"{label}: {text}; try again")
