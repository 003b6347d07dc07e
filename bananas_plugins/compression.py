"""Compresses payloads and results with gzip or zlib from the standard library.

Enable it with ``plugins=["compression"]``, ``BANANAS_PLUGINS=compression``, or
``plugins=[Compression(threshold=…)]``. Producers, workers and readers of results need it alike;
all that have it can read both algorithms.
"""

from __future__ import annotations

import gzip
import zlib
from typing import ClassVar, Final, Literal

from bananas_core.codec import Codec, CodecContext
from bananas_core.errors import ConfigurationError, InvalidPayload
from bananas_core.hooks import hookimpl
from bananas_core.plugins import Plugin

THRESHOLD: Final = 4096
"""Bytes under which compressing costs more than it saves."""
_WINDOW: Final = {"gzip": zlib.MAX_WBITS | 16, "zlib": zlib.MAX_WBITS}


class Compression(Plugin):
    """The plugin. ``threshold`` in bytes of JSON; ``level`` from 1 (fast) to 9 (small)."""

    name: ClassVar[str] = "compression"
    on_error: ClassVar[Literal["fail", "log"]] = "fail"

    def __init__(
        self,
        algorithm: Literal["gzip", "zlib"] = "gzip",
        *,
        threshold: int = THRESHOLD,
        level: int = 6,
    ) -> None:
        if algorithm not in _WINDOW:
            raise ConfigurationError(f"compression is gzip or zlib, not {algorithm!r}")
        if not 1 <= level <= 9:
            raise ConfigurationError(f"compression level is 1 to 9, not {level!r}")
        self._codecs = tuple(
            Deflate(name, threshold=threshold if name == algorithm else None, level=level)
            for name in ("gzip", "zlib")
        )

    @hookimpl
    def codecs(self) -> tuple[Codec, ...]:
        """Both algorithms can be read; one of them writes."""
        return self._codecs


class Deflate:
    """One of the two containers of DEFLATE. ``threshold`` None: decodes only."""

    def __init__(self, name: str, *, threshold: int | None, level: int) -> None:
        self._name = name
        self._threshold = threshold
        self._level = level

    @property
    def name(self) -> str:
        """The word in ``encoding``."""
        return self._name

    def encode(self, data: bytes, context: CodecContext) -> bytes | None:
        """None when it is under the threshold, or would not get smaller as base64."""
        if self._threshold is None or len(data) < self._threshold:
            return None
        if self._name == "gzip":
            packed = gzip.compress(data, self._level, mtime=0)
        else:
            packed = zlib.compress(data, self._level)
        return packed if len(packed) * 4 // 3 < len(data) else None

    def decode(self, data: bytes, context: CodecContext, max_size: int) -> bytes:
        """Stops at ``max_size`` bytes, however many the data would become."""
        unpacker = zlib.decompressobj(_WINDOW[self._name])
        try:
            plain = unpacker.decompress(data, max_size + 1)
        except zlib.error as error:
            raise InvalidPayload(f"{context.kind} is not {self._name}: {error}") from error
        if len(plain) > max_size:
            raise InvalidPayload(f"{context.kind} is over {max_size} bytes when decompressed")
        if not unpacker.eof:
            raise InvalidPayload(f"{context.kind} is cut off")
        return plain


def plugin() -> Compression:
    """The plugin with its defaults."""
    return Compression()
