"""One connection that is made when it is needed, and made anew when it was lost."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import aio_pika
from aio_pika.abc import AbstractConnection

from bananas_brokers.rabbitmq.errors import CLIENT, answered, translate
from bananas_brokers.rabbitmq.settings import Settings
from bananas_core.errors import BananasError, ConfigurationError, TransportUnavailable

T = TypeVar("T")

log = logging.getLogger("bananas.rabbitmq")

FIRST_WAIT: Final = 0.05
LONGEST_WAIT: Final = 1.0
"""Seconds between two tries to connect, doubling: whoever asks in between gets the last error."""
AGAIN: Final = (0.02, 0.1, 0.4)
"""Seconds before what was cut off is tried again."""
CLOSE_WITHIN: Final = 3.0


class Link:
    """Connects on demand; callers that come at once share one try. Nothing is sent twice here:
    whoever asked decides what to do about a connection that was lost."""

    def __init__(self, settings: Settings, purpose: str, lost: Callable[[], None]) -> None:
        """``lost`` is called when an established connection is gone, for whatever reason."""
        self.settings = settings
        self._purpose = purpose
        self._lost = lost
        self._connection: AbstractConnection | None = None
        self._connecting: asyncio.Task[AbstractConnection] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._turn = 0
        """Which host is tried next; after a loss, the one behind the host that was lost."""
        self._failed_at = 0.0
        self._failure: BananasError | None = None
        self._wait = FIRST_WAIT
        self._closed = False

    async def get(self) -> AbstractConnection:
        """An open connection.

        Raises:
            TransportUnavailable: can't be reached now, or closed.
            TransportError: the server refuses the login, the virtual host, …
        """
        if self._closed:
            raise TransportUnavailable(f"{self.settings.label} is not open; call open() first")
        connection = self._connection
        if connection is not None and connection.connected.is_set():
            return connection
        loop = asyncio.get_running_loop()
        if self._failure is not None and loop.time() - self._failed_at < self._wait:
            raise type(self._failure)(str(self._failure)) from self._failure
        if self._connecting is None:
            self._connecting = loop.create_task(self._connect())
            self._connecting.add_done_callback(self._tried)
        try:
            return await asyncio.shield(self._connecting)
        except asyncio.CancelledError:
            if self._closed:
                raise TransportUnavailable(f"{self.settings.label} was closed") from None
            raise

    async def ask(
        self, work: Callable[[AbstractConnection], Awaitable[T]], seconds: float | None = None
    ) -> T:
        """What ``work`` gets from the server; for what may be repeated. When the connection is lost
        under it, it is done again on a new one: the server ends a connection that meets a queue
        which is just being made elsewhere.

        Raises:
            TransportUnavailable, TransportError.
        """
        for wait in AGAIN:
            connection = await self.get()
            try:
                return await self.on(connection, work(connection), seconds)
            except TransportUnavailable as error:
                if isinstance(error.__cause__, TimeoutError):
                    raise
            await asyncio.sleep(wait)
        connection = await self.get()
        return await self.on(connection, work(connection), seconds)

    async def on(
        self, connection: AbstractConnection, call: Awaitable[T], seconds: float | None = None
    ) -> T:
        """Wait for an answer on this connection, which is dropped if there is none in time. Raises
        TransportUnavailable, TransportError."""
        settings = self.settings
        try:
            async with answered(settings.label, seconds or settings.socket_timeout):
                return await call
        except TransportUnavailable as error:
            if isinstance(error.__cause__, TimeoutError):
                self.drop(connection)
            raise

    def drop(self, connection: AbstractConnection) -> None:
        """Give up a connection that doesn't answer, without waiting for its end."""
        if connection is self._connection:
            self._turn += 1
            self._end(connection)
            self._lost()

    async def close(self) -> None:
        """Disconnect. Safe to repeat."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._end(self._connection)
        if self._closing:
            await asyncio.wait(self._closing)

    def _end(self, connection: AbstractConnection) -> None:
        self._connection = None
        task = asyncio.get_running_loop().create_task(_close(connection))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _tried(self, task: asyncio.Task[AbstractConnection]) -> None:
        self._connecting = None
        if task.cancelled():
            return
        error = task.exception()
        self._failure = error if isinstance(error, BananasError) else None
        if error is None:
            self._wait = FIRST_WAIT
        else:
            self._failed_at = asyncio.get_running_loop().time()
            self._wait = min(LONGEST_WAIT, 2 * self._wait)

    async def _connect(self) -> AbstractConnection:
        hosts = self.settings.hosts
        for left in reversed(range(len(hosts))):
            try:
                connection = await self._connect_to(*hosts[self._turn % len(hosts)])
            except TransportUnavailable:
                self._turn += 1
                if not left:
                    raise
            else:
                connection.close_callbacks.add(lambda *_, mine=connection: self._gone(mine))
                self._connection = connection
                return connection
        raise AssertionError("a URL names one host at least")

    async def _connect_to(self, host: str, port: int) -> AbstractConnection:
        settings = self.settings
        try:
            async with asyncio.timeout(settings.connect_timeout):
                return await aio_pika.connect(
                    host=host,
                    port=port,
                    login=settings.user,
                    password=settings.password,
                    virtualhost=settings.vhost,
                    ssl=settings.tls,
                    ssl_context=_context(settings) if settings.tls else None,
                    client_properties={"connection_name": f"bananas {self._purpose} {os.getpid()}"},
                    heartbeat=settings.heartbeat,
                )
        except CLIENT as error:
            raise translate(error, settings.label) from error

    def _gone(self, connection: AbstractConnection) -> None:
        if connection is self._connection and not self._closed:
            log.warning("the %s connection to %s was lost", self._purpose, self.settings.label)
            self._turn += 1
            self._connection = None
            self._lost()


def _context(settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ssl_ca_certs)
        context.check_hostname = settings.ssl_check_hostname
        if settings.ssl_certfile:
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"{settings.label}: certificates can't be read: {error}"
        ) from error
    return context


async def _close(connection: AbstractConnection) -> None:
    """Say goodbye, if there is somebody to hear it."""
    try:
        async with asyncio.timeout(CLOSE_WITHIN):
            await connection.close()
    except (*CLIENT, asyncio.CancelledError) as error:
        log.debug("closing a connection: %r", error)


def underlying(connection: AbstractConnection) -> Any:
    """The protocol object below, for what it tells of the server: its properties, whether it has
    blocked us."""
    assert connection.transport is not None
    return connection.transport.connection
