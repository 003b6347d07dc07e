"""What an operation gets while it runs in a lane."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Tx:
    """One operation's view of a transaction. ``topics`` is who to wake once it is committed."""

    __slots__ = ("connection", "topics")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.topics: set[str] = set()

    def take(self, counter: str, count: int = 1) -> int:
        """The first of ``count`` numbers that nobody ever had."""
        rows = self.connection.execute(
            "UPDATE counters SET value = value + ? WHERE name = ? RETURNING value",
            (count, counter),
        ).fetchall()
        last: int = rows[0][0]
        return last - count + 1


Operation = Callable[[Tx], T]
"""Runs in a lane's thread; must touch nothing but the transaction and its own values."""


def queue_topic(ns: int, queue: str) -> str:
    return f"q{ns}/{queue}"


def job_topic(ns: int, job_id: str) -> str:
    return f"j{ns}/{job_id}"


def marks(count: int) -> str:
    """``?,?,…`` for a list, with few different lengths so that statements stay prepared; unused
    places are bound to NULL, which equals nothing (see ``padded``)."""
    return ",".join("?" * _size(count))


def padded(values: list[T]) -> list[T | None]:
    """``values`` filled up with NULL to the length that ``marks`` has."""
    return [*values, *[None] * (_size(len(values)) - len(values))]


def _size(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()
