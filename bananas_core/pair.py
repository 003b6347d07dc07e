"""A transport and its ledger, found by URL through entry points and opened together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bananas_core.codec import Codecs
from bananas_core.errors import ConfigurationError
from bananas_core.urls import parse_url, redact

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from bananas_core.results import ResultBackend
    from bananas_core.transport import Transport

NO_LEDGER = {"amqp", "amqps", "kafka", "rabbitmq", "rabbitmqs"}
"""Brokers that can't keep records: they need a second URL."""
LEDGER_OF = {"sqs": "dynamodb"}


class Pair:
    """One transport with one ledger. ``fused``: they are one place (``Transport.shares``)."""

    def __init__(self, transport: Transport, backend: ResultBackend) -> None:
        self.transport = transport
        self.backend = backend
        self.codecs = Codecs()
        """Of the app that opened it: conditions in workflows look into results."""
        self.fused = transport.capabilities.fused and transport.shares(backend)

    async def open(self) -> None:
        """Open the ledger, then the transport; all or nothing. Safe to repeat."""
        horizon = 0.0 if self.fused else self.transport.capabilities.horizon
        await self.backend.open(guard=not self.fused, horizon=horizon)
        try:
            await self.transport.open()
        except BaseException:
            await self.backend.close()
            raise

    async def close(self) -> None:
        """Close both. Safe to repeat."""
        try:
            await self.transport.close()
        finally:
            await self.backend.close()


def load_pair(broker_url: str, result_backend_url: str | None, namespace: str) -> Pair:
    """Build the pair that two URLs name; nothing connects yet.

    Raises:
        ConfigurationError: unknown scheme, missing second URL, driver not installed.
    """
    scheme = parse_url(broker_url).scheme
    if result_backend_url is None:
        base = scheme.split("+")[0]
        if base in NO_LEDGER:
            raise ConfigurationError(
                f"{base}:// moves messages but keeps no records; give a second URL "
                "(result_backend_url or BANANAS_RESULT_BACKEND_URL), e.g. postgresql://…, "
                "redis://… or sqlite:///bananas.db"
            )
        ledger = LEDGER_OF.get(base)
        result_backend_url = broker_url if ledger is None else broker_url.replace(base, ledger, 1)
    transport = _load("bananas.transports", broker_url)(broker_url, namespace)
    backend = _load("bananas.result_backends", result_backend_url)(result_backend_url, namespace)
    return Pair(transport, backend)


def installed(group: str) -> dict[str, EntryPoint]:
    """Entry points of a group by name."""
    from importlib.metadata import entry_points  # a sixth of `import bananas`, were it above

    return {point.name: point for point in entry_points(group=group)}


def _load(group: str, url: str) -> Any:
    scheme = parse_url(url).scheme
    found = installed(group)
    point = found.get(scheme) or found.get(scheme.split("+")[0])
    kind = "transport" if group == "bananas.transports" else "result backend"
    if point is None:
        raise ConfigurationError(
            f"no {kind} for {redact(url)}; installed: {', '.join(sorted(found)) or 'none'}"
        )
    try:
        return point.load()
    except ImportError as error:
        ours = point.value.startswith("bananas_brokers.")
        extra = point.value.split(".")[1] if ours else scheme  # one extra for rediss, redis+unix, …
        raise ConfigurationError(
            f'the {scheme} driver can\'t be imported ({error}); pip install "bananas[{extra}]"'
        ) from error
