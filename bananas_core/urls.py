"""Broker URLs: parsed once, options checked, secrets never shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from bananas_core.errors import ConfigurationError


class BrokerURL(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed URL. ``path`` keeps SQLAlchemy's slashes: ``sqlite:///a`` is ``a``,
    ``sqlite:////a`` is ``/a``. ``hosts``: all that the URL names, with commas between; ``host`` and
    ``port`` are the first."""

    scheme: str
    host: str = ""
    port: int | None = None
    hosts: tuple[tuple[str, int | None], ...] = ()
    user: str | None = None
    password: str | None = None
    path: str = ""
    options: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"BrokerURL({self.scheme}://{self.host or ''}/{self.path})"


def parse_url(url: str) -> BrokerURL:
    """Split a URL.

    Raises:
        ConfigurationError: no scheme, a bad port, or an option given twice.
    """
    parts = urlsplit(url)
    if not parts.scheme or "://" not in url:
        raise ConfigurationError(
            f"{redact(url)!r} is not a broker URL; it looks like sqlite:///jobs.db or memory://name"
        )
    options: dict[str, str] = {}
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key in options:
            raise ConfigurationError(f"option {key!r} is given twice in {redact(url)}")
        options[key] = value
    # Several hosts are no URL for the standard library, so it is given one at a time.
    login, at, places = parts.netloc.rpartition("@")
    each = [parts._replace(netloc=f"{login}{at}{place}") for place in places.split(",")]
    try:
        hosts = tuple((one.hostname or "", one.port) for one in each)
    except ValueError as error:
        raise ConfigurationError(f"bad port in {redact(url)}: {error}") from error
    return BrokerURL(
        scheme=parts.scheme,
        host=hosts[0][0],
        port=hosts[0][1],
        hosts=hosts,
        user=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
        path=unquote(parts.path[1:]),
        options=options,
    )


def read_options(
    url: BrokerURL, known: Mapping[str, Callable[[str], Any]], also: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The URL's options converted by ``known``; names in ``also`` belong to somebody else.

    Raises:
        ConfigurationError: an unknown option or a value that its converter refuses.
    """
    values: dict[str, Any] = {}
    for key, text in url.options.items():
        if key in also:
            continue
        if key not in known:
            allowed = ", ".join(sorted({*known, *also})) or "none"
            raise ConfigurationError(f"{url.scheme}:// has no option {key!r}; known: {allowed}")
        try:
            values[key] = known[key](text)
        except ValueError as error:
            raise ConfigurationError(f"{url.scheme}:// option {key}={text!r}: {error}") from error
    return values


def boolean(text: str) -> bool:
    """``true/false``, ``1/0``, ``yes/no``, ``on/off``; raises ValueError."""
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError("expected true or false")


def redact(url: str) -> str:
    """The URL with its password, and options that look like secrets, replaced by ``***``.
    Anything else stays to the letter; text that is no URL is cut the same way, never trusted."""
    place, mark, query = url.partition("?")
    head, scheme_end, rest = place.partition("://")
    if not scheme_end:
        head, rest = "", place
    authority, slash, path = rest.partition("/")
    login, at, host = authority.rpartition("@")
    if at:
        user, colon, _ = login.partition(":")
        authority = f"{user}{':***' if colon else ''}@{host}"
    options = "&".join(
        f"{key}=***" if _secret(key) else f"{key}{equals}{value}"
        for key, equals, value in (option.partition("=") for option in query.split("&"))
    )
    return f"{head}{scheme_end}{authority}{slash}{path}{mark}{options if mark else ''}"


def _secret(key: str) -> bool:
    return any(word in key.lower() for word in ("password", "secret", "token", "key"))
