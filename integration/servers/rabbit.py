"""RabbitMQ."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import urlencode

from integration.servers.base import HOST, Server, ServerFailed, ServerMissing, free_port
from integration.servers.container import Container, image_of, printed
from integration.servers.tls import make_certificates

PROGRAMS: Final = ("/usr/lib/rabbitmq/bin", "/opt/homebrew/opt/rabbitmq/sbin")
"""The programs themselves: those on the PATH may change the user first."""
PROBE: Final = 0.5
GREETING: Final = b"AMQP\x00\x00\x09\x01"
CALL_WITHIN: Final = 10.0
ASK: Final = """
for root in /usr/lib/erlang /usr/local/lib/erlang /opt/erlang/lib/erlang /opt/homebrew/lib/erlang
do
    for program in "$root"/erts-*/bin/erl_call "$root"/lib/erl_interface-*/bin/erl_call; do
        test -x "$program" && exec "$program" -n "$1" -c "$2" -e <"$3"
    done
done
echo 'erl_call is not there; it is a part of Erlang'
exit 1
"""
"""Asks a node, with a cookie, for what is in a file."""


class RabbitServer(Server):
    """RabbitMQ as a node of its own, with its own port mapper, which ends with it.

    Args:
        tls: encrypted connections only, with a certificate for loopback (``ca_file``).
        settings: lines of ``rabbitmq.conf``.
        advanced: terms of ``advanced.config``, for what the other can't say.
    """

    name: ClassVar[str] = "rabbitmq"
    image: ClassVar[str | None] = "rabbitmq:4.1"
    program: ClassVar[str] = "rabbitmq-server"
    ready_within: ClassVar[float] = 60.0
    stop_within: ClassVar[float] = 30.0

    def __init__(
        self,
        *,
        tls: bool = False,
        settings: Mapping[str, str] | None = None,
        advanced: str = "",
        folder: Path | None = None,
        detached: bool = False,
        process: bool = False,
    ) -> None:
        super().__init__(folder=folder, detached=detached, process=process)
        self.tls = tls
        self._settings = dict(settings or {})
        self._advanced = advanced
        self._node_port = self._mapper_port = 0
        if tls:
            make_certificates(self.folder)

    @classmethod
    def find_binary(cls) -> Path:
        found = [Path(folder, "rabbitmq-server") for folder in PROGRAMS]
        binary = next((path for path in found if path.exists()), None)
        if binary is None:
            raise ServerMissing(
                "rabbitmq-server is not installed; scripts/install_servers.sh installs it, or "
                "`apt-get install rabbitmq-server` (Debian, Ubuntu)"
            )
        for program in ("epmd", "setpriv"):
            if shutil.which(program) is None:
                raise ServerMissing(f"RabbitMQ is started with {program}, which is not there")
        return binary

    @classmethod
    def version_line(cls) -> str:
        if cls.usual_form() == "docker" and cls.image is not None:
            return printed(image_of(cls.name, cls.image), ["rabbitmqctl", "version"])
        with tempfile.TemporaryDirectory(prefix="bananas-rabbitmq-") as home:  # for its cookie
            return subprocess.run(
                [cls.find_binary().with_name("rabbitmqctl"), "version"],
                env={**os.environ, "HOME": home},
                capture_output=True,
                text=True,
                check=True,
            ).stdout

    @property
    def url(self) -> str:
        if not self.tls:
            return f"amqp://guest:guest@{HOST}:{self.port}"
        return (
            f"amqps://guest:guest@{HOST}:{self.port}/?{urlencode({'ssl_ca_certs': self.ca_file})}"
        )

    @property
    def ca_file(self) -> Path:
        """The certificate that clients of a ``tls`` server must trust."""
        return self.folder / "ca.crt"

    def command(self) -> Sequence[str | Path]:
        if not self._started_before:
            self._node_port, self._mapper_port = free_port(), free_port()
            (self.folder / "rabbitmq.conf").write_text(self._config())
            (self.folder / "advanced.config").write_text(self._advanced or "[].\n")
            (self.folder / "enabled_plugins").write_text("[].\n")
        if self.form == "docker":
            return [self.binary]  # the mapper ends with the container
        # The mapper is ours, on our port, and is killed when the server ends in whatever way.
        mapper = f"setpriv --pdeathsig KILL epmd -address {HOST} -port {self._mapper_port}"
        return ["sh", "-c", f"{mapper} & exec {shlex.quote(str(self.binary))}"]

    def environment(self) -> dict[str, str]:
        folder = self.folder
        return {
            **os.environ,
            "HOME": str(folder),  # the cookie
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_NODENAME": f"bananas{self._node_port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._node_port),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            # The script becomes the server, so that its pid is the server's.
            "RABBITMQ_ALLOW_INPUT": "true",
            "RABBITMQ_SERVER_START_ARGS": "-noinput",
        }

    def answers(self) -> bool:
        """Listeners are opened when all else is ready."""
        with socket.create_connection((HOST, self.port), timeout=PROBE) as plain:
            if not self.tls:
                return greets(plain)
            context = ssl.create_default_context(cafile=str(self.ca_file))
            with context.wrap_socket(plain, server_hostname=HOST) as wrapped:
                return greets(wrapped)

    def call(self, expression: str) -> str:
        """What the server's own Erlang makes of an expression, as it prints it. ``rabbitmqctl``
        would start a second Erlang for each question, which on a busy machine takes half a minute.

        Raises:
            ServerFailed: it failed.
        """
        asked = self.folder / "expression"
        asked.write_text(f"{expression}.\n")
        cookie = (self.folder / ".erlang.cookie").read_text()
        name = f"bananas{self._node_port}@localhost"
        words = ["sh", "-c", ASK, "ask", name, cookie, str(asked)]
        if isinstance(self._process, Container):
            code, said = self._process.run(*words)
        else:
            done = subprocess.run(
                words,
                env=self.environment(),
                cwd=self.folder,
                capture_output=True,
                text=True,
                timeout=CALL_WITHIN,
            )
            code, said = done.returncode, done.stdout + done.stderr
        answer = said.strip()
        if code or not answer.startswith("{ok, "):
            raise ServerFailed(f"{expression} failed: {answer}")
        return answer[len("{ok, ") : -1]

    def log_tail(self, lines: int = 60) -> str:
        """It says a lot at its end."""
        return super().log_tail(lines)

    def queues(self) -> list[str]:
        """The names of all queues."""
        names = "[binary_to_list(element(4, Q)) || Q <- rabbit_amqqueue:list_names()]"
        return sorted(re.findall(r'"(.*?)"', self.call(names)))

    def allow(self, user: str, vhost: str = "/", configure: str = ".*") -> None:
        """What a user may declare and delete; it may read and write all."""
        words = ", ".join(f'<<"{word}">>' for word in (user, vhost, configure, ".*", ".*", "test"))
        self.call(f"rabbit_auth_backend_internal:set_permissions({words})")

    def add_user(self, user: str, password: str) -> None:
        """One that may do nothing yet."""
        self.call(
            f'rabbit_auth_backend_internal:add_user(<<"{user}">>, <<"{password}">>, <<"test">>)'
        )

    def _config(self) -> str:
        lines = {
            "listeners.tcp.1": f"{self.listen}:{self.port}",
            "log.file": "false",
            "log.console": "true",
            "log.console.level": "warning",
            "raft.wal_max_size_bytes": "64000000",
        }
        if self.form == "docker":
            lines["loopback_users"] = "none"  # its clients come through the engine
        if self.tls:
            del lines["listeners.tcp.1"]
            lines |= {
                "listeners.tcp": "none",
                "listeners.ssl.1": f"{self.listen}:{self.port}",
                "ssl_options.cacertfile": str(self.ca_file),
                "ssl_options.certfile": str(self.folder / "server.crt"),
                "ssl_options.keyfile": str(self.folder / "server.key"),
                "ssl_options.verify": "verify_none",
            }
        return "".join(f"{k} = {v}\n" for k, v in (lines | self._settings).items())

    def _address_in_use(self) -> bool:
        return "eaddrinuse" in self.log_tail() or super()._address_in_use()


def greets(connection: socket.socket) -> bool:
    """Whether what is at the other end begins to speak AMQP."""
    connection.sendall(GREETING)
    return connection.recv(1) == b"\x01"
