"""Runs a subject's producer and worker as processes, and reads what they cost."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from benchmarks.environments import ROOT, Subject
from benchmarks.subjects.common import Options, make_cells
from integration.servers import RedisServer

TICK: Final = os.sysconf("SC_CLK_TCK")
POLL: Final = 0.005
BOOT: Final = 30.0
"""Seconds that a worker has until its first job starts."""
PRODUCER_SECONDS: Final = 90.0


def processor() -> str:
    """What this machine runs on."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2] for line in text.splitlines() if line.startswith("model name")]
    return names[0].strip() if names else platform.processor()


class SubjectFailed(RuntimeError):
    """A subject did not do what was asked; ends with the last lines that it printed."""


class Lab:
    """One server and one folder, for one measure after another."""

    def __init__(self, server: RedisServer, folder: Path, bananas_url: str | None = None) -> None:
        """``bananas_url``: run Bananas on another broker than ``server``."""
        self.server = server
        self.folder = folder
        self.bananas_url = bananas_url

    @contextmanager
    def run(self, subject: Subject, jobs: int, **options: Any) -> Iterator[Run]:
        """An empty server, and the means to measure ``subject`` on it with ``jobs`` jobs."""
        self.server.call("FLUSHALL", "SYNC", within=60)
        url = self.server.url
        if self.bananas_url is not None and subject.name == "Bananas":
            url = self.bananas_url
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            folder = Path(name)
            tally = str(folder / "tally")
            chosen = Options(url=url, tally=tally, **options)
            yield Run(self.server, subject, chosen, folder, jobs)


