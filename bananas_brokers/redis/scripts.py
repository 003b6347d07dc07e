"""The Lua scripts, and how they are called."""

from __future__ import annotations

import asyncio
import hashlib
import re
from importlib import resources
from typing import Any, Final

from redis import exceptions

from bananas_brokers.redis.wire import Wire

_USES: Final = re.compile(r"^-- USES: (.+)$", re.MULTILINE)


class Script:
    """One file of ``lua/``: its first line, then ``_time.lua``, what it uses, and its text."""

    def __init__(self, name: str) -> None:
        text = _read(name)
        flags, _, body = text.partition("\n")
        uses = _USES.search(text)
        parts = ["_time", *(f"_{part}" for part in (uses[1].split() if uses else ()))]
        self.name = name
        self.text = "\n".join([flags, *(_read(part) for part in parts), body])
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


NAMES: Final = (
    "apply cas cas_new claim create docs due finish forget get_docs inbox load look prune purge "
    "put recall receive renew send settle settle_mail stats sweep"
).split()


class Scripts:
    """All scripts over one wire."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._scripts = {name: script(name) for name in NAMES}

    async def load(self) -> None:
        """Make the server know them, so that the first calls keep their order."""
        await asyncio.gather(
            *(self._wire.call("SCRIPT", "LOAD", s.text) for s in self._scripts.values())
        )

    async def run(self, name: str, keys: tuple[str, ...], *args: Any) -> Any:
        """Run one script. Safe to repeat as far as the script says."""
        if not self._wire.connected:
            await self._wire.connect()
        return await self.answer(self.post(name, keys, *args), name, keys, *args)

    def post(self, name: str, keys: tuple[str, ...], *args: Any) -> asyncio.Future[Any]:
        """Write the call now; await ``answer`` for it. Calls run in the order of posting."""
        return self._wire.post("EVALSHA", self._scripts[name].sha, len(keys), *keys, *args)

    async def answer(
        self, future: asyncio.Future[Any], name: str, keys: tuple[str, ...], *args: Any
    ) -> Any:
        """The answer of a posted call; the script is sent whole if the server forgot it."""
        try:
            return await future
        except exceptions.NoScriptError:
            return await self._wire.call("EVAL", self._scripts[name].text, len(keys), *keys, *args)


def _read(name: str) -> str:
    return resources.files("bananas_brokers.redis").joinpath("lua", f"{name}.lua").read_text()


_cache: dict[str, Script] = {}


def script(name: str) -> Script:
    """One script, read once."""
    if name not in _cache:
        _cache[name] = Script(name)
    return _cache[name]
