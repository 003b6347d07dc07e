"""What every node of a workflow carries in its message, and the names of what is kept beside it.

A workflow is a tree of *scopes*. A scope of kind ``group`` has members that don't know of each
other; one of kind ``dag`` has nodes with edges between them (a chain is a dag in a line). Each
node, job or scope, has a record; the record of the outermost scope is the workflow, and its id
the workflow's id. Nodes know their place by number, so that nothing has to list them.

Beside the records there are small documents, all under ``job/{workflow}/``, so that they are
pruned with it:

    page/{scope}/{n}     how the members ``n * PAGE …`` of a scope ended, a byte each
    sums/{scope}/{n}     how many of each page's members ended, and how, for ``SUMS`` pages
    seal/{scope}         how many members there are, if that was not known at the start
    grown                there is a ``grown/…`` in this workflow
    grown/{node}         the scopes that a running job added to itself
    resume               a resume or rerun that is not complete
"""

from __future__ import annotations

import uuid
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

import msgspec

from bananas_core.job import Job
from bananas_core.message import decode_stored

PAGE: Final = 128
"""Members in one page."""
SUMS: Final = 128
"""Pages in one document of sums."""
MAX_EDGES: Final = 1000
"""Most predecessors, and most successors, of one node of a dag. A group has no such limit."""
ROUTING_KEY: Final = "bananas.workflow"
"""Of scopes, which are never sent."""
GROUP_NAME: Final = "bananas:group"
DAG_NAME: Final = "bananas:dag"
"""Names of the records of scopes."""
SKIPPED: Final = "Skipped"
"""``error.type`` of a node whose condition did not hold; its state is ``cancelled``."""

_IDS: Final = uuid.UUID("2f6f0c62-6c0e-5b0c-9d0f-5a7a4d1c7b10")


class Kind(StrEnum):
    GROUP = "group"
    DAG = "dag"


class Policy(StrEnum):
    """What a failure inside does to a scope."""

    FAIL = "fail"
    """The scope fails with the first one, and the rest is cancelled."""
    IGNORE = "ignore"
    """It goes on; the failed one's result is None."""
    COLLECT = "collect"
    """It goes on; the failed one's result is ``{"error": {"type": …, "message": …}}``."""
    QUORUM = "quorum"
    """It completes with the ``quorum``-th success, and the rest is cancelled; it fails once that
    many can't be had any more."""


class Trigger(StrEnum):
    """Which ends of its predecessors let a node run; else it is skipped."""

    SUCCESS = "success"
    """None of them failed and, if there are any, one at least was not skipped."""
    FAILURE = "failure"
    """One of them failed."""
    DONE = "done"
    """Whatever became of them."""


class End(StrEnum):
    """How a node ended, one byte in a page; ``"0"``: not yet. In a dag it is how its end counts:
    a failure that the node's ``on_failure`` ignores or collects counts as completed."""

    OPEN = "0"
    COMPLETED = "1"
    FAILED = "2"
    CANCELLED = "3"
    SKIPPED = "4"


Path = tuple[str | int, ...]
"""Keys and indexes into a JSON value."""


class Input(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of an ancestor, or a part of it, goes into the payload before the job runs."""

    into: Path
    of: str
    """Job id of the ancestor, job or scope."""
    path: Path = ()


class Test(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A condition on the result of an ancestor. ``op``: ``== != < <= > >= in truthy falsy``. A
    missing or incomparable value makes it false."""

    __test__ = False  # not for pytest

    of: str
    op: str
    value: Any = None
    path: Path = ()


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``message.workflow`` of a node. Fixed when it is put: how the code that built the workflow
    changes later makes no difference."""

    id: str
    """The workflow."""
    node: str = ""
    """Its name in the workflow, unique there; ``""`` of the workflow itself."""
    run: int = 1
    scope: str | None = None
    """Job id of the scope that it is in; None for the workflow itself."""
    i: int = 0
    """Its number in that scope."""
    after: tuple[int, ...] = ()
    """Numbers of its predecessors in the scope, ``MAX_EDGES`` at most."""
    outs: tuple[int, ...] = ()
    """Numbers of its successors in the scope, ``MAX_EDGES`` at most."""
    trigger: Trigger = Trigger.SUCCESS
    tests: tuple[Test, ...] = ()
    """All must hold as well."""
    inputs: tuple[Input, ...] = ()
    on_failure: Policy = Policy.FAIL
    """Of a node in a dag: what its own failure does there (``fail``, ``ignore``, ``collect``)."""
    kind: Kind | None = None
    """Of scopes only, like all that follows."""
    size: int | None = None
    """How many nodes are directly in it; None: ``seal`` says so later."""
    policy: Policy = Policy.FAIL
    quorum: int = 0
    results: tuple[int, ...] = ()
    """Of a dag: whose results make up its own: one gives that value, several an object by name,
    none gives None."""
    stands_for: str | None = None
    """Job id of the node that added this scope to itself, and in whose place it arrives."""


class Grown(msgspec.Struct, frozen=True, kw_only=True):
    """The scopes that a job added to itself, in this order: id → fence of the run that did. Those
    of the run that completed stand for the job; others are cancelled."""

    scopes: dict[str, int] = {}


def node_id(scope: str, i: int) -> str:
    """The job id of the ``i``-th node of a scope. Those of one scope are neighbours, so that
    ledgers which keep records in order of their ids find them together."""
    return f"{_family(scope)}{i:08x}"


@lru_cache(maxsize=1024)
def _family(scope: str) -> str:
    return uuid.uuid5(_IDS, scope).hex[:24]


def grown_id(node: str, fence: int, number: int) -> str:
    """The job id of the ``number``-th scope that a job adds to itself in one run."""
    return uuid.uuid5(_IDS, f"{node}+{fence}+{number}").hex


def info_of(job: Job) -> NodeInfo:
    """What a node's record says of its place. The record must have its message."""
    return to_info(decode_stored(job.message).workflow or {})


def to_info(data: dict[str, Any]) -> NodeInfo:
    return msgspec.convert(data, NodeInfo, strict=False)


def from_info(info: NodeInfo) -> dict[str, Any]:
    """The value of ``message.workflow``."""
    found: dict[str, Any] = msgspec.to_builtins(info)
    return found


def page_key(workflow: str, scope: str, page: int) -> str:
    return f"job/{workflow}/page/{scope}/{page:06d}"


def sums_key(workflow: str, scope: str, number: int) -> str:
    return f"job/{workflow}/sums/{scope}/{number:06d}"


def seal_key(workflow: str, scope: str) -> str:
    return f"job/{workflow}/seal/{scope}"


def growth_key(workflow: str) -> str:
    return f"job/{workflow}/grown"


def resume_key(workflow: str) -> str:
    return f"job/{workflow}/resume"


def grown_key(workflow: str, node: str) -> str:
    return f"job/{workflow}/grown/{node}"
