"""Servers as containers: on any Docker engine that answers, from official images or our own."""

from __future__ import annotations

import functools
import importlib.util
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

Form = Literal["process", "docker"]
FORMS: Final = ("process", "docker")
CHOICE: Final = "BANANAS_SERVERS"
"""The variable that names the form; without it, containers if an engine answers."""
LOOPBACK: Final = "127.0.0.1"
POLL: Final = 0.02


def wanted_form() -> Form:
    """How servers are to run.

    Raises:
        ValueError: the variable has another value.
    """
    said = os.environ.get(CHOICE)
    if said not in (*FORMS, None, ""):
        raise ValueError(f"{CHOICE} is one of {', '.join(FORMS)}, not {said!r}")
    if said == "process":
        return "process"
    return "docker" if said == "docker" or engine_answers() else "process"


@functools.cache
def engine_answers() -> bool:
    """Whether containers can be started: by ``DOCKER_HOST``, or at the usual socket, and with the
    extra ``containers``. Asked once."""
    if importlib.util.find_spec("testcontainers") is None:
        return False
    import docker

    try:
        client = docker.from_env(timeout=5)
        try:
            return bool(client.ping())
        finally:
            client.close()
    except docker.errors.DockerException:
        return False


def image_of(name: str, official: str) -> str:
    """The image of a server: ``BANANAS_IMAGE_REDIS`` and so on, else the official one."""
    return os.environ.get(f"BANANAS_IMAGE_{name.upper()}") or official


def printed(
    image: str,
    command: Sequence[str],
    *,
    folder: Path | None = None,
    user: str | None = None,
    mounts: Mapping[Path, str] | None = None,
) -> str:
    """Run a program of an image to its end; what it prints.

    Args:
        folder: where it runs; seen under the same path inside.
        user: uid and gid; default: as the image says.
        mounts: where else files of the machine are seen, read-only.

    Raises:
        docker.errors.DockerException: no such image, or the program failed.
    """
    import docker

    seen = {str(path): {"bind": place, "mode": "ro"} for path, place in (mounts or {}).items()}
    if folder is not None:
        seen[str(folder)] = {"bind": str(folder), "mode": "rw"}
    client = docker.from_env()
    try:
        said: bytes = client.containers.run(
            image,
            list(command[1:]),
            entrypoint=list(command[:1]),
            remove=True,
            volumes=seen,
            user=user,
            working_dir=None if folder is None else str(folder),
        )
    finally:
        client.close()
    return said.decode(errors="replace")


class Container:
    """One server in a container. It has the methods of ``subprocess.Popen`` that servers use, and
    can be started again with its files and port.

    The server's folder is seen under the same path inside, and the port is published on loopback
    alone.
    """

    def __init__(
        self,
        image: str,
        command: Sequence[str],
        *,
        port: int,
        folder: Path,
        user: str,
        environment: Mapping[str, str] | None = None,
        mounts: Mapping[Path, str] | None = None,
    ) -> None:
        """``user``: uid and gid. ``mounts``: where else files are seen inside, read-only."""
        from testcontainers.core.config import testcontainers_config
        from testcontainers.core.container import DockerContainer

        # Its helper is an image of its own; what is left over is removed at exit here.
        testcontainers_config.ryuk_disabled = True
        self.command = list(command)
        self.port = port
        self._made = DockerContainer(image, env=dict(environment or {})).with_kwargs(
            entrypoint=self.command[:1],
            user=user,
            working_dir=str(folder),
        )
        self._made.with_command(self.command[1:])
        self._made.with_volume_mapping(str(folder), str(folder), "rw")
        for path, place in (mounts or {}).items():
            self._made.with_volume_mapping(str(path), place, "ro")
        self._made.ports[str(port)] = (LOOPBACK, port)

    def start(self) -> None:
        """Run it: a new container the first time, the same one later.

        Raises:
            docker.errors.DockerException: no such image, or the port is taken.
        """
        if self._container is None:
            self._made.start()
        else:
            self._container.start()

    @property
    def pid(self) -> int:
        """Of its first process, as the engine's machine numbers it; 0 when it has ended."""
        return int(self._state()["Pid"])

    def poll(self) -> int | None:
        """Its exit code; None while it runs, or is paused."""
        state = self._state()
        return None if state["Running"] else int(state["ExitCode"])

    def wait(self, timeout: float) -> int:
        """Wait for the end. Raises subprocess.TimeoutExpired."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.command, timeout)
            time.sleep(POLL)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """To its first process. Stopping and going on is for all of its processes."""
        state = self._state()
        if number == signal.SIGSTOP and state["Running"] and not state["Paused"]:
            self._container.pause()
        elif number == signal.SIGCONT and state["Paused"]:
            self._container.unpause()
        elif number not in (signal.SIGSTOP, signal.SIGCONT) and state["Running"]:
            self._container.kill(signal=number.name)

    def kill(self) -> None:
        """kill -9 of all of its processes. Safe to repeat."""
        import docker

        self.send_signal(signal.SIGCONT)  # an engine kills nothing that is paused
        try:
            self.send_signal(signal.SIGKILL)
        except docker.errors.APIError:
            if self.poll() is None:
                raise

    def remove(self) -> None:
        """Kill it and remove it. Safe to repeat."""
        if self._container is not None:
            self._made.stop()

    def run(self, *words: str) -> tuple[int, str]:
        """Run a program beside the server; its exit code, and what it said."""
        code, said = self._container.exec_run(list(words))
        return int(code), said.decode(errors="replace")

    def logs(self, lines: int) -> str:
        """The end of what it printed."""
        if self._container is None:
            return ""
        said: bytes = self._container.logs(tail=lines)
        return said.decode(errors="replace")

    @property
    def _container(self) -> Any:
        return self._made._container

    def _state(self) -> dict[str, Any]:
        if self._container is None:
            return {"Pid": 0, "Running": False, "Paused": False, "ExitCode": -1}
        self._container.reload()
        found: dict[str, Any] = self._container.attrs["State"]
        return found
