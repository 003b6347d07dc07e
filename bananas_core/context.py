"""What a running task can say and learn about its own job."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Any, Protocol

from bananas_core.errors import BananasError, InvalidWorkflow


class Expander(Protocol):
    """Adds to the workflow that a job is in."""

    async def add(self, piece: Any) -> None: ...

    def add_blocking(self, piece: Any) -> None: ...


class Run(Protocol):
    """One run of a job, as the process that runs it sees it. ``tell`` and ``log`` may be called
    from any thread."""

    @property
    def context(self) -> JobContext:
        """What its body can say and learn: the same object each time."""
        ...

    @property
    def stopping(self) -> bool:
        """Whether it is to stop: cancelled, out of time, or its claim lost."""
        ...

    def tell(self, value: float, text: str | None) -> None:
        """Its progress."""
        ...

    def log(self, text: str) -> None:
        """A line of its log."""
        ...

    def expander(self) -> Expander | None:
        """What adds to its workflow; None if it is in none."""
        ...


_current: ContextVar[Run] = ContextVar("bananas_current_job")


def enter(run: Run) -> Token[Run]:
    """``current_job()`` is that of ``run`` from here on, in this context (an asyncio task has one
    of its own)."""
    return _current.set(run)


class JobContext:
    """The job that runs here. Its methods may be called from any thread.

    ``id`` with ``attempt`` is an idempotency key: the body of a job may run more than once.
    """

    __slots__ = ("_expander", "_run", "attempt", "id", "name")

    def __init__(self, run: Run, *, id: str, name: str, attempt: int) -> None:
        self.id = id
        self.name = name
        self.attempt = attempt
        self._run = run
        self._expander: Expander | None = None

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
        self._run.tell(float(value), text)

    def log(self, text: str) -> None:
        """Add a line to the log of this attempt, kept with the job's record."""
        self._run.log(text)

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
            self._expander = self._run.expander()
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
        return self._run.stopping


def current_job() -> JobContext:
    """The job that this code runs for.

    Raises:
        BananasError: called outside a job.
    """
    try:
        return _current.get().context
    except LookupError:
        raise BananasError("current_job() is called outside a running job") from None
