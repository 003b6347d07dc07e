"""How ``bananas worker`` becomes a supervisor."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec

from bananas_core.settings import Loaded


class SupervisorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``app`` as ``package.module:attribute``; ``flags`` are settings (``settings.py``) that go
    before all others, without those not given. ``sources`` None: each child reads them itself."""

    app: str
    flags: Mapping[str, Any] = {}
    name: str = "worker"
    sources: Loaded | None = None


def become_supervisor(config: SupervisorConfig) -> NoReturn:
    """Replace this program by a supervisor: the process stays, the memory of Typer, pydantic and
    whatever else it has imported doesn't."""
    with tempfile.TemporaryFile() as file:  # not an argument: URLs have passwords in them
        file.write(msgspec.msgpack.encode(config))
        file.seek(0)
        os.set_inheritable(file.fileno(), True)
        shown = ["bananas", "worker", config.app]
        command = [sys.executable, "-m", "bananas_core.supervisor", str(file.fileno())]
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [*command, *shown])
