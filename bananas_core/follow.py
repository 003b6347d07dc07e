"""What follows from the end of a job: its workflow goes on, its unique key is passed on.

A record from whose end something follows keeps a guard until that is settled, so a crash anywhere
in here is repaired by the next ``due`` of any worker; every step may be repeated by anybody.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from bananas_core.codec import Codecs
from bananas_core.errors import ResultBackendError
from bananas_core.job import FINAL, Job, Ready, ReadyKind, Settled
from bananas_core.results import ResultBackend

log = logging.getLogger("bananas.follow")

BATCH: Final = 500


async def follow_up(
    backend: ResultBackend, ready: Sequence[Ready], *, codecs: Codecs | None = None
) -> tuple[list[Ready], list[Settled]]:
    """Do all that follows, and what follows from that in turn.

    Args:
        codecs: of the app, for conditions on results.

    Returns:
        What must be sent now, and which follow-ups are complete, to be settled. In an outage of
        the ledger both are what was reached until then; the guards bring the rest again.
    """
    sends: list[Ready] = []
    settled: list[Settled] = []
    queue = list(ready)
    while queue:
        batch = [item for item in queue if item.kind is ReadyKind.FOLLOW][:BATCH]
        sends += [item for item in queue if item.kind is ReadyKind.SEND]
        taken = {(item.id, item.gen) for item in batch}
        queue = [
            item
            for item in queue
            if item.kind is ReadyKind.FOLLOW and (item.id, item.gen) not in taken
        ]
        if not batch:
            break
        try:
            jobs = await _records(backend, taken)
            queue += await _next(backend, jobs, codecs)
        except ResultBackendError as error:
            log.warning("what follows from %d jobs is done later: %s", len(batch), error)
            break
        settled += [
            Settled(id=job.id, gen=job.gen, followed=True) for job in jobs if job.state in FINAL
        ]
    return sends, settled


async def _records(backend: ResultBackend, wanted: set[tuple[str, int]]) -> list[Job]:
    """Those that are still of the generation that was asked for."""
    found = await backend.get([id for id, _ in wanted])
    return [job for job in found if job is not None and (job.id, job.gen) in wanted]


async def _next(backend: ResultBackend, jobs: Sequence[Job], codecs: Codecs | None) -> list[Ready]:
    ready: list[Ready] = []
    nodes = [job for job in jobs if job.workflow is not None and job.state in FINAL]
    if nodes:
        from bananas_core.workflow.engine import advance  # most programs have no workflows

        ready += await advance(backend, nodes, codecs=codecs)
    keys = [job for job in jobs if job.unique is not None]
    if keys:
        from bananas_core.unique import follow_keys

        ready += await follow_keys(backend, keys)
    return ready
