"""Progress and log lines of running jobs, written now and then, never per call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from bananas_core.clock import Clock
from bananas_core.errors import ResultBackendError
from bananas_core.held import ClaimKey
from bananas_core.job import ClaimBeat, Progress, RenewAnswer, RenewMode, Session, Write
from bananas_core.pair import Pair

log = logging.getLogger("bananas.report")

EVERY: Final = 0.5
LOG_TTL: Final = 30 * 86_400.0
"""Seconds that log lines outlive; they go earlier with their job's record."""
LINES: Final = 40
"""Lines in one document."""
MOST_LINES: Final = 10_000
"""Lines kept of one attempt; later ones are dropped and counted."""
LINE_LENGTH: Final = 1_000


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line: worker's unix time and text."""

    at: float
    text: str


class _Log:
    def __init__(self) -> None:
        self.lines: list[LogLine] = []
        self.written = 0
        self.taken = 0


def log_prefix(job_id: str) -> str:
    """Documents of a job's log lines: ``job/{id}/log/{fence}/{page}``."""
    return f"job/{job_id}/log/"


class Reporter:
    """Collects what running jobs tell, from any thread, and stores it twice a second."""

    def __init__(
        self, pair: Pair, session: Session, clock: Clock, heard: Callable[[RenewAnswer], None]
    ) -> None:
        self._pair = pair
        self._session = session
        self._clock = clock
        self._heard = heard
        self._progress: dict[ClaimKey, Progress] = {}
        self._logs: dict[ClaimKey, _Log] = {}

    def progress(self, key: ClaimKey, progress: Progress) -> None:
        """The newest progress of a job; older ones that were not stored are skipped."""
        self._progress[key] = progress

    def line(self, key: ClaimKey, text: str) -> None:
        """A log line, cut to 1,000 characters."""
        kept = self._logs.setdefault(key, _Log())
        kept.taken += 1
        if kept.taken <= MOST_LINES:
            kept.lines.append(LogLine(at=self._clock.now(), text=text[:LINE_LENGTH]))

    async def close(self, key: ClaimKey) -> None:
        """Store the rest of a job's log lines, before its outcome. An outage loses them."""
        kept = self._logs.get(key)
        if kept is None:
            return
        if kept.taken > MOST_LINES:
            text = f"{kept.taken - MOST_LINES} more lines were dropped"
            kept.lines.append(LogLine(at=self._clock.now(), text=text))
        try:
            await self._write(key, kept)
        except ResultBackendError as error:
            log.warning("log lines of job %s are lost: %s", key[0], error)

    def forget(self, key: ClaimKey) -> None:
        """The job ended."""
        self._progress.pop(key, None)
        self._logs.pop(key, None)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            try:
                await self.once()
            except ResultBackendError as error:
                log.warning("progress and log lines wait: %s", error)

    async def once(self) -> None:
        """Store what is new."""
        if self._progress:
            told, self._progress = self._progress, {}
            beats = [ClaimBeat(id=k[0], fence=k[1], progress=p) for k, p in told.items()]
            self._heard(await self._pair.backend.renew(self._session, beats, mode=RenewMode.UPDATE))
        for key, kept in list(self._logs.items()):
            await self._write(key, kept)

    async def _write(self, key: ClaimKey, kept: _Log) -> None:
        while kept.lines:
            page, kept.lines = kept.lines[:LINES], kept.lines[LINES:]
            name = f"{log_prefix(key[0])}{key[1]:020d}/{kept.written:06d}"
            kept.written += 1
            value = msgspec.json.encode(page)
            try:
                await self._pair.backend.cas([Write(key=name, value=value, ttl=LOG_TTL)])
            except ResultBackendError:
                kept.lines = page + kept.lines
                kept.written -= 1
                raise
