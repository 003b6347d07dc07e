"""A very small HTTP server for health checks; it knows three paths and no more of HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

import msgspec

from bananas_core.health import HealthReport

PATHS: Final = frozenset({"/health", "/healthz", "/readyz"})
REQUEST_WITHIN: Final = 5.0
"""Seconds that a client has for its request."""
MOST_HEADERS: Final = 100
LIMIT: Final = 8192
"""Longest line of a request."""


class HealthServer:
    """Answers 200 when ``report`` is ok, else 503, with the report as JSON.

    On loopback unless told otherwise: it says how the worker is to whoever can reach it.
    """

    def __init__(
        self, report: Callable[[], Awaitable[HealthReport]], port: int, *, host: str = "127.0.0.1"
    ) -> None:
        self._report = report
        self._port = port
        self._host = host
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen; returns the port, which the system chooses when 0 was asked for.

        Raises:
            OSError: the port is taken or not allowed.
        """
        self._server = await asyncio.start_server(self._serve, self._host, self._port, limit=LIMIT)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Stop listening. Safe to repeat."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_WITHIN):
                method, path = await _read_request(reader)
            status, body = await self._answer(method, path)
            writer.write(_response(status, body if method != "HEAD" else b"", len(body)))
            await writer.drain()
        except (TimeoutError, ValueError, OSError, EOFError, asyncio.LimitOverrunError):
            pass  # not a client that waits for an answer
        finally:
            writer.close()

    async def _answer(self, method: str, path: str) -> tuple[HTTPStatus, bytes]:
        if path.partition("?")[0] not in PATHS:
            return HTTPStatus.NOT_FOUND, b"{}"
        if method not in ("GET", "HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, b"{}"
        report = await self._report()
        status = HTTPStatus.OK if report.ok else HTTPStatus.SERVICE_UNAVAILABLE
        return status, msgspec.json.encode({"ok": report.ok, **msgspec.to_builtins(report)})


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, str]:
    """Method and path; the headers are read and ignored. Raises ValueError, EOFError."""
    line = (await reader.readuntil(b"\r\n")).decode("latin-1")
    method, path, _ = line.split(" ", 2)
    for _ in range(MOST_HEADERS):
        if await reader.readuntil(b"\r\n") == b"\r\n":
            return method, path
    raise ValueError("too many headers")


def _response(status: HTTPStatus, body: bytes, length: int) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {length}\r\n"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body
