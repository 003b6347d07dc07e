"""What an ``amqp://`` URL says."""

from __future__ import annotations

from typing import Final

import msgspec

from bananas_core.errors import ConfigurationError
from bananas_core.urls import boolean, parse_url, read_options

SCHEMES: Final = {"amqp": 5672, "amqps": 5671}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One virtual host of one server or cluster, and how it is used."""

    scheme: str
    host: str
    port: int
    vhost: str = "/"
    user: str = "guest"
    password: str = "guest"
    socket_timeout: float = 10.0
    """Seconds after which a call without an answer fails."""
    connect_timeout: float = 5.0
    """Seconds for connecting."""
    heartbeat: int = 5
    """Seconds between signs of life; the server gives back what a silent worker held after two."""
    ssl_ca_certs: str | None = None
    """Of `amqps`: a file of trusted certificates; none: the system's."""
    ssl_certfile: str | None = None
    """Of `amqps`: a certificate to show to the server."""
    ssl_keyfile: str | None = None
    """Of `amqps`: the key of that certificate."""
    ssl_check_hostname: bool = True
    """Of `amqps`: whether the certificate must name the host."""

    @property
    def tls(self) -> bool:
        return self.scheme == "amqps"

    @property
    def label(self) -> str:
        """For people; no secret in it."""
        vhost = "" if self.vhost == "/" else f"/{self.vhost}"
        return f"{self.scheme}://{self.host}:{self.port}{vhost}"

    def __repr__(self) -> str:
        return f"Settings({self.label})"


def read_settings(url: str) -> Settings:
    """The settings of a URL.

    Raises:
        ConfigurationError: another scheme, an unknown option or a bad value.
    """
    parsed = parse_url(url)
    if parsed.scheme not in SCHEMES:
        raise ConfigurationError(f"{parsed.scheme}:// is not one of {', '.join(SCHEMES)}")
    options = read_options(
        parsed,
        {
            "socket_timeout": _seconds,
            "connect_timeout": _seconds,
            "heartbeat": _heartbeat,
            "ssl_ca_certs": str,
            "ssl_certfile": str,
            "ssl_keyfile": str,
            "ssl_check_hostname": boolean,
        },
    )
    for name in options:
        if name.startswith("ssl_") and parsed.scheme != "amqps":
            raise ConfigurationError(f"amqp:// has no option {name!r}; it is of amqps://")
    return Settings(
        scheme=parsed.scheme,
        host=parsed.host or "localhost",
        port=parsed.port or SCHEMES[parsed.scheme],
        vhost=parsed.path or "/",
        user="guest" if parsed.user is None else parsed.user,
        password="guest" if parsed.password is None else parsed.password,
        **options,
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 3600:
        raise ValueError("expected seconds, more than 0")
    return value


def _heartbeat(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 7:
        raise ValueError("expected 1 to 7 seconds: leases end after 15 at the latest")
    return value
