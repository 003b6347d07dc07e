"""What a running job adds to its workflow, written down before it is put."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bananas_core.job import Write
from bananas_core.results import ResultBackend
from bananas_core.workflow.node import Grown, grown_key, growth_key
from bananas_core.workflow.pages import ROUNDS, give_up


async def note_growth(
    backend: ResultBackend, workflow: str, node: str, fence: int, scopes: Sequence[str]
) -> None:
    """Write down that a run of the job ``node`` adds ``scopes`` to it. Their records are put after
    this, all waiting: they are started when that run completes, and cancelled if it doesn't.
    Safe to repeat.

    Args:
        fence: of the run.
        scopes: their ids, of ``grown_id``.
    """
    await backend.cas([Write(key=growth_key(workflow), value=b"1")])
    key = grown_key(workflow, node)
    (doc,) = await backend.get_docs([key])
    for _ in range(ROUNDS):
        old = Grown() if doc is None else msgspec.json.decode(doc.value, type=Grown)
        new = Grown(scopes={**old.scopes, **dict.fromkeys(scopes, fence)})
        if new == old:
            return
        version = 0 if doc is None else doc.version
        write = Write(key=key, value=msgspec.json.encode(new), version=version)
        (answer,) = await backend.cas([write])
        if answer.done:
            return
        doc = answer.doc
    raise give_up(key)
