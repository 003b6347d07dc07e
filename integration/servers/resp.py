"""Just enough of Redis's protocol to ask whether a server is there; no client library needed."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from io import BufferedReader
from typing import TypeAlias

ServerReply: TypeAlias = "str | int | list[ServerReply] | None"


class ReplyError(RuntimeError):
    """The server answered with an error."""


def request(connection: socket.socket, words: Sequence[str | int]) -> ServerReply:
    """Send one command and read its answer. Raises OSError, ReplyError."""
    parts = [str(word).encode() for word in words]
    head = b"*%d\r\n" % len(parts)
    connection.sendall(head + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
    with connection.makefile("rb") as stream:
        return _read(stream)


def _read(stream: BufferedReader) -> ServerReply:
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionResetError("the connection was closed")
    kind, text = line[:1], line[1:-2].decode()
    if kind == b"+":
        return text
    if kind == b"-":
        raise ReplyError(text)
    if kind == b":":
        return int(text)
    if kind == b"$":
        return None if text == "-1" else stream.read(int(text) + 2)[:-2].decode(errors="replace")
    return None if text == "-1" else [_read(stream) for _ in range(int(text))]
