"""What an ``amqp://`` or ``rabbitmq://`` URL says: the scheme has two names."""

from __future__ import annotations

from typing import Final

import msgspec

from bananas_core.errors import ConfigurationError
from bananas_core.urls import boolean, parse_url, read_options

SECURE: Final = ("amqps", "rabbitmqs")
SCHEMES: Final = {"amqp": 5672, "rabbitmq": 5672, **dict.fromkeys(SECURE, 5671)}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One virtual host of one server or cluster, and how it is used."""

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    """Nodes of one cluster with their ports, tried in turn."""
    vhost: str = "/"
    user: str = "guest"
    password: str = "guest"
    socket_timeout: float = 10.0
    """Seconds after which a call without an answer fails."""
    connect_timeout: float = 5.0
    """Seconds for connecting to one host."""
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
        return self.scheme in SECURE

    @property
    def label(self) -> str:
        """For people; no secret in it."""
        vhost = "" if self.vhost == "/" else f"/{self.vhost}"
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"{self.scheme}://{hosts}{vhost}"

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
        if name.startswith("ssl_") and parsed.scheme not in SECURE:
            raise ConfigurationError(
                f"{parsed.scheme}:// has no option {name!r}; it is of {parsed.scheme}s://"
            )
    port = SCHEMES[parsed.scheme]
    return Settings(
        scheme=parsed.scheme,
        hosts=tuple((host or "localhost", own or port) for host, own in parsed.hosts),
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
