"""``python -m bananas_core.runner``: runs one claim at a time for a worker, which starts it.

Arguments: the pipe's file descriptor, the worker's pid, the app. The first message in the pipe is
what was read of the settings' sources. ``def`` tasks have the main
thread for themselves; the event loop, with the pipe, the app's connections and ``async`` tasks,
is on another one.
"""

from __future__ import annotations

import asyncio
import contextvars
import faulthandler
import logging
import random
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from bananas_core.clock import SystemClock
from bananas_core.context import Expander, JobContext, enter
from bananas_core.errors import BananasError
from bananas_core.execute import run_body, unknown_task
from bananas_core.isolate import (
    Begun,
    Done,
    FromRunner,
    Line,
    NotStarted,
    Run,
    Started,
    Told,
    to_frame,
    to_run,
)
from bananas_core.job import Claim, Outcome
from bananas_core.link import read_frame
from bananas_core.message import decode_body
from bananas_core.processes import die_with_parent, inherit, set_up_logging, watch_parent
from bananas_core.workflow.expand import expansion

if TYPE_CHECKING:
    from bananas_core.app import Bananas

log = logging.getLogger("bananas.runner")

Call = Callable[[], None]


def main(arguments: Sequence[str]) -> int:
    """The process's exit code."""
    fd, parent, reference = arguments
    faulthandler.enable()
    die_with_parent(int(parent))
    watch_parent(int(parent))
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sock = inherit(int(fd))
    app, error = _load(reference, sock)
    calls: SimpleQueue[Call | None] = SimpleQueue()
    loop_thread = threading.Thread(
        target=_run_loop, args=(sock, app, error, calls), name="bananas-loop"
    )
    loop_thread.start()
    while (call := calls.get()) is not None:
        call()
    loop_thread.join()
    return 0


def _load(reference: str, sock: socket.socket) -> tuple[Bananas | None, str]:
    from bananas_core.child import load_with_settings
    from bananas_core.probe import register_probe

    try:
        app, _ = load_with_settings(reference, sock)
        register_probe(app)
    except BananasError as error:
        return None, str(error)
    set_up_logging()
    return app, ""


def _run_loop(
    sock: socket.socket, app: Bananas | None, error: str, calls: SimpleQueue[Call | None]
) -> None:
    try:
        asyncio.run(_serve(sock, app, error, calls))
    finally:
        calls.put(None)


async def _serve(
    sock: socket.socket, app: Bananas | None, error: str, calls: SimpleQueue[Call | None]
) -> None:
    """Until the worker closes its end."""
    reader, writer = await asyncio.open_connection(sock=sock)
    if app is not None:
        try:
            await app.open()
        except BananasError as refused:
            app, error = None, str(refused)
    if app is None:
        writer.write(to_frame(NotStarted(error=error)))
        await writer.drain()
        return
    main_thread = MainThread(calls)
    desk = RunnerDesk(app, writer, main_thread)
    desk.tell(Started())
    try:
        while True:
            run = to_run(await read_frame(reader))
            desk.tell(Begun())
            desk.tell(Done(outcome=await desk.run(run)))
            await writer.drain()
    except (EOFError, ConnectionError):
        await app.close()


class MainThread:
    """Runs functions on the main thread for the event loop."""

    def __init__(self, calls: SimpleQueue[Call | None]) -> None:
        self._calls = calls

    async def call(self, function: Callable[[], Any]) -> Any:
        """Its value or exception; ``SystemExit`` and the like too."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()

        def run() -> None:
            value, error = None, None
            try:
                value = context.run(function)
            except BaseException as caught:  # handed to the loop as data
                error = caught
            loop.call_soon_threadsafe(_settle, future, value, error)

        self._calls.put(run)
        return await future


def _settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if error is None:
        future.set_result(value)
    elif isinstance(error, Exception) and not isinstance(error, StopIteration):
        future.set_exception(error)
    else:
        future.set_exception(RuntimeError(f"the task raised {error!r}"))


class RunnerDesk:
    """Runs claims and tells of them."""

    def __init__(self, app: Bananas, writer: asyncio.StreamWriter, main: MainThread) -> None:
        self._app = app
        self._writer = writer
        self._main = main
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._clock = SystemClock()
        self._rng = random.Random()

    def tell(self, message: FromRunner) -> None:
        """From the loop's thread."""
        self._writer.write(to_frame(message))

    async def run(self, run: Run) -> Outcome:
        """The claim's outcome, from a task of its own, whose context ends with it."""
        return await asyncio.get_running_loop().create_task(self._run(run))

    async def _run(self, run: Run) -> Outcome:
        claim, app = run.claim, self._app
        task = app.tasks.get(claim.name)
        if task is None:
            return unknown_task(claim)
        told = RunnerRun(app, claim, self.tell_soon)
        enter(told)
        around = None
        if app.plugins.has("around_execute"):
            around = partial(app.plugins.around_execute, claim, told.context)
        return await run_body(
            task, claim, run.payload, self._main.call, self._clock, self._rng, around
        )

    def tell_soon(self, message: FromRunner) -> None:
        """From any thread, and before the outcome of the job that says it."""
        if threading.get_ident() == self._thread:
            self.tell(message)
        else:
            self._loop.call_soon_threadsafe(self.tell, message)


class RunnerRun:
    """What ``current_job()`` speaks to in a runner: the worker, through the pipe."""

    def __init__(self, app: Bananas, claim: Claim, tell: Callable[[FromRunner], None]) -> None:
        self._app = app
        self._claim = claim
        self._tell = tell
        self.context = JobContext(self, id=claim.id, name=claim.name, attempt=claim.attempt)

    @property
    def stopping(self) -> bool:
        """Never: a runner whose job is to stop is killed."""
        return False

    def tell(self, value: float, text: str | None) -> None:
        self._tell(Told(value=value, text=text))

    def log(self, text: str) -> None:
        self._tell(Line(text=text))

    def expander(self) -> Expander | None:
        return expansion(self._app, self._claim, decode_body(self._claim.message).workflow)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
