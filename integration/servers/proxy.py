"""A bad network: a TCP proxy on loopback that cuts, holds back or swallows."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from enum import Enum
from typing import Final, Self

from integration.servers.base import HOST

CHUNK: Final = 65_536
RESET: Final = struct.pack("ii", 1, 0)
"""For SO_LINGER: what is closed is reset."""


class Network(Enum):
    """What becomes of bytes."""

    FINE = "fine"
    HELD = "held"
    """Nothing gets through in either direction, also over new connections; nobody is told."""
    DEAF = "deaf"
    """Requests arrive, answers are swallowed."""
    GONE = "gone"
    """Connections are reset, and new ones as soon as they are made."""


class Proxy:
    """Passes connections on to a port on loopback, in a thread of its own.

    All methods return at once and may be called from any thread.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.connections = 0
        """Made so far."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._started = threading.Event()
        self._network = Network.FINE
        self._flows: asyncio.Event
        self._server: asyncio.Server
        self._writers: set[asyncio.StreamWriter] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def cut(self) -> None:
        """Reset all connections; new ones are fine if the network is."""
        self._loop.call_soon_threadsafe(self._cut)

    def become(self, network: Network) -> None:
        """Change what becomes of bytes. Where answers were swallowed, connections are reset at the
        change, since what comes next would make no sense to the client."""
        self._loop.call_soon_threadsafe(self._become, network)

    def _become(self, network: Network) -> None:
        if network is Network.GONE or self._network is Network.DEAF:
            self._cut()
        self._network = network
        if network is Network.HELD:
            self._flows.clear()
        else:
            self._flows.set()

    def _cut(self) -> None:
        for writer in self._writers:
            raw: socket.socket | None = writer.get_extra_info("socket")
            if raw is not None and raw.fileno() >= 0:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
            self._loop.run_forever()
        finally:
            self._server.close()
            self._cut()
            # Those too that were made and never ran, or are made while others end.
            while tasks := asyncio.all_tasks(self._loop):
                for task in tasks:
                    task.cancel()
                self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._loop.close()

    async def _serve(self) -> None:
        self._flows = asyncio.Event()
        self._flows.set()
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self._started.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.connections += 1
        far: asyncio.StreamWriter | None = None
        try:
            await self._flows.wait()
            if self._network is Network.GONE:
                return
            answers, far = await asyncio.open_connection(HOST, self.target)
            self._writers.add(far)
            await asyncio.gather(
                self._pass(reader, far, deaf=False), self._pass(answers, writer, deaf=True)
            )
        except OSError:
            pass  # one side has gone, so the other goes
        finally:
            for end in (writer, far):
                if end is not None:
                    self._writers.discard(end)
                    end.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, deaf: bool
    ) -> None:
        while data := await reader.read(CHUNK):
            await self._flows.wait()
            if not (deaf and self._network is Network.DEAF):
                writer.write(data)
                await writer.drain()
        raise ConnectionResetError("one side has ended")
