"""What all servers have in common: a process or container, a port and a folder of their own."""

from __future__ import annotations

import asyncio
import atexit
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final, Self

from integration.servers.container import (
    CHOICE,
    LOOPBACK,
    Container,
    Form,
    engine_answers,
    image_of,
    printed,
    wanted_form,
)

HOST: Final = LOOPBACK
PORTS: Final = range(20_000, 32_000)
"""Below those that the kernel gives to outgoing connections, so that nobody takes a server's port
between its death and its restart."""
POLL: Final = 0.01
START_TRIES: Final = 5


class ServerMissing(RuntimeError):
    """The server's program is not installed; the text says how to install it."""


class ServerFailed(RuntimeError):
    """The server did not start, or did not stop in time; the text ends with its last log lines."""


class Server(ABC):
    """One server on a port and in a folder of its own: a process of ours, or a container where
    ``container.wanted_form`` says so and the kind has an ``image``.

    Made stopped; ``start`` or ``with``/``async with`` runs it. A restart keeps port and data, so
    clients that reconnect find what they left. Whatever is still running when the interpreter ends
    is killed, unless it was made ``detached``.

    Methods block for some milliseconds up to their time limit; ``async with`` doesn't block the
    loop, and ``asyncio.to_thread(server.restart)`` is how a coroutine calls the others.
    """

    name: ClassVar[str]
    image: ClassVar[str | None] = None
    """The official image; None: always a process."""
    program: ClassVar[str] = ""
    """What a container runs."""
    ready_within: ClassVar[float] = 10.0
    """Seconds from the start of the process until it must answer."""
    stop_within: ClassVar[float] = 10.0
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    """What makes it end in good order."""

    def __init__(
        self, *, folder: Path | None = None, detached: bool = False, process: bool = False
    ) -> None:
        """``folder``: an existing folder that the caller removes; default: a temporary one that
        ``stop`` removes. ``detached``: outlives this interpreter and its terminal, as a process.
        ``process``: never a container."""
        self.form: Form = "process" if process or detached else self.usual_form()
        if self.form == "docker":
            self.find()
            self.binary = Path(self.program)
        else:
            self.binary = self.find_binary()
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix=f"bananas-{self.name}-"))
        self.port = free_port()
        self._detached = detached
        self._process: subprocess.Popen[bytes] | Container | None = None
        self._started_before = False
        self._refused = ""
        """Why the engine did not start the container."""

    # -- what each kind of server says ---------------------------------------------------------

    @classmethod
    @abstractmethod
    def find_binary(cls) -> Path:
        """Raises ServerMissing."""

    @classmethod
    def usual_form(cls) -> Form:
        """The form of a new one, if nothing in its arguments asks for a process."""
        return "process" if cls.image is None else wanted_form()

    @classmethod
    def find(cls) -> None:
        """Whether one can be made. Raises ServerMissing."""
        if cls.usual_form() == "process":
            cls.find_binary()
        elif not engine_answers():
            raise ServerMissing(
                f"{CHOICE} is docker, but no Docker engine answers; the extra `containers` is "
                "needed, and DOCKER_HOST where the engine is not at its usual place"
            )

    @classmethod
    def version_line(cls) -> str:
        """What its program says of its version. Raises ServerMissing."""
        if cls.usual_form() == "docker" and cls.image is not None:
            return printed(image_of(cls.name, cls.image), [cls.program, "--version"])
        command = [cls.find_binary(), "--version"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """The command line; called at each start, after ``port`` is final for this try."""

    def environment(self) -> dict[str, str] | None:
        """Its environment; None: as ours."""
        return None

    @property
    def user(self) -> str:
        """The uid and gid of a container's processes, which own the folder."""
        return f"{os.getuid()}:{os.getgid()}"

    def mounts(self) -> dict[Path, str]:
        """Where files are seen in a container, besides the folder."""
        return {}

    @abstractmethod
    def answers(self) -> bool:
        """Whether it serves requests now; an OSError counts as no."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The broker URL."""

    # -- life ----------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start it and wait until it answers. Does nothing while it runs.

        Raises:
            ServerFailed: it ended, or did not answer within ``ready_within``.
        """
        if self.running:
            return self
        for left in reversed(range(START_TRIES)):
            self._launch()
            try:
                self._wait_until_ready()
                break
            except ServerFailed:
                self.kill()
                # Somebody else was quicker to bind the port. Only a first start may move.
                if self._started_before or not left or not self._address_in_use():
                    if not self._started_before:
                        self._forget()
                    raise
                self.port = free_port()
        self._started_before = True
        return self

    def stop(self) -> None:
        """End it (SIGTERM, then SIGKILL) and remove its folder if that was made here. For good."""
        try:
            self.terminate()
        finally:
            self.kill()
            self._forget()

    def terminate(self) -> int | None:
        """``stop_signal``, and wait for the end; its exit code, None if it didn't run.

        Raises:
            ServerFailed: it did not end within ``stop_within``.
        """
        if not self.running:
            return None
        self.signal(signal.SIGCONT)
        self.signal(self.stop_signal)
        assert self._process is not None
        try:
            return self._process.wait(self.stop_within)
        except subprocess.TimeoutExpired as error:
            raise ServerFailed(
                f"{self.name} (pid {self.pid}) ignores {self.stop_signal.name}{self.log_tail()}"
            ) from error

    def kill(self) -> None:
        """kill -9, and wait for the end. Safe to repeat."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(self.stop_within)

    def restart(self, *, kill: bool = False) -> None:
        """End it by SIGTERM, or kill -9, and start it on the same port and data."""
        if kill:
            self.kill()
        else:
            self.terminate()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay, nothing answers."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server's process."""
        if isinstance(self._process, Container):
            self._process.send_signal(number)
        else:
            os.kill(self.pid, number)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.to_thread(self.stop)

    # -- looking at it -------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Raises ServerFailed if it was never started."""
        if self._process is None:
            raise ServerFailed(f"{self.name} was not started")
        return self._process.pid

    @property
    def own_pid(self) -> int:
        """The same as the server itself sees it: in a container it is the first process."""
        return 1 if self.form == "docker" else self.pid

    @property
    def listen(self) -> str:
        """The address that it has to listen on. A container's is reached through its port on
        loopback only."""
        return "0.0.0.0" if self.form == "docker" else HOST

    @property
    def log_path(self) -> Path:
        return self.folder / f"{self.name}.log"

    def log_tail(self, lines: int = 15) -> str:
        """The end of its log, on lines of their own, for error texts."""
        if isinstance(self._process, Container):
            text = self._process.logs(lines)
            return "".join(f"\n  {line}" for line in text.splitlines())
        try:
            text = self.log_path.read_text(errors="replace")
        except OSError:
            return ""
        return "".join(f"\n  {line}" for line in text.splitlines()[-lines:])

    # -- inside --------------------------------------------------------------------------------

    def _launch(self) -> None:
        command = [str(part) for part in self.command()]
        if self.form == "docker":
            self._launch_container(command)
        else:
            self._launch_process(command)
        if not self._detached:
            atexit.register(self._at_exit)

    def _launch_process(self, command: list[str]) -> None:
        with self.log_path.open("ab") as log:
            # In our process group, a signal to the group (a terminal's Ctrl-C, `timeout`) ends it.
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=self._detached,
            )

    def _launch_container(self, command: list[str]) -> None:
        import docker

        self._refused = ""
        old, self._process = self._process, None
        if isinstance(old, Container) and (old.port, old.command) == (self.port, command):
            new = old
        else:
            if isinstance(old, Container):
                old.remove()
            assert self.image is not None
            image = image_of(self.name, self.image)
            said = (self.environment() or {}).items()
            new = Container(
                image,
                command,
                port=self.port,
                folder=self.folder,
                user=self.user,
                environment={k: v for k, v in said if os.environ.get(k) != v},  # not ours
                mounts=self.mounts(),
            )
        self._process = new
        try:
            new.start()
        except docker.errors.ImageNotFound as error:
            raise ServerMissing(
                f"there is no image {image_of(self.name, self.image or '')}; {error}"
            ) from error
        except docker.errors.APIError as error:
            self._refused = str(error)  # the port is taken: `start` looks at it

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.ready_within
        while time.monotonic() < deadline:
            if not self.running:
                said = f"\n  {self._refused}" if self._refused else self.log_tail()
                raise ServerFailed(f"{self.name} ended at its start{said}")
            try:
                if self.answers():
                    return
            except OSError:
                pass
            time.sleep(POLL)
        raise ServerFailed(
            f"{self.name} on port {self.port} did not answer within {self.ready_within:g} s"
            f"{self.log_tail()}"
        )

    def _address_in_use(self) -> bool:
        said = f"{self._refused}{self.log_tail()}".lower()
        return "address already in use" in said or "port is already allocated" in said

    def _at_exit(self) -> None:
        self.kill()
        self._forget()

    def _forget(self) -> None:
        atexit.unregister(self._at_exit)
        if isinstance(self._process, Container):
            self._process.remove()
            self._process = None
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    """A loopback port that nobody listens on."""
    rng = random.SystemRandom()
    for _ in range(100):
        port = rng.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        return port
    raise ServerFailed(f"no free port found from {PORTS.start} to {PORTS.stop}")
