"""Servers for local use: ``python -m integration.servers up | down``.

``up`` starts Redis, Valkey, PostgreSQL and RabbitMQ in the background and prints their URLs;
``down`` ends them by pid and removes their folders. What runs is written down in ``.brokers/`` of
the checkout.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from integration.servers import (
    PostgresServer,
    RabbitServer,
    RedisServer,
    Server,
    ServerFailed,
    ServerMissing,
    ValkeyServer,
)

STATE: Final = Path(__file__).resolve().parents[2] / ".brokers" / "servers.json"
KINDS: Final[tuple[type[RedisServer | PostgresServer | RabbitServer], ...]] = (
    RedisServer,
    ValkeyServer,
    PostgresServer,
    RabbitServer,
)
STOP_WITHIN: Final = 30.0


def main(arguments: list[str]) -> int:
    if arguments not in (["up"], ["down"]):
        print("usage: python -m integration.servers up | down", file=sys.stderr)
        return 2
    return up() if arguments == ["up"] else down()


def up() -> int:
    """Start what doesn't run yet; exit status 1 if one of them can't be started."""
    running = {name: entry for name, entry in read_state().items() if alive(entry)}
    failed = 0
    for kind in KINDS:
        if kind.name not in running:
            try:
                folder = Path(tempfile.mkdtemp(prefix=f"bananas-{kind.name}-"))
                try:
                    server = kind(folder=folder, detached=True).start()
                except BaseException:
                    shutil.rmtree(folder, ignore_errors=True)
                    raise
            except (ServerMissing, ServerFailed) as error:
                print(f"{kind.name}: {error}", file=sys.stderr)
                failed = 1
                continue
            running[kind.name] = describe(server)
            write_state(running)
        print(f"{kind.name:8} {running[kind.name]['url']}")
    if running:
        name = next(iter(running))
        print(f"\nexport BANANAS_BROKER_URL={running[name]['url']}")
        print("stop them: make brokers-down")
    return failed


def down() -> int:
    """End all of them and remove their folders."""
    for name, entry in read_state().items():
        if alive(entry):
            ends = next((kind.stop_signal for kind in KINDS if kind.name == name), signal.SIGTERM)
            os.kill(entry["pid"], ends)
            deadline = time.monotonic() + STOP_WITHIN
            while alive(entry) and time.monotonic() < deadline:
                time.sleep(0.02)
            if alive(entry):
                os.kill(entry["pid"], signal.SIGKILL)
            print(f"{name} stopped")
        shutil.rmtree(entry["folder"], ignore_errors=True)
    shutil.rmtree(STATE.parent, ignore_errors=True)
    return 0


def describe(server: Server) -> dict[str, Any]:
    return {
        "url": server.url,
        "pid": server.pid,
        "born": born(server.pid),
        "folder": str(server.folder),
    }


def alive(entry: dict[str, Any]) -> bool:
    """Whether it is still that very process: a pid may have been given to another one."""
    return entry["born"] is not None and born(entry["pid"]) == entry["born"]


def born(pid: int) -> str | None:
    """When the process started, in a form of the system's; None if it doesn't run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return None if Path("/proc/self").exists() else born_by_ps(pid)
    return None if fields[0] == "Z" else fields[19]


def born_by_ps(pid: int) -> str | None:
    """The same where there is no /proc (macOS)."""
    import subprocess

    asked = ["ps", "-o", "lstart=", "-p", str(pid)]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip() or None


def read_state() -> dict[str, dict[str, Any]]:
    try:
        found: dict[str, dict[str, Any]] = json.loads(STATE.read_text())
    except FileNotFoundError:
        return {}
    return found


def write_state(running: dict[str, dict[str, Any]]) -> None:
    STATE.parent.mkdir(exist_ok=True)
    STATE.write_text(json.dumps(running, indent=2) + "\n")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
