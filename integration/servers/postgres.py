"""PostgreSQL, and PgBouncer before it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, Literal
from urllib.parse import quote, urlencode

from integration.servers.base import HOST, POLL, Server, ServerFailed, ServerMissing
from integration.servers.container import image_of, printed
from integration.servers.tls import make_certificates

USER: Final = "postgres"
IN_CONTAINER: Final = 999
"""Its uid in a container that root starts: any but root's."""
FOLDERS: Final = "/usr/lib/postgresql/*/bin"
"""Where Debian has the programs, which are not on the path there."""


class PostgresServer(Server):
    """PostgreSQL, without the system's configuration; run by root, it is the system user's.

    Args:
        fsync: whether commits are synced to disk; a killed process loses nothing without it.
        password: of the user ``postgres``, who needs none otherwise.
        tls: offers encryption, with a certificate for loopback (``ca_file``), and takes nothing
            else over the network.
        settings: any other settings of ``postgresql.conf``.
    """

    name: ClassVar[str] = "postgres"
    image: ClassVar[str | None] = "postgres:17"
    program: ClassVar[str] = "postgres"
    ready_within: ClassVar[float] = 30.0
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # after SIGTERM it waits for its clients

    def __init__(
        self,
        *,
        fsync: bool = False,
        password: str | None = None,
        tls: bool = False,
        settings: Mapping[str, str] | None = None,
        folder: Path | None = None,
        detached: bool = False,
        process: bool = False,
    ) -> None:
        super().__init__(folder=folder, detached=detached, process=process)
        self.password = password
        self.tls = tls
        self._settings = {
            "listen_addresses": self.listen,
            "unix_socket_directories": str(self.folder),
            "fsync": "on" if fsync else "off",
            "shared_buffers": "32MB",
            "max_connections": "200",
            **({"ssl": "on"} if tls else {}),
            **(settings or {}),
        }
        if tls:
            make_certificates(self.folder)
        if self.form == "docker":
            users = f"root:x:0:0::/:/bin/sh\n{USER}:x:{self.user}::/:/bin/sh\n"
            (self.folder / "passwd").write_text(users)
        self._own(self.folder)

    @classmethod
    def find_binary(cls) -> Path:
        return find("postgres", "postgresql")

    @property
    def user(self) -> str:
        """It refuses to run as root, in a container too."""
        return f"{IN_CONTAINER}:{IN_CONTAINER}" if os.getuid() == 0 else super().user

    def mounts(self) -> dict[Path, str]:
        """It wants its user to have a name."""
        return {self.folder / "passwd": "/etc/passwd"}

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def ca_file(self) -> Path:
        """The certificate that clients of a ``tls`` server must trust."""
        return self.folder / "ca.crt"

    @property
    def url(self) -> str:
        login = USER if self.password is None else f"{USER}:{quote(self.password, safe='')}"
        place = f"postgresql://{login}@{HOST}:{self.port}/postgres"
        if not self.tls:
            return place
        return f"{place}?{urlencode({'sslmode': 'verify-full', 'sslrootcert': self.ca_file})}"

    def command(self) -> Sequence[str | Path]:
        if not self.data.exists():
            self._make_data()
        said = [word for key, value in self._settings.items() for word in ("-c", f"{key}={value}")]
        if self.form == "docker":
            (self.data / "postmaster.pid").unlink(missing_ok=True)  # the next has the same pid
            return [self.binary, "-D", self.data, "-p", str(self.port), *said]
        return [*as_user(), self.binary, "-D", self.data, "-p", str(self.port), *said]

    def answers(self) -> bool:
        """By its own note, as another server may have taken the port."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(self.own_pid) and lines[7].strip() == "ready"

    def kill(self) -> None:
        """kill -9 of all its processes, as a crash of the machine would."""
        children = self.children()
        super().kill()
        deadline = time.monotonic() + self.stop_within
        for child in children:
            send(child, signal.SIGKILL)
        while any(Path(f"/proc/{child}").exists() for child in children):
            if time.monotonic() > deadline:
                raise ServerFailed(f"{self.name}: some of its processes don't end")
            time.sleep(POLL)

    def signal(self, number: signal.Signals) -> None:
        """Stopping and going on is for all its processes."""
        super().signal(number)
        if number in (signal.SIGSTOP, signal.SIGCONT):
            for child in self.children():
                send(child, number)

    def children(self) -> list[int]:
        """Pids of the processes that it has started; none in a container, which is signalled as a
        whole."""
        if self.form == "docker" or not self.running:
            return []
        asked = ["ps", "-o", "pid=", "--ppid", str(self.pid)]
        return [int(word) for word in subprocess.run(asked, capture_output=True).stdout.split()]

    def _make_data(self) -> None:
        """A fresh cluster: making one takes seconds, copying it does not."""
        subprocess.run(["cp", "-a", str(self._template()), str(self.data)], check=True)
        if self.tls:
            for name in ("server.crt", "server.key"):
                shutil.copy(self.folder / name, self.data / name)
                (self.data / name).chmod(0o600)
                self._own(self.data / name)
        method = "scram-sha-256" if self.password else "trust"
        kind = "hostssl" if self.tls else "host"
        clients = "0.0.0.0/0" if self.form == "docker" else f"{HOST}/32"
        rules = f"local all all trust\n{kind} all all {clients} {method}\n"
        (self.data / "pg_hba.conf").write_text(rules)
        if self.password is not None:
            self._alone(f"ALTER USER {USER} PASSWORD '{self.password}'")

    def _alone(self, statement: str) -> None:
        """Run one statement while it does not serve."""
        file = self.folder / "statement"
        file.touch(0o600)
        file.write_text(statement)
        self._own(file)
        single = f"exec '{self.binary}' --single -D '{self.data}' postgres <'{file}'"
        self._run(self.folder, "sh", "-c", single)
        file.unlink()

    def _template(self) -> Path:
        """A cluster without anything in it, made once in this process and removed at its end."""
        kind = str(self.binary) if self.form == "process" else image_of(self.name, self.image or "")
        if kind not in _templates:
            folder = tempfile.TemporaryDirectory(prefix="bananas-postgres-template-")
            self._own(Path(folder.name))
            initdb, data = str(self.binary.with_name("initdb")), str(Path(folder.name) / "data")
            options = ["-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
            self._run(Path(folder.name), initdb, "-D", data, *options)
            _templates[kind] = folder
        return Path(_templates[kind].name) / "data"

    def _run(self, folder: Path, *words: str) -> None:
        """Run a program to its end, as the server's user, in the server's form.

        Raises:
            ServerFailed: it failed.
        """
        if self.form == "process":
            done = subprocess.run([*as_user(), *words], cwd=folder, capture_output=True, text=True)
            if done.returncode:
                raise ServerFailed(f"{words[0]} failed: {done.stderr.strip()}")
            return
        import docker

        image, mounts = image_of(self.name, self.image or ""), self.mounts()
        try:
            printed(image, words, folder=folder, user=self.user, mounts=mounts)
        except docker.errors.ImageNotFound as error:
            raise ServerMissing(f"there is no image {image}; {error}") from error
        except docker.errors.ContainerError as error:
            raise ServerFailed(f"{words[0]} failed: {error}") from error

    def _own(self, path: Path) -> None:
        """Give a file or folder to the user that the server runs as."""
        if self.form == "process":
            own(path)
        elif os.getuid() == 0:
            os.chown(path, IN_CONTAINER, IN_CONTAINER)


_templates: Final[dict[str, tempfile.TemporaryDirectory[str]]] = {}


class PgBouncerServer(Server):
    """PgBouncer before a running server. Each transaction may get another connection."""

    name: ClassVar[str] = "pgbouncer"

    def __init__(
        self,
        database: PostgresServer,
        *,
        mode: Literal["transaction", "session"] = "transaction",
        pool_size: int = 20,
        folder: Path | None = None,
        detached: bool = False,
    ) -> None:
        super().__init__(folder=folder, detached=detached)
        self._database = database
        self._mode = mode
        self._pool_size = pool_size
        own(self.folder)

    @classmethod
    def find_binary(cls) -> Path:
        return find("pgbouncer", "pgbouncer")

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@{HOST}:{self.port}/postgres"

    def command(self) -> Sequence[str | Path]:
        config = self.folder / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = host={HOST} port={self._database.port} user={USER}\n"
            f"[pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {self.port}\nauth_type = any\n"
            f"unix_socket_dir =\npool_mode = {self._mode}\nmax_client_conn = 1000\n"
            f"default_pool_size = {self._pool_size}\n"
        )
        own(config)
        return [*as_user(), self.binary, config]

    def answers(self) -> bool:
        with socket.create_connection((HOST, self.port), timeout=0.5):
            return True


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def find(program: str, package: str) -> Path:
    """Raises ServerMissing."""
    there = shutil.which(program)
    newest = sorted(Path("/").glob(f"{FOLDERS[1:]}/{program}"), key=lambda p: float(p.parts[-3]))
    debian = Path("/usr/sbin") / program
    found = [Path(there)] if there else newest[-1:] or [p for p in [debian] if p.exists()]
    if not found:
        raise ServerMissing(
            f"{program} is not installed; scripts/install_servers.sh installs it, or "
            f"`apt-get install {package}` (Debian, Ubuntu), `brew install {package}` (macOS)"
        )
    return found[0].resolve()


def as_user() -> list[str]:
    """What to put before a command that refuses to run as root. It keeps its pid."""
    if os.getuid() != 0:
        return []
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups"]


def own(path: Path) -> None:
    """Give a file or folder to the user that the server runs as."""
    if os.getuid() == 0:
        try:
            entry = pwd.getpwnam(USER)
        except KeyError as error:
            raise ServerMissing(f"there is no user {USER}, whom the package brings") from error
        os.chown(path, entry.pw_uid, entry.pw_gid)
