"""The Lua scripts, and how they are called."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any, Final

from hiredis import pack_command

from bananas_brokers.redis.wire import Wire

KeyNames = tuple[str, ...] | tuple[bytes, ...]
Split = tuple[bytes, bytes]
"""A packed call but for what differs each time."""
_SHORT: Final = frozenset(("put_one",))
"""Scripts for one job at a time, where each line of a common beginning counts."""
_USES: Final = re.compile(r"^-- USES: (.+)$", re.MULTILINE)


class Script:
    """One file of ``lua/``: its first line, then ``_now.lua``, mostly ``_time.lua``, what it uses,
    and its text."""

    def __init__(self, name: str) -> None:
        text = _read(name)
        flags, _, body = text.partition("\n")
        uses = _USES.search(text)
        parts = ["_now", *(f"_{part}" for part in (uses[1].split() if uses else ()))]
        if name not in _SHORT:
            parts.insert(1, "_time")
        self.name = name
        self.text = "\n".join([flags, *(_read(part) for part in parts), body])
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest().encode()


NAMES: Final = (
    "apply cas cas_new claim create docs due finish forget get_docs inbox load look mark prune "
    "purge put put_one recall receive renew send settle settle_mail stats sweep"
).split()


class Scripts:
    """All scripts over one wire. ``more``: keys that each names after its own."""

    def __init__(self, wire: Wire, more: tuple[str, ...] = ()) -> None:
        self._wire = wire
        self._more = more
        self._scripts = {name: script(name) for name in NAMES}

    async def load(self) -> None:
        """Make the server know them, so that the first calls keep their order."""
        await asyncio.gather(
            *(self._wire.call("SCRIPT", "LOAD", s.text) for s in self._scripts.values())
        )

    def post(self, name: str, keys: KeyNames, *args: Any) -> asyncio.Future[Any]:
        """Write the call now, while connected. Calls run in the order of posting. Its answer may
        be NoScriptError: then nothing was done, and ``whole`` does it."""
        return self._wire.post(*self.command(name, keys, *args))

    def command(self, name: str, keys: KeyNames, *args: Any) -> tuple[Any, ...]:
        """What ``post`` writes."""
        more = self._more
        return b"EVALSHA", self._scripts[name].sha, len(keys) + len(more), *keys, *more, *args

    def split(self, name: str, keys: KeyNames, args: Sequence[Any], places: int) -> Split:
        """What is the same in each call of a script whose first argument is empty, the last ones
        are ``args``, and ``places`` between them differ."""
        front = self.command(name, keys, b"")
        count = len(front) + places + len(args)
        return b"*%d\r\n%b" % (count, _items(front)), b"\r\n" + _items(args)

    async def whole(self, name: str, keys: KeyNames, *args: Any) -> Any:
        """The same with the script's text, for a server that forgot it."""
        _, _, *rest = self.command(name, keys, *args)
        return await self._wire.call("EVAL", self._scripts[name].text, *rest)


def _items(words: Sequence[Any]) -> bytes:
    """Packed, without how many they are."""
    packed: bytes = pack_command(tuple(words))
    return packed.partition(b"\r\n")[2]


def _read(name: str) -> str:
    return resources.files("bananas_brokers.redis").joinpath("lua", f"{name}.lua").read_text()


_cache: dict[str, Script] = {}


def script(name: str) -> Script:
    """One script, read once."""
    if name not in _cache:
        _cache[name] = Script(name)
    return _cache[name]
