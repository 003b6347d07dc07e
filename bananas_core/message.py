"""The message: one JSON object, version 1, that any program can write and read.

The spec in words is ``docs/reference/wire-format.md``; golden vectors are in ``tests/golden/``.
A message carries everything that a job needs; no transport header carries meaning.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Final

import msgspec

from bananas_core.errors import InvalidMessage, InvalidPayload, PayloadTooLarge

VERSION: Final = 1

JobId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._:~-]{1,128}\Z")]
TaskName = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x20\x7f]{1,256}\Z")]
RoutingKey = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,128}\Z")]
Instant = Annotated[datetime, msgspec.Meta(tz=True)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
_NotNegative = Annotated[float, msgspec.Meta(ge=0)]

_PATTERNS = {
    "job_id": (re.compile(r"^[A-Za-z0-9._:~-]{1,128}\Z"), "1-128 of A-Z a-z 0-9 . _ : ~ -"),
    "name": (re.compile(r"^[^\x00-\x20\x7f]{1,256}\Z"), "1-256 characters without white space"),
    "routing_key": (re.compile(r"^[A-Za-z0-9._-]{1,128}\Z"), "1-128 of A-Z a-z 0-9 . _ -"),
}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What is checked before anything is parsed."""

    max_bytes: int = 1 << 20
    """Largest message accepted from a transport, in bytes."""
    max_depth: int = 64
    """Deepest nesting of arrays and objects."""
    max_digits: int = 1000
    """Most digits in one number."""


DEFAULT_LIMITS: Final = Limits()


