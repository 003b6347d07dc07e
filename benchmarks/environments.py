"""An environment of its own for each peer, made once and kept in ``.bench/`` of the checkout."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

ROOT: Final = Path(__file__).resolve().parents[1]
CACHE: Final = ROOT / ".bench"
PEERS: Final = ("celery", "dramatiq", "taskiq", "arq", "rq", "huey", "streaq", "saq")
OURS: Final = ("redis", "hiredis", "uvloop", "msgspec")
"""Packages whose versions matter for our own subjects."""
LIST_VERSIONS: Final = (
    "import importlib.metadata as m, json;"
    "print(json.dumps({d.name: d.version for d in m.distributions()}))"
)


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is measured. ``bin``: the folder of its programs."""

    name: str
    module: str
    bin: Path
    settings: str
    reliable: bool | None = None
    """Whether a job survives the death of its worker; None for what is no task queue."""
    versions: dict[str, str]

    def __hash__(self) -> int:
        return hash(self.module)

    @property
    def peer(self) -> bool:
        return self.module.startswith("benchmarks.peers.")


class CannotInstall(RuntimeError):
    """A peer's environment could not be made; says why."""


def our_subjects() -> list[Subject]:
    """The two bare loops and Bananas, from the environment that runs this."""
    bin = Path(sys.executable).parent
    present = {d.name: d.version for d in importlib.metadata.distributions()}
    versions = {name: present[name] for name in OURS if name in present}
    bananas = {"bananas": present["bananas"], **versions}
    return [
        Subject(
            name="simple loop",
            module="benchmarks.subjects.bare",
            bin=bin,
            settings="redis-py, 100 jobs at a time, one batch after another; no task queue",
            versions=versions,
        ),
        Subject(
            name="tight loop",
            module="benchmarks.subjects.tight",
            bin=bin,
            settings="commands packed by hiredis, 4 batches of 100 under way; no task queue",
            versions=versions,
        ),
        Subject(
            name="Bananas",
            module="benchmarks.subjects.ours",
            bin=bin,
            settings="concurrency 100 (default 16); submit_many for bulk",
            reliable=True,
            versions=bananas,
        ),
    ]


def peer(name: str) -> Subject:
    """One peer, installed if it isn't yet.

    Raises:
        CannotInstall: pip failed.
    """
    module = ROOT / "benchmarks" / "peers" / f"{name}.py"
    said = literals(module)
    packages: list[str] = said["PACKAGES"]
    bin = environment(name, packages)
    asked = [str(bin / "python"), "-c", LIST_VERSIONS]
    found = json.loads(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)
    known = {key.lower(): version for key, version in found.items()}
    wanted = [package.partition("[")[0].lower() for package in [*packages, "redis", "coredis"]]
    return Subject(
        name=said["NAME"],
        module=f"benchmarks.peers.{name}",
        bin=bin,
        settings=said["SETTINGS"],
        reliable=said["RELIABLE"],
        versions={name: known[name] for name in wanted if name in known},
    )


def literals(path: Path) -> dict[str, Any]:
    """Module constants in capitals whose values are literals, without importing anything."""
    found = {}
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in ("NAME", "PACKAGES", "SETTINGS", "RELIABLE"):
                found[name] = ast.literal_eval(node.value)
    return found


def environment(name: str, packages: list[str]) -> Path:
    """The folder of the environment's programs; made anew when Python or ``packages`` change."""
    key = hashlib.sha256(json.dumps([sys.version, packages]).encode()).hexdigest()[:12]
    folder = CACHE / "venvs" / f"{name}-{key}"
    bin = folder / "bin"
    if (folder / "complete").exists():
        return bin
    shutil.rmtree(folder, ignore_errors=True)
    pip = [str(bin / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in ([sys.executable, "-m", "venv", str(folder)], [*pip, *packages]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise CannotInstall(f"{name}: {done.stderr.strip()[-500:]}")
    (folder / "complete").touch()
    return bin
