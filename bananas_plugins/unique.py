"""Unique jobs: of those with the same key one is live at a time.

    @app.task(unique=Unique(args=("user_id",)))
    async def sync(user_id: int, full: bool = False) -> None: ...

Jobs get their key here when they are submitted; who holds it is decided in
``bananas_core/unique.py``. The plugin comes with the first task or job that has a ``Unique``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, ClassVar, Literal

import msgspec
from msgspec.structs import replace

from bananas_core.clock import seconds
from bananas_core.errors import ConfigurationError
from bananas_core.hooks import hookimpl
from bananas_core.keys import JobView, KeyMaker, TaskArguments, scoped, view_of
from bananas_core.options import Submission
from bananas_core.plugins import Plugin
from bananas_core.unique_rule import OnConflict, UniqueRule, mark, rule_from

__all__ = ["JobView", "OnConflict", "Unique", "UniquePlugin", "plugin"]

Key = str | Callable[[JobView], object]


class Unique(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs are the same job, and what submitting a second one does.

    Raises:
        ConfigurationError: the parts don't go together.
    """

    args: Sequence[str] | None = None
    """Names of the arguments that make the key; neither this nor ``key``: all of them."""
    key: Key | None = None
    """A template (``"{user_id}:{kind}"``, also ``"{user.id}"``), or a function of the job
    (``lambda job: job.payload["user_id"]``) that gives a string or plain JSON."""
    until: Literal["started", "finished", "period"] | None = None
    """How long the key is held. Default: ``finished``; ``period`` if one is given; ``started`` with
    ``reschedule``."""
    period: timedelta | float | None = None
    """How long from the submission, whatever becomes of the job."""
    on_conflict: Literal["existing", "drop", "raise", "replace", "reschedule", "keep_last"] = (
        "existing"
    )
    delay: timedelta | float | None = None
    """Of ``reschedule``: a job starts this long after the last submission."""
    max_wait: timedelta | float | None = None
    """Of ``reschedule``: but no later than this after the first one."""
    scope: Literal["task", "global"] = "task"
    """``global``: the key is shared with other tasks whose ``Unique`` says so too."""

    def __post_init__(self) -> None:
        if self.args is not None and self.key is not None:
            raise ConfigurationError("a Unique has args or a key, not both")
        if isinstance(self.args, str):
            raise ConfigurationError(f"args are names: ({self.args!r},), not {self.args!r}")
        if self.scope not in ("task", "global"):
            raise ConfigurationError(f"scope is 'task' or 'global', not {self.scope!r}")
        reschedules = self.rule().on_conflict is OnConflict.RESCHEDULE
        if (self.delay is not None) != reschedules:
            raise ConfigurationError('on_conflict="reschedule" needs a delay, and nothing else')
        if self.delay is not None and not 0 < seconds(self.delay) < 1e10:
            raise ConfigurationError(f"delay must be positive, not {self.delay!r}")
        KeyMaker(self.source)

    @property
    def source(self) -> Key | Sequence[str] | None:
        """What the key is made of."""
        return self.key if self.key is not None else self.args

    def rule(self) -> UniqueRule:
        """What jobs say about their key. Raises ConfigurationError."""
        return rule_from(self.until, self.period, self.on_conflict, self.max_wait)

    def plugin(self) -> Plugin:
        """What makes the keys."""
        return UniquePlugin()

    def check(self, task: Any) -> None:
        """Raises ConfigurationError if the key names what the task doesn't take."""
        KeyMaker(self.source, TaskArguments(task.fn, task.name))


class _Maker:
    """What a ``Unique`` means for one task."""

    def __init__(self, unique: Unique, arguments: TaskArguments | None) -> None:
        self._keys = KeyMaker(unique.source, arguments)
        self._rule = unique.rule()
        self._global = unique.scope == "global"
        self._delay = None if unique.delay is None else seconds(unique.delay)

    def marked(self, job: Submission) -> Submission:
        """The job with its key. Raises InvalidPayload."""
        message = job.message
        view = view_of(message.name, bytes(message.payload), message.routing_key, message.priority)
        key = scoped(None if self._global else message.name, self._keys.make(view))
        delay = job.delay
        if delay is None and message.run_at is None:
            delay = self._delay
        return replace(job, message=mark(message, key, self._rule), delay=delay, unique=None)


class UniquePlugin(Plugin):
    """Gives jobs their key. A job whose key can't be made is refused."""

    name: ClassVar[str] = "unique"
    on_error: ClassVar[Literal["fail", "log"]] = "fail"

    def __init__(self) -> None:
        self._arguments: dict[str, TaskArguments] = {}
        self._makers: dict[str, _Maker] = {}

    @hookimpl
    def task_registered(self, task: Any) -> None:
        """Remember what its arguments are, and what makes its keys."""
        self._arguments[task.name] = TaskArguments(task.fn, task.name)
        if isinstance(task.unique, Unique):
            self._makers[task.name] = _Maker(task.unique, self._arguments[task.name])

    @hookimpl
    def before_submit(self, jobs: list[Submission]) -> list[Submission | Exception] | None:
        """Mark those that a ``Unique`` is for and that have no key yet."""
        if not self._makers and all(job.unique is None for job in jobs):
            return None
        return [self._marked(job) for job in jobs]

    def _marked(self, job: Submission) -> Submission | Exception:
        name = job.message.name
        if job.message.unique is not None:
            return job
        try:
            if isinstance(job.unique, Unique):
                return _Maker(job.unique, self._arguments.get(name)).marked(job)
            maker = self._makers.get(name)
            return job if maker is None else maker.marked(job)
        except Exception as error:
            return error


def plugin() -> UniquePlugin:
    """The plugin; a task with a ``Unique`` brings it by itself."""
    return UniquePlugin()