class Run:
    """One subject in one measure."""

    def __init__(
        self, server: RedisServer, subject: Subject, options: Options, folder: Path, jobs: int
    ) -> None:
        self.server = server
        self.subject = subject
        self.options = options
        self.folder = folder
        self.jobs = jobs
        self.cells = make_cells(options.tally, jobs + 1)
        self._done = 0
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("BANANAS_")},
            **options.environment(),
            "PATH": f"{subject.bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "",
            # No measure sees what another one left, also where nothing is flushed.
            "BANANAS_NAMESPACE": f"bench-{uuid.uuid4().hex[:12]}",
        }

    def produce(self, what: str, count: int, seconds: float = PRODUCER_SECONDS) -> dict[str, Any]:
        """Run the producer to its end; what it measured."""
        module = "benchmarks.subjects.producer"
        command = [str(self.subject.bin / "python"), "-m", module, self.subject.module, what]
        try:
            done = subprocess.run(
                [*command, str(count)],
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise SubjectFailed(f"{what} took more than {seconds:g} s") from error
        if done.returncode:
            raise SubjectFailed(f"{what} failed: {last_lines(done.stderr)}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def worker(self, name: str = "worker") -> WorkerProcess:
        """Start a worker; it ends with the ``with`` block."""

        command = worker_command(self.subject, replace(self.options, tally="", blob=0))
        return WorkerProcess(command, self._environment, self.folder / f"{name}.log")

    def wait_for(self, count: int, worker: WorkerProcess, seconds: float) -> int:
        """Wait until jobs 0 to ``count`` - 1 have started, or for ``seconds`` after the first did;
        how many have. Raises SubjectFailed if none starts, or the worker ends."""
        deadline, seen = time.monotonic() + BOOT, False
        while self._progress(count) < count:
            now = time.monotonic()
            if not seen and self.started(count):
                seen, deadline = True, now + seconds
            if worker.ended or (now > deadline and not seen):
                raise SubjectFailed(
                    f"{'the worker ended' if worker.ended else 'no job started'}: {worker.log()}"
                )
            if now > deadline:
                return self.started(count)
            time.sleep(POLL)
        return count

    def wait_for_any(self, worker: WorkerProcess) -> None:
        """Wait until any job has started. Raises SubjectFailed if none does, or the worker ends."""
        deadline = time.monotonic() + BOOT
        while not any(self.cells[1:]):
            if worker.ended or time.monotonic() > deadline:
                raise SubjectFailed(
                    f"{'the worker ended' if worker.ended else 'no job started'}: {worker.log()}"
                )
            time.sleep(POLL)

    def started(self, count: int) -> int:
        """How many of the first ``count`` jobs have started."""
        return sum(map(bool, self.cells[1 : count + 1]))

    def _progress(self, count: int) -> int:
        """How many have, up to the first that hasn't: cheap to ask again and again."""
        cells = self.cells
        while self._done < count and cells[self._done + 1]:
            self._done += 1
        return self._done

    @property
    def twice(self) -> int:
        """Second starts of a job."""
        return int(self.cells[0])


@cache
def worker_command(subject: Subject, options: Options) -> list[str]:
    """Asked of the subject in its own environment, which alone can import it."""
    code = (
        "import importlib, json, sys; from benchmarks.subjects.common import options;"
        "print(json.dumps(importlib.import_module(sys.argv[1]).worker(options())))"
    )
    done = subprocess.run(
        [str(subject.bin / "python"), "-c", code, subject.module],
        env={**os.environ, **options.environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=BOOT,
    )
    if done.returncode:
        raise SubjectFailed(f"it can't be imported: {last_lines(done.stderr)}")
    command: list[str] = json.loads(done.stdout.splitlines()[-1])
    program = subject.bin / command[0]
    return [str(program) if program.exists() else command[0], *command[1:]]


class WorkerProcess:
    """A worker with all its descendants, in a session of its own."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command,
                env=environment,
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def log(self) -> str:
        return last_lines(self._log.read_text(errors="replace"))

    def kill(self) -> None:
        """kill -9 of all of it, also of children that left the process group. Safe to repeat."""
        everybody = family(self._process.pid) if not self.ended else []
        for pid in [self._process.pid, *everybody]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait(10)

    def cpu(self) -> float:
        """User and system time of all of it so far, in seconds."""
        return sum(map(cpu_of, family(self._process.pid)))

    def memory(self) -> int:
        """Bytes: the proportional set size of all of it, where shared pages count once."""
        return sum(map(memory_of, family(self._process.pid)))

    def largest(self) -> int:
        """Bytes: the resident size of its largest process, shared pages and all."""
        return max(memory_of(pid, "Rss") for pid in family(self._process.pid))


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """A look at the clocks: seconds."""

    at: float
    worker: float
    server: float


def look(worker: WorkerProcess, server: RedisServer) -> Usage:
    return Usage(at=time.monotonic(), worker=worker.cpu(), server=server_cpu(server))


def server_cpu(server: RedisServer) -> float:
    """Seconds of CPU that the server's process has used, to the microsecond."""
    info = server.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def family(pid: int) -> list[int]:
    """A process and all its living descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := stat(int(entry.name))):
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo[-1])
        todo += parents.get(todo.pop(), [])
    return found


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def cpu_of(pid: int) -> float:
    """With that of children that ended, whose part comes in ticks of 10 ms. That of the living
    threads is exact where the kernel tells: a thousand jobs take two ticks."""
    fields = stat(pid)
    if not fields:
        return 0.0
    ended = sum(map(int, fields[13:15])) / TICK
    exact = 0
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            exact += int((thread / "schedstat").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        exact = 0
    return ended + (exact / 1e9 or sum(map(int, fields[11:13])) / TICK)


def memory_of(pid: int, line: str = "Pss") -> int:
    """Bytes, by a line of ``smaps_rollup``: ``Pss``, or ``Rss`` for all of it."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    sizes = [found.split()[1] for found in text.splitlines() if found.startswith(f"{line}:")]
    return int(sizes[0]) * 1024 if sizes else 0


def last_lines(text: str, lines: int = 6) -> str:
    return " | ".join(line.strip() for line in text.strip().splitlines()[-lines:])