class Backoff(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How long to wait before the next attempt, in seconds.

    Attempt n + 1 starts ``delay * factor ** (n - 1)`` after the n-th failure, at most
    ``max_delay``, of which the share ``jitter`` is random. ``max_age``: no new attempt later
    than this after the job was created.
    """

    delay: _NotNegative = 1.0
    factor: Annotated[float, msgspec.Meta(ge=1)] = 2.0
    max_delay: _NotNegative = 3600.0
    jitter: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.2
    max_age: Positive | None = None


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fields of the wire format. Fields that this version doesn't know are ignored on
    reading and kept when the stored bytes are sent again."""

    v: int
    id: JobId
    name: TaskName
    payload: msgspec.Raw
    """A JSON object of named arguments; a base64 JSON string when ``encoding`` is not empty."""
    created_at: Instant
    gen: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)] = 1
    put: bool = False
    routing_key: RoutingKey = "default"
    priority: Annotated[int, msgspec.Meta(ge=0, le=100)] = 50
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 3
    retry: Backoff | None = None
    timeout: Positive | None = None
    queue_timeout: Positive | None = None
    run_at: Instant | None = None
    expires_at: Instant | None = None
    unique: str | None = None
    key: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    trace: dict[str, str] | None = None
    workflow: dict[str, Any] | None = None
    callbacks: list[Any] | None = None
    meta: dict[str, Any] | None = None
    encoding: tuple[str, ...] = ()
    crit: tuple[str, ...] = ()


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that a run needs of stored bytes; the ledger vouches for them."""

    payload: msgspec.Raw
    timeout: float | None = None
    workflow: dict[str, Any] | None = None
    encoding: tuple[str, ...] = ()


FIELDS: Final = frozenset(Message.__struct_fields__)


class _Versioned(msgspec.Struct):
    v: int


_decoder = msgspec.json.Decoder(Message)
decode_body = msgspec.json.Decoder(Body).decode
"""Stored bytes to what a run needs of them, at a seventh of the cost of ``decode_stored``."""
_version = msgspec.json.Decoder(_Versioned)
_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder()
# Possessive and closing at the end of input too, so that a crafted message costs linear time.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


def check_name(kind: str, value: str) -> str:
    """``value`` if it is a valid ``job_id``, task ``name`` or ``routing_key``.

    Raises:
        InvalidPayload: it is not; the text says what is allowed.
    """
    pattern, allowed = _PATTERNS[kind]
    if not pattern.match(value):
        raise InvalidPayload(f"{kind} {value!r:.80} is not valid: {allowed}")
    return value


def encode_message(message: Message) -> bytes:
    """The bytes of a new message."""
    return _encoder.encode(message)


@lru_cache(maxsize=2)
def _second(second: int) -> bytes:
    return _encoder.encode(datetime.fromtimestamp(second, UTC))[:-2]


def encode_instant(now: float) -> bytes:
    """Unix seconds as a message has them: a JSON string."""
    second, micros = divmod(round(now * 1_000_000), 1_000_000)
    return b'%b.%06dZ"' % (_second(second), micros)


def decode_message(raw: bytes, limits: Limits = DEFAULT_LIMITS) -> Message:
    """Parse bytes from a transport that nobody vouches for.

    Raises:
        InvalidMessage: too large, too deep, too many digits, not JSON, not UTF-8, another
            version, an invalid field, or a ``crit`` name that this version doesn't know.
    """
    check_shape(raw, limits)
    try:
        if not raw.isascii():
            raw.decode()  # msgspec.Raw parts are not checked for UTF-8
        message = _decoder.decode(raw)
    except msgspec.ValidationError as error:
        _check_version(raw)  # a later version's fields may well have other types
        raise InvalidMessage("invalid", _describe(raw, error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidMessage("not-json", f"message is not JSON in UTF-8: {error}") from error
    except (RecursionError, ValueError, OverflowError) as error:
        raise InvalidMessage("invalid", f"message can't be parsed: {error}") from error
    if message.v != VERSION:
        raise _other_version(message.v)
    unknown = [name for name in message.crit if name not in FIELDS]
    if unknown:
        raise InvalidMessage("crit", f"message needs unknown fields {unknown}; upgrade the worker")
    first = bytes(message.payload)[:1]
    if first != (b'"' if message.encoding else b"{"):
        raise InvalidMessage("payload", "payload must be a JSON object, or a string when encoded")
    return message


def decode_stored(raw: bytes) -> Message:
    """Parse bytes that the ledger vouches for (they were checked when they were put)."""
    return _decoder.decode(raw)


def check_shape(raw: bytes, limits: Limits = DEFAULT_LIMITS) -> None:
    """Refuse bytes that would be costly to parse, in time linear in their length.

    Raises:
        InvalidMessage: ``too-large``, ``too-deep`` or ``too-many-digits``.
    """
    if len(raw) > limits.max_bytes:
        raise InvalidMessage("too-large", f"{len(raw)} bytes are over {limits.max_bytes}")
    deep = raw.count(b"[") + raw.count(b"{") > limits.max_depth
    many = _digits(limits.max_digits).search(raw) is not None
    if not (deep or many):
        return
    bare = _STRING.sub(b'""', raw)
    if many and _digits(limits.max_digits).search(bare):
        raise InvalidMessage("too-many-digits", f"a number has over {limits.max_digits} digits")
    if deep and _depth(bare, limits.max_depth) > limits.max_depth:
        raise InvalidMessage("too-deep", f"nested deeper than {limits.max_depth}")


def with_fields(raw: bytes, **changes: Any) -> bytes:
    """Stored bytes with some top-level fields changed and all others, known or not, untouched.

    Used only for ``gen``, ``put``, ``priority``, ``run_at`` and ``routing_key``. A value of None
    removes the field.
    """
    fields: dict[str, Any] = _raw_fields.decode(raw)
    for name, value in changes.items():
        if value is None:
            fields.pop(name, None)
        elif isinstance(value, float):
            fields[name] = datetime.fromtimestamp(value, UTC)
        else:
            fields[name] = value
    return _encoder.encode(fields)


def encode_payload(arguments: object, *, max_bytes: int = 8 << 20) -> bytes:
    """Named arguments (or a result) as JSON.

    Raises:
        InvalidPayload: a value has no JSON form, or is NaN or infinite.
        PayloadTooLarge: over ``max_bytes``.
    """
    try:
        raw = _encoder.encode(arguments)
    except (TypeError, OverflowError, ValueError, RecursionError) as error:
        raise InvalidPayload(f"can't be encoded as JSON: {error}") from error
    if b"null" in raw and _has_nan(arguments):
        raise InvalidPayload("NaN and infinity have no JSON form; send None or a string instead")
    if len(raw) > max_bytes:
        raise PayloadTooLarge(f"{len(raw)} bytes are over max_payload = {max_bytes}")
    return raw


def encode_if_simple(arguments: object) -> bytes | None:
    """The same JSON as ``encode_payload`` if nothing about it needs a closer look, else None."""
    if arguments is None:
        return b"null"
    try:
        raw = _encoder.encode(arguments)
    except (TypeError, OverflowError, ValueError, RecursionError):
        return None
    return None if b"null" in raw else raw


def _has_nan(value: object) -> bool:
    """Whether a non-finite float hides anywhere in a value that msgspec could encode."""
    stack = [msgspec.to_builtins(value, builtin_types=(datetime, bytes))]
    while stack:
        item = stack.pop()
        if isinstance(item, float):
            if item != item or item in (float("inf"), float("-inf")):
                return True
        elif isinstance(item, dict):
            stack.extend(item.values())
            stack.extend(item.keys())
        elif isinstance(item, (list, tuple, set, frozenset)):
            stack.extend(item)
    return False


def _digits(limit: int, cache: dict[int, re.Pattern[bytes]] = {}) -> re.Pattern[bytes]:  # noqa: B006
    if limit not in cache:
        cache[limit] = re.compile(rb"[0-9]{%d}" % (limit + 1))
    return cache[limit]


def _depth(bare: bytes, stop: int) -> int:
    depth = deepest = 0
    for bracket in re.finditer(rb"[\[\]{}]", bare):
        if bracket.group() in b"[{":
            depth += 1
            if depth > deepest:
                deepest = depth
                if deepest > stop:
                    break
        else:
            depth -= 1
    return deepest


def _check_version(raw: bytes) -> None:
    """Raises InvalidMessage if it says that it is of another version."""
    try:
        found = _version.decode(raw).v
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return
    if found != VERSION:
        raise _other_version(found)


def _other_version(found: int) -> InvalidMessage:
    return InvalidMessage(
        "version", f"message version {found} is not {VERSION}; upgrade the worker"
    )


def _describe(raw: bytes, error: msgspec.ValidationError) -> str:
    return f"message is not valid: {error}; it starts with {raw[:40]!r}"
