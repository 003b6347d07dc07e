"""Names of keys; built here only.

    j/{id}                         a job's record
    d/{time}/{id}                  ``due`` looks at the record at this time
    f/{state}/{time}/{id}          a final record, by the time of its end
    s/{session}                    a worker session
    c/{session}/{batch}            the ids of one claimed batch
    e/{number}                     a page of events
    v/{key}                        a document
    m/…                            schema, counters, the last ``due``

Index keys are written before the record that they point to and deleted after it has moved on, so
a crash leaves an index key too many, never one too few; whoever meets one cleans it up.
"""

from __future__ import annotations

from typing import Final

from bananas_core.job import JobState

DUE: Final = "d/"
JOBS: Final = "j/"
SESSIONS: Final = "s/"
EVENTS: Final = "e/"
DOCS: Final = "v/"
SCHEMA: Final = "m/schema"
LAST_DUE: Final = "m/due"
EVENT_NUMBER: Final = "m/events"
CLAIM_NUMBER: Final = "m/claims"
PRUNED: Final = "m/pruned"


def job(id: str) -> str:
    return f"j/{id}"


def moment(at: float) -> str:
    """Sorts as the time does, to the microsecond."""
    return f"{at:020.6f}"


def due(at: float, id: str) -> str:
    return f"d/{moment(at)}/{id}"


def due_parts(key: str) -> tuple[float, str]:
    _, at, id = key.split("/", 2)
    return float(at), id


def final(state: JobState, at: float, id: str) -> str:
    return f"{finals(state)}{moment(at)}/{id}"


def finals(state: JobState) -> str:
    return f"f/{state.value}/"


def final_parts(key: str) -> tuple[float, str]:
    _, _, at, id = key.split("/", 3)
    return float(at), id


def session(id: str) -> str:
    return f"s/{id}"


def batches(session: str) -> str:
    return f"c/{session}/"


def batch(session: str, number: int) -> str:
    return f"c/{session}/{number:016d}"


def events(number: int) -> str:
    return f"e/{number:016d}"


def doc(key: str) -> str:
    return f"v/{key}"
