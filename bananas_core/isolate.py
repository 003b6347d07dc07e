"""Claims run in other processes: ``def`` tasks of ``pool="process"``, and suspects.

A runner process works on one claim at a time. Killing it is how a process task is stopped.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections.abc import Callable
from typing import Final

import msgspec

from bananas_core.errors import BananasError
from bananas_core.job import Claim, Outcome, OutcomeKind
from bananas_core.link import frame, read_frame
from bananas_core.pipe import Sources, to_bytes
from bananas_core.processes import kill, spawn
from bananas_core.settings import Loaded

log = logging.getLogger("bananas.isolate")

LOOK: Final = 0.2
"""Seconds between two looks at whether a silent runner still lives: what it started may hold
its end of the pipe open."""
NO_RUNNER_DELAY: Final = 5.0
"""Seconds until a job is tried again whose runner could not start."""
FRESH_WITHIN: Final = 5.0
"""Seconds that a suspect waits for a process of its own; then it is put off, so that its
time-out doesn't pass in a queue."""
FRESH_DELAY: Final = 1.0
MOST_FRESH: Final = 8
"""Fresh runners at once: each takes the memory of a whole app."""
STOP_WITHIN: Final = 0.5
"""Seconds that idle runners have to end by themselves."""


class _Message(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """Base of all messages."""


class Run(_Message, frozen=True, kw_only=True):
    """To the runner: run this claim on these plain JSON arguments."""

    claim: Claim
    payload: bytes


class Started(_Message, frozen=True, kw_only=True):
    """From the runner: the app is loaded and open."""


class Told(_Message, frozen=True, kw_only=True):
    """From the runner: progress of the running job."""

    value: float
    text: str | None


class Line(_Message, frozen=True, kw_only=True):
    """From the runner: a log line of the running job."""

    text: str


class Done(_Message, frozen=True, kw_only=True):
    """From the runner: the claim's outcome; ready for the next."""

    outcome: Outcome


class Begun(_Message, frozen=True, kw_only=True):
    """From the runner: the claim was read and its body comes next. Without this word, a runner
    that is lost has run nothing, and the job is not charged with a death."""


class NotStarted(_Message, frozen=True, kw_only=True):
    """From the runner: the app can't be loaded or opened."""

    error: str


FromRunner = Started | Begun | Told | Line | Done | NotStarted

_encode = msgspec.msgpack.Encoder().encode
_from_runner: Final[msgspec.msgpack.Decoder[FromRunner]] = msgspec.msgpack.Decoder(FromRunner)
_to_runner: Final[msgspec.msgpack.Decoder[Run]] = msgspec.msgpack.Decoder(Run)


def to_frame(message: Run | FromRunner) -> bytes:
    """A message with its length before it."""
    return frame(_encode(message))


def to_run(body: bytes) -> Run:
    """What a runner receives. Raises msgspec.MsgspecError for anything else."""
    return _to_runner.decode(body)


class RunnerLost(BananasError):
    """The runner process has ended, or sent something that is no message."""


class RunnerFailed(BananasError):
    """The runner can't load or open the app."""


class Runner:
    """One runner process and our end of its pipe."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.process = process
        self.ready = False
        self.began = False
        """Whether it has read the claim that it was given last."""
        self._reader = reader
        self._writer = writer

    async def wait_ready(self) -> None:
        """Raises RunnerFailed, RunnerLost."""
        if self.ready:
            return
        message = await self._next()
        if isinstance(message, NotStarted):
            raise RunnerFailed(message.error)
        self.ready = isinstance(message, Started)

    async def run(
        self,
        claim: Claim,
        payload: bytes,
        on_begun: Callable[[], None],
        on_progress: Callable[[float, str | None], None],
        on_log: Callable[[str], None],
    ) -> Outcome:
        """Run one claim. Raises RunnerLost."""
        self.began = False
        try:
            self._writer.write(to_frame(Run(claim=claim, payload=payload)))
            await self._writer.drain()
        except OSError as error:
            raise RunnerLost("its pipe is closed") from error
        while True:
            message = await self._next()
            if isinstance(message, Begun):
                self.began = True
                on_begun()
            elif isinstance(message, Told):
                on_progress(message.value, message.text)
            elif isinstance(message, Line):
                on_log(message.text)
            elif isinstance(message, Done):
                return message.outcome

    def close(self) -> None:
        """Tell an idle runner to end. Safe to repeat."""
        self._writer.close()

    def kill(self) -> None:
        """End it and all that it started. Safe to repeat."""
        kill(self.process, group=True)
        self._writer.close()

    async def _next(self) -> FromRunner:
        reading = asyncio.ensure_future(read_frame(self._reader))
        try:
            while not reading.done():
                await asyncio.wait({reading}, timeout=LOOK)
                if not reading.done() and self.process.poll() is not None:
                    raise RunnerLost(f"it ended with code {self.process.returncode}")
            return _from_runner.decode(reading.result())
        except (EOFError, OSError, msgspec.MsgspecError) as error:
            raise RunnerLost(str(error)) from error
        finally:
            reading.cancel()


class ProcessIsolation:
    """Runner processes of one worker. Implements ``Isolation`` (``running.py``)."""

    def __init__(
        self,
        app: str,
        *,
        sources: Loaded | None = None,
        warm: int = 0,
        most: int = 1,
        most_fresh: int = MOST_FRESH,
    ) -> None:
        """
        Args:
            app: ``package.module:attribute``, imported in each runner.
            sources: what was read of the settings' sources; None: each runner reads them.
            warm: runners that are started beforehand.
            most: idle runners that are kept; a further one ends after its job.
            most_fresh: fresh runners at once; all neighbours of a killer may be suspects.
        """
        self._fresh = asyncio.Semaphore(most_fresh)
        self._app = app
        self._sources = sources
        self._warm = warm
        self._most = most
        self._idle: list[Runner] = []
        self._busy: set[Runner] = set()
        self._dead: list[subprocess.Popen[bytes]] = []

    async def start(self) -> None:
        """Start the warm runners; their imports go on while this returns."""
        for _ in range(self._warm):
            self._idle.append(await self._start())

    async def stop(self) -> None:
        """End all runners. Safe to repeat."""
        for runner in self._busy:
            runner.kill()
        runners = [*self._busy, *self._idle]
        for runner in self._idle:
            runner.close()
        self._idle = []
        loop = asyncio.get_running_loop()
        end = loop.time() + STOP_WITHIN
        while loop.time() < end and any(r.process.poll() is None for r in runners):
            await asyncio.sleep(0.01)
        for runner in runners:
            runner.kill()
            self._dead.append(runner.process)
        while self._reap() and loop.time() < end + STOP_WITHIN:
            await asyncio.sleep(0.01)

    async def run(
        self,
        claim: Claim,
        payload: bytes,
        *,
        fresh: bool,
        on_begun: Callable[[], None],
        on_progress: Callable[[float, str | None], None],
        on_log: Callable[[str], None],
    ) -> Outcome:
        """Run a claim in a runner and return its outcome.

        Cancelling kills the runner and what it started. ``fresh``: a new process for this claim
        alone. When the process is lost, the outcome is ``died``.
        """
        self._reap()
        if not fresh:
            return await self._run(claim, payload, False, on_begun, on_progress, on_log)
        try:
            async with asyncio.timeout(FRESH_WITHIN):
                await self._fresh.acquire()
        except TimeoutError:
            return _later(claim, "a suspect waits for a process of its own", FRESH_DELAY)
        try:
            return await self._run(claim, payload, True, on_begun, on_progress, on_log)
        finally:
            self._fresh.release()

    async def _run(
        self,
        claim: Claim,
        payload: bytes,
        fresh: bool,
        on_begun: Callable[[], None],
        on_progress: Callable[[float, str | None], None],
        on_log: Callable[[str], None],
    ) -> Outcome:
        """A runner that died while it was idle may look alive for a moment: another one is taken
        until one has begun, or a new one can't."""
        while True:
            runner = None if fresh else self._take_idle()
            new = runner is None
            if runner is None:
                runner = await self._start()
            outcome = await self._run_in(
                runner, claim, payload, fresh, on_begun, on_progress, on_log
            )
            if new or runner.began or outcome.kind is not OutcomeKind.SNOOZE:
                return outcome

    async def _run_in(
        self,
        runner: Runner,
        claim: Claim,
        payload: bytes,
        fresh: bool,
        on_begun: Callable[[], None],
        on_progress: Callable[[float, str | None], None],
        on_log: Callable[[str], None],
    ) -> Outcome:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        self._busy.add(runner)
        good = False
        try:
            await runner.wait_ready()
            begun = loop.time()
            outcome = await runner.run(claim, payload, on_begun, on_progress, on_log)
            good = not fresh
            return outcome
        except RunnerLost as error:
            log.error("the process that ran job %s was lost: %s", claim.id, error)
            if not runner.began:
                return _later(claim, "its process ended before it began")
            return Outcome(
                id=claim.id, fence=claim.fence, kind=OutcomeKind.DIED, ran=loop.time() - begun
            )
        except RunnerFailed as error:
            log.error("job %s waits, no process for it: %s", claim.id, error)
            return _later(claim, str(error))
        finally:
            self._busy.discard(runner)
            if good and len(self._idle) < self._most:
                self._idle.append(runner)
            else:
                runner.kill()
                self._dead.append(runner.process)

    def _take_idle(self) -> Runner | None:
        """One that still lives: a job must not be charged with a death before it began."""
        while self._idle:
            runner = self._idle.pop()
            if runner.process.poll() is None:
                return runner
            runner.close()
        return None

    async def _start(self) -> Runner:
        process, sock = spawn("bananas_core.runner", [self._app], own_group=True)
        try:
            reader, writer = await asyncio.open_connection(sock=sock)
            writer.write(frame(to_bytes(Sources(loaded=self._sources))))
        except BaseException:
            kill(process, group=True)
            self._dead.append(process)
            sock.close()
            raise
        return Runner(process, reader, writer)

    def _reap(self) -> int:
        """Let the system forget killed processes; how many are still on their way."""
        self._dead = [process for process in self._dead if process.poll() is None]
        return len(self._dead)


def _later(claim: Claim, why: str, delay: float = NO_RUNNER_DELAY) -> Outcome:
    return Outcome(
        id=claim.id,
        fence=claim.fence,
        kind=OutcomeKind.SNOOZE,
        delay=delay,
        held_by=f"runner: {why:.200}",
    )
