"""Encodings of payloads and results: a pipeline of named codecs, like HTTP's Content-Encoding.

``encoding`` lists the codecs in the order they were applied; decoding goes the other way. Codecs
come from plugins. ``claim-check`` is the last entry of the list when the encoded bytes are kept
in the ledger instead (``blobs.py``); it is not a codec.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Final, Literal, Protocol

import msgspec

from bananas_core.errors import ConfigurationError, InvalidPayload

CLAIM_CHECK: Final = "claim-check"


class CodecContext(msgspec.Struct, frozen=True, kw_only=True):
    """What is encoded: whose it is, and whether it is the payload or the result. A codec may
    bind its output to these (as encryption does)."""

    job_id: str
    name: str
    kind: Literal["payload", "result"]


class Codec(Protocol):
    """One encoding. Both methods are pure and may run on any thread."""

    @property
    def name(self) -> str:
        """The word in ``encoding``; never changes its meaning."""
        ...

    def encode(self, data: bytes, context: CodecContext) -> bytes | None:
        """The encoded bytes; None when encoding this is not worth while, so it is left out."""
        ...

    def decode(self, data: bytes, context: CodecContext, max_size: int) -> bytes:
        """The original bytes.

        Raises:
            InvalidPayload: not this codec's bytes, or they would decode to over ``max_size``
                bytes; memory for more than that is never allocated.
        """
        ...


class Encoded(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes and the names of the codecs that were applied, in order."""

    encoding: tuple[str, ...]
    data: bytes


class Codecs:
    """The codecs of one app, in the order in which they are applied."""

    def __init__(self, codecs: Iterable[Codec] = ()) -> None:
        self._codecs: dict[str, Codec] = {}
        for codec in codecs:
            if codec.name in self._codecs or codec.name == CLAIM_CHECK:
                raise ConfigurationError(f"two plugins bring a codec named {codec.name!r}")
            self._codecs[codec.name] = codec

    def __bool__(self) -> bool:
        return bool(self._codecs)

    def encode(self, data: bytes, context: CodecContext) -> Encoded:
        """Apply every codec that wants to."""
        applied: list[str] = []
        for name, codec in self._codecs.items():
            encoded = codec.encode(data, context)
            if encoded is not None:
                data = encoded
                applied.append(name)
        return Encoded(encoding=tuple(applied), data=data)

    def decode(self, encoded: Encoded, context: CodecContext, max_size: int) -> bytes:
        """Undo the codecs.

        Raises:
            InvalidPayload: an unknown codec, damaged bytes, or over ``max_size`` bytes.
        """
        data = encoded.data
        for name in reversed(encoded.encoding):
            codec = self._codecs.get(name)
            if codec is None:
                known = ", ".join(self._codecs) or "none"
                raise InvalidPayload(
                    f"the {context.kind} of job {context.job_id} is encoded with {name!r}, which "
                    f"no plugin here can decode (known: {known})"
                )
            data = codec.decode(data, context, max_size)
        if len(data) > max_size:
            raise InvalidPayload(
                f"the {context.kind} of job {context.job_id} is over {max_size} bytes"
            )
        return data


def to_base64(data: bytes) -> str:
    """The form in which encoded bytes are written into JSON."""
    return base64.b64encode(data).decode("ascii")


def from_base64(text: str) -> bytes:
    """Raises InvalidPayload if ``text`` is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidPayload(f"encoded data is not base64: {error}") from error
