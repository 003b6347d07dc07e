"""The one place where the client's errors become ours."""

from __future__ import annotations

from redis import exceptions

from bananas_core.errors import BananasError


class NotOpen(Exception):
    """The connection was closed, or never opened."""


TEMPORARY = (
    exceptions.BusyLoadingError,
    exceptions.ReadOnlyError,
    exceptions.MasterDownError,
    exceptions.TryAgainError,
    exceptions.ClusterDownError,
    exceptions.AskError,
    exceptions.MovedError,
)
"""Answers that may be different at the next try."""


def stale_connection(error: BaseException) -> bool:
    """Whether the server at the other end is not the one to talk to any more."""
    return isinstance(
        error, exceptions.ReadOnlyError | exceptions.MasterDownError | exceptions.MovedError
    )


def translate(
    error: Exception, label: str, refused: type[BananasError], unavailable: type[BananasError]
) -> BananasError:
    """Our error for one of the client's, of the caller's family."""
    if isinstance(error, NotOpen):
        return unavailable(f"{label} is not open; call open() first")
    text = str(error)
    if isinstance(error, exceptions.OutOfMemoryError) or text.startswith("OOM "):
        return refused(
            f"{label}: the server has reached its maxmemory and takes no new jobs; give it more "
            "memory, shorten the retention or wait until jobs are done"
        )
    if isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError):
        return refused(f"{label}: the login was refused ({text})")
    if isinstance(error, exceptions.NoPermissionError):
        return refused(f"{label}: the user lacks a permission ({text})")
    temporary = isinstance(error, (*TEMPORARY, TimeoutError, exceptions.TimeoutError, OSError))
    if temporary or isinstance(error, exceptions.ConnectionError) or _passing(text):
        return unavailable(f"{label}: {text or type(error).__name__}; try again")
    return refused(f"{label}: the server refused: {text}")


def _passing(text: str) -> bool:
    """Answers without a class of their own in the client."""
    return text.startswith(("NOREPLICAS", "MISCONF", "BUSY ", "UNKILLABLE", "LOADING"))
