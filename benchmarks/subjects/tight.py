"""The tight loop: the same minimal work, as fast as one thread of Python can ask for it.

Commands packed by hiredis, several batches under way at once, a list instead of a sorted set, one
in-flight entry a batch, no tasks, no record of what was done. It is nothing anybody would want to
run; it says what the machine, the server and the language allow.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Sequence
from urllib.parse import urlsplit

import hiredis
import msgspec

from benchmarks.subjects.common import HOLD_SECONDS, Options, options, started, started_again

BATCH = 100
AHEAD = 4
"""Batches under way."""
IDLE = 0.001
READY, FLIGHT, JOBS = "tight:ready", "tight:flight", "tight:jobs"
KEEP = 3600
TAKE = """
local ids = redis.call('LPOP', KEYS[1], ARGV[1])
if not ids then return {{}, {}} end
redis.call('HSET', KEYS[2], ARGV[2], table.concat(ids, ','))
return {ids, redis.call('HMGET', KEYS[3], unpack(ids))}
"""


class Arguments(msgspec.Struct):
    number: int


class Message(msgspec.Struct):
    payload: Arguments


settings = options()
blob = settings.payload()
decode = msgspec.json.Decoder(Message).decode


def worker(options: Options) -> list[str]:
    return ["python", "-m", __name__]


class Wire:
    """Commands out, answers in, in order; the caller knows what it asked."""

    def __init__(self) -> None:
        where = urlsplit(settings.url)
        self._socket = socket.create_connection((where.hostname, where.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def send(self, commands: Sequence[tuple[object, ...]]) -> None:
        self._socket.sendall(b"".join([hiredis.pack_command(command) for command in commands]))

    def read(self) -> object:
        while (answer := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(1 << 16))
        if isinstance(answer, hiredis.ReplyError):
            raise answer
        return answer


wire: Wire | None = None
_HEAD = b'{"v":1,"id":"%032x","name":"noop","payload":{"number":%d,"blob":"'
_TAIL = (
    b'"},"created_at":"2026-01-01T00:00:00.000000Z","routing_key":"default",'
    b'"meta":{"tenant":"acme"}}'
)
_REST = blob.encode() + _TAIL


def open() -> None:
    global wire
    wire = Wire()


def one(number: int) -> None:
    many([number])


def many(numbers: Sequence[int]) -> None:
    assert wire is not None
    under_way = 0
    for first in range(0, len(numbers), BATCH):
        part = numbers[first : first + BATCH]
        ids = [b"%032x" % number for number in part]
        fields: list[bytes] = []
        for number, id in zip(part, ids, strict=True):
            fields += (id, _HEAD % (number, number) + _REST)
        wire.send([("HSET", JOBS, *fields), ("RPUSH", READY, *ids)])
        under_way += 2
        while under_way > 2 * AHEAD:
            wire.read()
            under_way -= 1
    for _ in range(under_way):
        wire.read()


def hold() -> None:
    many([-1])


def main() -> None:
    wire = Wire()
    wire.send([("SCRIPT", "LOAD", TAKE)])
    sha, batch = wire.read(), 0
    asked: deque[int] = deque()
    """For each answer that is still to come: the batch that it brings, 0 for one of a finish."""

    def takes() -> list[tuple[object, ...]]:
        """As many as may be under way; one at a time while the queue is empty."""
        nonlocal batch
        made: list[tuple[object, ...]] = []
        for _ in range((AHEAD if busy else 1) - sum(map(bool, asked))):
            batch += 1
            asked.append(batch)
            made.append(("EVALSHA", sha, 3, READY, FLIGHT, JOBS, BATCH, batch))
        return made

    busy = True
    wire.send(takes())
    while True:
        taken, answer = asked.popleft(), wire.read()
        if not taken:
            continue
        ids: list[bytes]
        messages: list[bytes]
        ids, messages = answer  # type: ignore[misc]
        busy = bool(ids)
        if not busy:
            if not any(asked):
                time.sleep(IDLE)
            wire.send(takes())
            continue
        out: list[tuple[object, ...]] = []
        for id, raw in zip(ids, messages, strict=True):
            number = decode(raw).payload.number
            if number < 0:
                started_again()
                time.sleep(HOLD_SECONDS)
            started(number)
            if settings.results:
                out.append(("SET", b"tight:result:" + id, b"%d" % number, "EX", KEEP))
        out += [("HDEL", JOBS, *ids), ("HDEL", FLIGHT, taken)]
        asked.extend([0] * len(out))
        wire.send(out + takes())


if __name__ == "__main__":
    main()
