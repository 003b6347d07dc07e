"""What a ``sqlite://`` URL says, and which places can't hold such a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import msgspec

from bananas_core.errors import ConfigurationError
from bananas_core.urls import boolean, parse_url, read_options

NETWORK_FILE_SYSTEMS: Final = frozenset(
    {
        "afs",
        "ceph",
        "cifs",
        "davfs",
        "fuse.glusterfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "smb",
        "smb2",
        "smb3",
        "smbfs",
    }
)
"""No shared memory between machines there, and often no working locks: WAL would lose data."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One file and how it is used. Equal settings in one process share one ``Database``."""

    path: str
    """Absolute and without symbolic links, so that equal files compare equal."""
    durable: bool = True
    """True: every commit is synced to disk before a call returns (``synchronous=FULL``). False:
    a crash of the machine may lose the last moments; a crash of the process loses nothing."""
    busy_timeout: float = 30.0
    """Seconds for which a locked file is tried again."""


def read_settings(url: str) -> Settings:
    """The settings of a URL.

    Raises:
        ConfigurationError: not a file path, an unknown option or a bad value.
    """
    parsed = parse_url(url)
    if parsed.scheme != "sqlite":
        raise ConfigurationError(f"{parsed.scheme}:// is not sqlite://")
    if parsed.host:
        raise ConfigurationError(
            f"sqlite://{parsed.host}… names a host; write sqlite:///relative.db or "
            "sqlite:////absolute.db"
        )
    if not parsed.path or parsed.path == ":memory:" or parsed.path.endswith("/"):
        raise ConfigurationError("sqlite:// needs a file, e.g. sqlite:///jobs.db; or use memory://")
    options = read_options(parsed, {"durable": boolean, "busy_timeout": _positive})
    return Settings(path=str(Path(parsed.path).resolve()), **options)


def check_place(path: str) -> None:
    """Refuse a file on a network file system, as far as this system tells.

    Raises:
        ConfigurationError: it is on one.
    """
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return  # not Linux, or no /proc: SQLite's own checks have to do
    kind = file_system(path, mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise ConfigurationError(
            f"{path} is on a network file system ({kind}), where SQLite's locks are not safe; "
            "use a local disk, or a broker that is a server"
        )


def file_system(path: str, mounts: str) -> str | None:
    """The type of the file system that holds ``path``, from the text of ``/proc/mounts``."""
    best, kind = -1, None
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[1])
        inside = point == "/" or path == point or path.startswith(point + "/")
        if inside and len(point) >= best:  # of equal points the last mount covers the others
            best, kind = len(point), fields[2]
    return kind


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 86_400:
        raise ValueError("expected seconds, more than 0")
    return value
