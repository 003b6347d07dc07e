"""Small messages between a supervisor and its child processes, over a stream socket.

A frame is four bytes of length (little-endian) and that many bytes of msgpack. Both ends are the
same program, so there is no version in it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Final

from bananas_core.errors import BananasError

_LENGTH: Final = struct.Struct("<I")
MOST: Final = 64 << 20
"""Largest frame in bytes; a larger one means that something else wrote into the pipe."""
_READ: Final = 1 << 16


class BrokenFrame(BananasError):
    """The other end sent something that is no frame."""


def frame(body: bytes) -> bytes:
    """A body with its length before it."""
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Cuts a stream of bytes into frames; a part of one is kept for the next call."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bodies of all frames that are complete now.

        Raises:
            BrokenFrame: a length over the limit.
        """
        self._buffer += data
        begin = 0
        try:
            while len(self._buffer) - begin >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._buffer, begin)
                if length > MOST:
                    raise BrokenFrame(f"a frame of {length} bytes is over {MOST}")
                end = begin + _LENGTH.size + length
                if len(self._buffer) < end:
                    return
                body = bytes(self._buffer[begin + _LENGTH.size : end])
                begin = end
                yield body
        finally:
            del self._buffer[:begin]


def read_first(sock: socket.socket) -> bytes:
    """The first frame's body, without a byte of what follows. Blocks; for a socket that no event
    loop reads yet. Empty if the other end is gone.

    Raises:
        BrokenFrame: a length over the limit.
    """
    head = _read_exactly(sock, _LENGTH.size)
    if not head:
        return b""
    (length,) = _LENGTH.unpack(head)
    if length > MOST:
        raise BrokenFrame(f"a frame of {length} bytes is over {MOST}")
    return _read_exactly(sock, length)


def _read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            return b""
        data += more
    return data


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """The next frame's body.

    Raises:
        EOFError: the other end is gone (asyncio.IncompleteReadError is one).
        BrokenFrame: a length over the limit.
    """
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > MOST:
        raise BrokenFrame(f"a frame of {length} bytes is over {MOST}")
    return await reader.readexactly(length)


class Link:
    """One end of a connection, on the running event loop. No call ever blocks.

    What the socket doesn't take is kept and sent when the other end reads again; what both ends
    know to be still running bounds it (see ``unsent``).

    With ``rest`` seconds between two looks at what arrives, a busy other end wakes this process
    that often and not with each frame: a wake-up costs more than what is to be done in it.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        received: Callable[[bytes], None],
        closed: Callable[[], None],
        rest: float = 0.0,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._received = received
        self._closed = closed
        self._rest = rest
        self._frames = Frames()
        self._out = bytearray()
        self._waiting = False
        self._open = True
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._readable)

    @property
    def open(self) -> bool:
        """Whether the other end is there, as far as known."""
        return self._open

    @property
    def unsent(self) -> int:
        """Bytes that the other end has no room for."""
        return len(self._out)

    def send(self, body: bytes) -> None:
        """Hand a frame to the operating system now, or as soon as there is room."""
        if self._open:
            self._out += frame(body)
            if not self._waiting:
                self._flush()

    def drain(self) -> bool:
        """Take in all that has arrived; whether that is anything. Also called by those who can't
        wait for the loop."""
        some = False
        while self._open:
            try:
                data = self._sock.recv(_READ)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                data = b""
            if not data:
                self.close()
                self._closed()
                break
            some = True
            try:
                for body in self._frames.feed(data):
                    self._received(body)
            except BrokenFrame:
                self.close()
                self._closed()
                break
            if len(data) < _READ:
                break
        return some

    def _readable(self) -> None:
        if self.drain() and self._open and self._rest > 0:
            self._loop.remove_reader(self._sock.fileno())
            self._loop.call_later(self._rest, self._look)

    def _look(self) -> None:
        """After a rest: the other end may still be busy."""
        busy = self.drain()
        if self._open and busy:
            self._loop.call_later(self._rest, self._look)
        elif self._open:
            self._loop.add_reader(self._sock.fileno(), self._readable)

    def close(self) -> None:
        """Without telling ``closed``. Safe to repeat."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._sock.fileno())
            if self._waiting:
                self._loop.remove_writer(self._sock.fileno())
            self._sock.close()

    def _flush(self) -> None:
        try:
            while self._out:
                sent = self._sock.send(self._out)
                del self._out[:sent]
        except (BlockingIOError, InterruptedError):
            if not self._waiting:
                self._waiting = True
                self._loop.add_writer(self._sock.fileno(), self._writable)
        except OSError:
            self._out.clear()  # the reader will see the end, after what was sent before it

    def _writable(self) -> None:
        self._waiting = False
        self._loop.remove_writer(self._sock.fileno())
        self._flush()
