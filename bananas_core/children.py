"""The supervisor's side of one child process: what it told, and what is to follow from its end."""

from __future__ import annotations

import logging
import socket
import subprocess
from typing import Final

import msgspec
from msgspec.structs import replace

from bananas_core.clock import Clock
from bananas_core.held import ClaimKey, NumberedClaims
from bananas_core.link import Link
from bananas_core.pipe import (
    Beat,
    Bye,
    Confirmed,
    EndSession,
    Failed,
    FromParent,
    Hello,
    ReadyNow,
    Work,
    from_child,
    to_bytes,
)
from bananas_core.processes import kill
from bananas_core.renew import Renewer

log = logging.getLogger("bananas.supervisor")

YOUNG: Final = 5.0
"""A child that ended earlier than this after it became ready, in seconds, died young."""
LINGER: Final = 5.0
"""Seconds between a child's last word and its end."""
MOST_UNSENT: Final = 1 << 16
"""With more bytes in its pipe a child is not told of further renewals until it reads again."""

LOOK_EVERY: Final = 0.005
"""Seconds between two looks at what a busy child tells. What it tells in that time, some tens of
KiB at 100,000 jobs a second, has to fit into the socket's buffer."""


def restart_delay(young_deaths: int) -> float:
    """Seconds until the next start after so many young deaths in a row: 0, 0.1, 0.2, … 10."""
    return 0.0 if young_deaths < 2 else min(10.0, 0.1 * 2.0 ** (young_deaths - 2))


class Child:
    """One child process, from its start until it is gone. Used on the supervisor's loop."""

    def __init__(
        self, slot: int, process: subprocess.Popen[bytes], sock: socket.socket, clock: Clock
    ) -> None:
        self.slot = slot
        self.process = process
        self.born = clock.monotonic()
        self.hello: Hello | None = None
        self.held = NumberedClaims()
        self.renewer: Renewer | None = None
        self.ready_at: float | None = None
        self.beat_at = self.born
        self.proved_at = self.born
        """When it last ended a job, or became ready."""
        self.failed: Failed | None = None
        self.reason: str | None = None
        self.said_bye_at: float | None = None
        self.wants_end = False
        self.ended = False
        """The ledger has ended its session."""
        self.told_to_stop: float | None = None
        self.guilty: tuple[ClaimKey, ...] | None = None
        """Set when we killed it: the claims for which that counts as a death."""
        self._clock = clock
        self._link = Link(sock, received=self._take, closed=self._closed, rest=LOOK_EVERY)

    def __repr__(self) -> str:
        return f"child {self.slot} (pid {self.process.pid})"

    def gone(self) -> bool:
        """Whether the process has ended; all it told before has been taken in then."""
        if self.process.poll() is None:
            return False
        self._link.drain()
        self._link.close()
        return True

    def tell(self, message: FromParent) -> None:
        """Never blocks; nothing happens if the child is gone."""
        self._link.send(to_bytes(message))

    def tell_confirmed(self) -> None:
        """Pass on the last renewal. A child that doesn't read for long gets it later."""
        if self.renewer is None or self._link.unsent > MOST_UNSENT:
            return
        notices = self.renewer.notices()
        cancelled = [(*key, cancel) for key, cancel in notices.cancelled.items()]
        at = self.renewer.confirmed
        self.tell(Confirmed(at=at, cancelled=cancelled, lost=list(notices.lost)))

    def kill(self, guilty: tuple[ClaimKey, ...] = ()) -> None:
        """SIGKILL. Only ``guilty`` claims count as deaths, the others are handed back."""
        if self.guilty is None:
            self.guilty = guilty
        kill(self.process)

    def lingers(self, now: float) -> bool:
        """Whether it should have ended by now, after all it said: a thread of the app may hold
        it up."""
        return self.said_bye_at is not None and now - self.said_bye_at > LINGER

    def overdue(self, now: float) -> tuple[ClaimKey, ...]:
        """Running claims past their hard deadline."""
        return tuple(self.held.overdue(now))

    def deaths(self) -> tuple[ClaimKey, ...]:
        """For which claims its end counts as a death: of those that ran, when it crashed; none,
        when it said itself why it ends but couldn't end its session."""
        if self.renewer is None or self.reason is not None or self.failed is not None:
            return ()
        return tuple(self.held.running()) if self.guilty is None else self.guilty

    def describe_end(self) -> str:
        """For the log."""
        code = self.process.returncode
        return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"

    def _take(self, body: bytes) -> None:
        try:
            message = from_child(body)
        except msgspec.MsgspecError as error:
            log.error("%r sent something else than a message: %s", self, error)
            self.kill()
            return
        now = self._clock.monotonic()
        self.beat_at = now
        if isinstance(message, Work):
            self._apply(message)
        elif isinstance(message, Beat):
            self._describe(message)
        elif isinstance(message, Hello):
            self.hello = message
            self.renewer = Renewer(message.session, self.held, self._clock)
        elif isinstance(message, ReadyNow):
            self.ready_at = self.proved_at = now
        elif isinstance(message, EndSession):
            self.wants_end = True
        elif isinstance(message, Bye):
            self.reason = message.reason
            self.said_bye_at = now
        else:
            self.failed = message

    def _apply(self, work: Work) -> None:
        self.held.hold(work.first, work.count, work.held)
        for first, count, deadline in work.started:
            self.held.started(first, count, deadline)
        for first, count in work.dropped:
            self.held.dropped(first, count)
        if work.dropped:
            self.proved_at = self.beat_at

    def _describe(self, beat: Beat) -> None:
        if self.renewer is not None:
            self.renewer.describe(beat.free, beat.done)
            self.renewer.session = replace(self.renewer.session, memory=beat.memory)

    def _closed(self) -> None:
        """The child closed its end, or is gone: the next look at its process tells."""
