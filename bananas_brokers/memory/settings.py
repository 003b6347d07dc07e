"""What a ``memory://`` URL says."""

from __future__ import annotations

from enum import StrEnum
from importlib.util import find_spec

import msgspec

from bananas_core.errors import ConfigurationError
from bananas_core.urls import parse_url, read_options


class Form(StrEnum):
    """Which of the two drivers behind ``memory://`` is meant."""

    FUSED = "fused"
    """One store for messages and records, as Redis and SQLite have it."""
    SPLIT = "split"
    """A transport that duplicates and reorders, with a key-value ledger apart from it."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Objects with equal settings and namespace in one process share their jobs."""

    name: str = ""
    """Which store of this process; no name is a name too."""
    form: Form = Form.FUSED
    """`fused`: one store for messages and records. `split`: a transport that may duplicate and
    reorder, apart from a key-value ledger, to test against the awkward kind of broker."""


def read_settings(url: str) -> Settings:
    """The settings of a URL.

    Raises:
        ConfigurationError: not ``memory://``, something other than a name, or an unknown option,
            or the split form without the package that it needs.
    """
    parsed = parse_url(url)
    if parsed.scheme != "memory":
        raise ConfigurationError(f"{parsed.scheme}:// is not memory://")
    if parsed.path or parsed.port is not None or parsed.user is not None:
        raise ConfigurationError("memory:// takes only a name, e.g. memory://tests")
    # The parser lower-cases host names, so names that differ only in case are one.
    settings = Settings(name=parsed.host, **read_options(parsed, {"form": Form}))
    if settings.form is Form.SPLIT and find_spec("sortedcontainers") is None:
        raise ConfigurationError(
            'memory://…?form=split needs sortedcontainers: pip install "bananas[testing]"'
        )
    return settings
