"""The one place where SQLite's errors become ours."""

from __future__ import annotations

import sqlite3
from typing import Final

from bananas_core.errors import BananasError

_TEMPORARY: Final = {
    sqlite3.SQLITE_BUSY: "the file stayed locked by another process",
    sqlite3.SQLITE_LOCKED: "the file stayed locked",
    sqlite3.SQLITE_IOERR: "the disk reported an error",
    sqlite3.SQLITE_FULL: "the disk or the file is full",
    sqlite3.SQLITE_CANTOPEN: "the file can't be opened",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_INTERRUPT: "interrupted",
    sqlite3.SQLITE_READONLY: "the file can't be written",
    sqlite3.SQLITE_PROTOCOL: "the file's locks are contended",
}
"""By primary result code: what may be different at the next try."""


class NotOpen(Exception):
    """The database was closed, or never opened."""


def code(error: BaseException) -> int:
    """The primary result code of an SQLite error, 0 when there is none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def busy(error: BaseException) -> bool:
    """Whether somebody else holds a lock, so that trying again helps."""
    return code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)


def translate(
    error: Exception,
    path: str,
    refused: type[BananasError],
    unavailable: type[BananasError],
) -> BananasError:
    """Our error for one of SQLite's, of the caller's family."""
    if isinstance(error, NotOpen):
        return unavailable(f"{path} is not open; call open() first")
    reason = _TEMPORARY.get(code(error))
    if reason is not None:
        return unavailable(f"{path}: {reason} ({error}); try again")
    if isinstance(error, OSError):
        return unavailable(f"{path}: {error.strerror or error}; try again")
    return refused(f"{path}: SQLite refused: {error}")
