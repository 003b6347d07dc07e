"""What a running task can say and learn about its own job."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import Any, Protocol

from bananas_core.errors import BananasError, InvalidWorkflow

_current: ContextVar[JobContext] = ContextVar("bananas_current_job")


class Expander(Protocol):
    """Adds to the workflow that a job is in."""

    async def add(self, piece: Any) -> None: ...

    def add_blocking(self, piece: Any) -> None: ...


class JobContext:
    """The job that runs here. Its methods may be called from any thread.

    ``id`` with ``attempt`` is an idempotency key: the body of a job may run more than once.
    """

    __slots__ = (
        "_expander",
        "_is_cancelled",
        "_on_log",
        "_on_progress",
        "_tokens",
        "attempt",
        "id",
        "name",
    )

    def __init__(
        self,
        *,
        id: str,
        name: str,
        attempt: int,
        on_progress: Callable[[float, str | None], None],
        on_log: Callable[[str], None],
        is_cancelled: Callable[[], bool],
        expander: Expander | None = None,
    ) -> None:
        self.id = id
        self.name = name
        self.attempt = attempt
        self._on_progress = on_progress
        self._on_log = on_log
        self._is_cancelled = is_cancelled
        self._expander = expander
        self._tokens: list[Token[JobContext]] = []

    def __repr__(self) -> str:
        return f"<JobContext {self.id} {self.name} attempt {self.attempt}>"

    def progress(self, value: float, text: str | None = None) -> None:
        """Tell how far the job is: a share from 0 to 1 and a short text. Cheap; the ledger gets
        the newest one now and then.

        Raises:
            ValueError: ``value`` is not between 0 and 1.
        """
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"progress is a share from 0 to 1, not {value!r}")
        self._on_progress(float(value), text)

    def log(self, text: str) -> None:
        """Add a line to the log of this attempt, kept with the job's record."""
        self._on_log(text)

    async def expand(self, piece: Any) -> None:
        """Add to the workflow that this job is in: ``piece``, a job that was not sent yet, or a
        chain, group, chord or dag. It starts when this run has completed, what comes after the
        job waits for it, and its result takes the place of the job's own; if this run doesn't
        complete, it is cancelled. Called several times, all are added, to run at the same time,
        and the result is the list of theirs. What is added may expand in turn.

        Raises:
            InvalidWorkflow: the job is in no workflow, or ``piece`` can't run; nothing was added.
            TransportError, ResultBackendError: the outcome is unknown. Let it fail this run.
        """
        await self._expander_or_raise().add(piece)

    def expand_blocking(self, piece: Any) -> None:
        """``expand`` for ``def`` tasks."""
        self._expander_or_raise().add_blocking(piece)

    def _expander_or_raise(self) -> Expander:
        if self._expander is None:
            raise InvalidWorkflow(
                f"job {self.id} is in no workflow, so there is nothing to expand: submit the "
                "chain or group, or submit this job as chain(job)"
            )
        return self._expander

    @property
    def cancelled(self) -> bool:
        """Whether this run is to stop: cancelled, out of time, or its claim lost. An ``async``
        task gets a CancelledError as well; a ``def`` task may look here between two steps."""
        return self._is_cancelled()

    def __enter__(self) -> JobContext:
        self._tokens.append(_current.set(self))
        return self

    def __exit__(self, *exc_info: object) -> None:
        _current.reset(self._tokens.pop())


def current_job() -> JobContext:
    """The job that this code runs for.

    Raises:
        BananasError: called outside a job.
    """
    try:
        return _current.get()
    except LookupError:
        raise BananasError("current_job() is called outside a running job") from None
