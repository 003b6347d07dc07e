"""What the jobs of a task with equal options have in common, worked out and encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from bananas_core.alike import Alike
from bananas_core.message import encode_instant, encode_message
from bananas_core.options import JobOptions, Submission, submission, to_put

_SAME: Final = frozenset(("routing_key", "priority", "max_attempts", "timeout", "queue_timeout"))
"""Options whose effect doesn't depend on when the job is submitted, nor on other jobs."""
_MOST: Final = 256
"""Templates kept."""
_ID: Final = "0"
_FRONT: Final = b'{"v":1,"id":"'
_PAYLOAD: Final = b'"payload":{},"created_at":"'
"""Inside a string its quotes would be escaped, so this is found at one place only."""


class Template:
    """A kind of job: a name and options, both checked already.

    ``simple``: its messages may be made by ``jobs``; else only ``submissions`` can.
    """

    __slots__ = ("_like", "_middle", "_rest", "name", "options", "simple")

    def __init__(self, name: str, options: JobOptions) -> None:
        self.name = name
        self.options = options
        self.simple = _SAME.issuperset(options)
        if not self.simple:
            return
        model = submission(_ID, name, b"{}", options, now=0.0)
        raw = encode_message(model.message)
        payload = raw.index(_PAYLOAD)
        created = payload + len(_PAYLOAD)
        self._middle = raw[len(_FRONT) + len(_ID) : payload + len(b'"payload":')]
        self._rest = raw[raw.index(b'"', created) + 1 :]
        self._like = to_put(model)

    def jobs(self, ids: Sequence[str], payloads: Sequence[bytes], now: float) -> Alike:
        """What the ledger is asked to create; ``now`` is the producer's time."""
        front, middle = _FRONT, self._middle
        rest = b',"created_at":' + encode_instant(now) + self._rest
        if len(ids) == 1:
            whole = (front, ids[0].encode(), middle, payloads[0], rest)
            return Alike(self._like, ids, [b"".join(whole)])
        messages = [
            b"".join((front, id.encode(), middle, payload, rest))
            for id, payload in zip(ids, payloads, strict=True)
        ]
        return Alike(self._like, ids, messages)

    def submissions(
        self, ids: Sequence[str], payloads: Sequence[bytes], now: float
    ) -> list[Submission]:
        """The same as values that plugins may look at and change."""
        return [
            submission(id, self.name, payload, self.options, now=now)
            for id, payload in zip(ids, payloads, strict=True)
        ]


class Templates:
    """Those that were asked for before."""

    def __init__(self) -> None:
        self._found: dict[tuple[Any, ...], Template] = {}

    def get(self, name: str, options: JobOptions) -> Template:
        """Both are checked already: equal values that aren't the same, like 1 and True, are not
        among valid ones."""
        if not _SAME.issuperset(options):
            return Template(name, options)
        key = (name, *options.items())
        template = self._found.get(key)
        if template is None:
            if len(self._found) >= _MOST:
                self._found.clear()
            template = self._found[key] = Template(name, options)
        return template
