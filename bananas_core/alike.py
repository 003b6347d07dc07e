"""Jobs to put that are equal but for their ids and messages, as one value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from msgspec.structs import replace

from bananas_core.job import JobPut


class Alike(Sequence[JobPut]):
    """What ``ResultBackend.put`` gets when one call submits many jobs of a task.

    It is a sequence of ``JobPut`` like any other. A driver that wants to may look at the parts
    instead, and so decide once what is the same for all of them.

    Args:
        like: each of them, but for ``id`` and ``message``.
        ids, messages: in order, equally many.
    """

    __slots__ = ("_jobs", "ids", "like", "messages")

    def __init__(self, like: JobPut, ids: Sequence[str], messages: Sequence[bytes]) -> None:
        self.like = like
        self.ids = ids
        self.messages = messages
        self._jobs: list[JobPut] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, place: int) -> JobPut: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[JobPut]: ...
    def __getitem__(self, place: int | slice) -> JobPut | Sequence[JobPut]:
        if self._jobs is None:
            like = self.like
            self._jobs = [
                replace(like, id=id, message=message)
                for id, message in zip(self.ids, self.messages, strict=True)
            ]
        return self._jobs[place]

    def parts(self, size: int) -> list[Alike]:
        """In pieces of at most so many."""
        return [
            Alike(self.like, self.ids[i : i + size], self.messages[i : i + size])
            for i in range(0, len(self.ids), size)
        ]


def together(parts: Sequence[Alike]) -> Sequence[JobPut]:
    """All of them in order; alike if they are."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if all(part.like is first.like for part in parts):
        ids = [id for part in parts for id in part.ids]
        return Alike(first.like, ids, [raw for part in parts for raw in part.messages])
    return [job for part in parts for job in part]
