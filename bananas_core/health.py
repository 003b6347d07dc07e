"""Whether jobs are really being run: what the health port and ``bananas health`` answer.

A process that is alive and connected may still consume nothing. So health is proven by jobs: an
ordinary one that ended within the last ten seconds, or else a probe job (``probe.py``), which is
sent only when somebody asks. A worker with all slots in use needs no proof.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from bananas_core.children import Child
from bananas_core.clock import Clock
from bananas_core.due import PAUSE_PREFIX
from bananas_core.errors import BananasError
from bananas_core.job import SessionRecord
from bananas_core.pair import Pair
from bananas_core.probe import PROBE, Probe
from bananas_core.renew import SAFE_AGE
from bananas_core.results import ResultBackend
from bananas_core.upkeep import Pairs

if TYPE_CHECKING:
    from bananas_core.app import Bananas

log = logging.getLogger("bananas.health")

PROOF_AGE: Final = 10.0
"""Seconds that the end of a job proves that jobs are run."""
PROBE_WITHIN: Final = 3.0
LEDGER_WITHIN: Final = 2.0
DUE_AGE: Final = 10.0
"""Seconds without a round of ``due`` after which delayed jobs are late."""
BLOCKED_AGE: Final = 15.0
"""Seconds without a sign of life of a worker's event loop."""
KEEP: Final = 1.0
"""Seconds that a report answers further questions too."""
MOST_KEYS: Final = 32


class HealthReport(msgspec.Struct, frozen=True, kw_only=True):
    """``ok`` when there are no ``reasons`` against it."""

    reasons: tuple[str, ...] = ()
    due_age: float | None = None
    """Seconds since ``due`` ran anywhere."""
    probes: Mapping[str, float | None] = {}
    """Seconds that the probe of each routing key took; None: it was not run in time."""
    sessions: tuple[SessionRecord, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether jobs are being run."""
        return not self.reasons


async def check_health(app: Bananas, *, timeout: float = 5.0) -> HealthReport:
    """Ask the ledger who works, and send a probe to each routing key that is consumed and not
    paused. The app must be open.

    Raises:
        ResultBackendError, TransportError: can't be reached.
    """
    backend = app.backend
    pair = app.pair
    assert pair is not None  # else app.backend would have raised
    sessions = tuple(await backend.sessions())
    reasons: list[str] = []
    due_age = await _due_age(backend, reasons)
    if not sessions:
        reasons.append("no worker is running")
    paused = {doc.key.removeprefix(PAUSE_PREFIX) for doc in await backend.docs(PAUSE_PREFIX)}
    keys = {key for record in sessions for key in record.session.routing_keys}
    asked = sorted(k for k in keys - paused if not k.startswith(PROBE))[:MOST_KEYS]
    took = await asyncio.gather(*(_probe_once(pair, key, timeout) for key in asked))
    probes = dict(zip(asked, took, strict=True))
    reasons += [
        f"no job of routing key {key!r} was run within {timeout:g} s"
        for key, seconds in probes.items()
        if seconds is None
    ]
    return HealthReport(reasons=tuple(reasons), due_age=due_age, probes=probes, sessions=sessions)


async def _probe_once(pair: Pair, key: str, timeout: float) -> float | None:
    probe = Probe(pair, key, f"{PROBE}:{key}"[:128])
    try:
        return await probe.run(timeout)
    finally:
        await probe.retire()


async def _due_age(backend: ResultBackend, reasons: list[str]) -> float | None:
    last = await backend.last_due()
    if last is None:
        reasons.append("no worker has looked after due jobs yet")
        return None
    age = max(0.0, await backend.now() - last)
    if age > DUE_AGE:
        reasons.append(f"no worker has looked after due jobs for {age:.0f} s")
    return age


class WorkerHealth:
    """The health of one supervisor's children."""

    def __init__(
        self, children: Callable[[], Sequence[Child | None]], pairs: Pairs, clock: Clock
    ) -> None:
        self._children = children
        self._pairs = pairs
        self._clock = clock
        self._lock = asyncio.Lock()
        self._last: tuple[float, HealthReport] | None = None

    async def report(self) -> HealthReport:
        """Raises nothing: what can't be found out is a reason."""
        async with self._lock:
            now = self._clock.monotonic()
            if self._last is None or now - self._last[0] > KEEP:
                self._last = (now, await self._look())
            return self._last[1]

    async def _look(self) -> HealthReport:
        reasons: list[str] = []
        children = self._children()
        found = [
            child
            for slot, child in enumerate(children)
            if self._check(slot, child, reasons) and child is not None
        ]
        due_age = await self._check_ledger(children, reasons)
        probes = await asyncio.gather(*(self._prove(child) for child in found))
        taken: dict[str, float | None] = {}
        for child, (needed, seconds) in zip(found, probes, strict=True):
            if needed:
                taken[str(child.slot)] = seconds
                if seconds is None:
                    reasons.append(f"process {child.slot} ran no job, not even a probe")
        return HealthReport(reasons=tuple(reasons), due_age=due_age, probes=taken)

    def _check(self, slot: int, child: Child | None, reasons: list[str]) -> bool:
        """Whether a probe makes sense."""
        now = self._clock.monotonic()
        if child is None or child.renewer is None or child.ready_at is None:
            reasons.append(f"process {slot} is not ready")
            return False
        age = now - child.renewer.confirmed
        if age > SAFE_AGE:
            reasons.append(f"the claims of process {slot} were not renewed for {age:.0f} s")
            return False
        silent = now - child.beat_at
        if silent > BLOCKED_AGE:
            reasons.append(f"the event loop of process {slot} is blocked for {silent:.0f} s")
            return False
        return True

    async def _check_ledger(
        self, children: Sequence[Child | None], reasons: list[str]
    ) -> float | None:
        hello = next((c.hello for c in children if c is not None and c.hello is not None), None)
        if hello is None:
            return None
        try:
            async with asyncio.timeout(LEDGER_WITHIN):
                pair = await self._pairs.get(hello)
                return await _due_age(pair.backend, reasons)
        except (BananasError, TimeoutError) as error:
            reasons.append(f"the ledger doesn't answer: {str(error) or 'too slow'}")
            return None

    async def _prove(self, child: Child) -> tuple[bool, float | None]:
        """Whether a probe was needed, and how long it took."""
        hello, renewer = child.hello, child.renewer
        busy = renewer is not None and renewer.session.free == 0
        recent = self._clock.monotonic() - child.proved_at <= PROOF_AGE
        if busy or recent or hello is None or hello.probe_key is None:
            return False, None
        try:
            async with asyncio.timeout(PROBE_WITHIN + LEDGER_WITHIN):
                pair = await self._pairs.get(hello)
                probe = Probe(pair, hello.probe_key, hello.probe_key)
                return True, await probe.run(PROBE_WITHIN)
        except (BananasError, TimeoutError) as error:
            log.warning("the probe of %r failed: %s", child, str(error) or "no answer")
            return True, None
