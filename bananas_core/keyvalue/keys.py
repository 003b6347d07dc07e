"""Names of keys; built here only.

    j/{id}                         a job's record
    d/{time}/{id}/{gen}{state}     ``due`` looks at the record at this time
    f/{state}/{time}/{id}/{gen}    a final record, by the time of its end
    s/{session}                    a worker session
    c/{session}/{batch}            the ids of one claimed batch
    e/{number}                     a page of events
    v/{key}                        a document
    m/…                            schema, counters, the last ``due``

Index keys are written before the record that they point to and deleted after it has moved on, so
a crash leaves an index key too many, never one too few; whoever meets one cleans it up.
Generation and state make names unique: within one state of one generation no time comes back, so
a key that one change deletes is never one that another needs.
"""

from __future__ import annotations

from typing import Final

from bananas_core.job import FINAL, Job, JobState

DUE: Final = "d/"
JOBS: Final = "j/"
SESSIONS: Final = "s/"
EVENTS: Final = "e/"
DOCS: Final = "v/"
SCHEMA: Final = "m/schema"
LAST_DUE: Final = "m/due"
EVENT_NUMBER: Final = "m/events"
PRUNED: Final = "m/pruned"


def job(id: str) -> str:
    return f"j/{id}"


def moment(at: float) -> str:
    """Sorts as the time does, to the microsecond."""
    return f"{at:020.6f}"


def due(at: float, id: str, mark: str) -> str:
    return f"d/{moment(at)}/{id}/{mark}"


def due_of(job: Job) -> str | None:
    """The key by which ``due`` finds the record; None if it need not look at it."""
    at = job.due_at
    return None if at is None else due(at, job.id, f"{job.gen}{job.state.value[0]}")


def due_parts(key: str) -> tuple[float, str, str]:
    """Time, id, and the mark of generation and state."""
    _, at, id, mark = key.split("/")
    return float(at), id, mark


def final_of(job: Job) -> str | None:
    """The key by which ``prune`` finds the record; None while it is live."""
    if job.state not in FINAL or job.finished_at is None:
        return None
    return f"{finals(job.state)}{moment(job.finished_at)}/{job.id}/{job.gen}"


def finals(state: JobState) -> str:
    return f"f/{state.value}/"


def final_parts(key: str) -> tuple[float, str]:
    _, _, at, id, _ = key.split("/")
    return float(at), id


def session(id: str) -> str:
    return f"s/{id}"


def batches(session: str) -> str:
    return f"c/{session}/"


def batch(session: str, token: int) -> str:
    return f"c/{session}/{token:016x}"


def events(number: int) -> str:
    return f"e/{number:016d}"


def event_number(key: str) -> int:
    return int(key.removeprefix(EVENTS))


def doc(key: str) -> str:
    return f"v/{key}"
