"""Payloads and results on their way into and out of the ledger: codecs, then the claim check.

What is over ``INLINE`` bytes when encoded is kept beside the record as documents of at most
``CHUNK`` bytes, written before the job (or its outcome) and pruned with it:

    job/{id}/payload/{digest}/{n}     digest: the first 16 hex digits of the SHA-256
    job/{id}/result/{fence}/{n}

``encoding`` ends with ``claim-check`` then, and the data is a JSON reference
``{"chunks": n, "size": bytes, "sha256": hex}``. The digest in a payload's keys keeps two
submissions with the same id from overwriting each other's bytes.

``Job.result`` is an envelope, one JSON object of either form:

    {"value": <the value>}
    {"encoding": ["gzip", …], "data": "<base64>"}
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from msgspec.structs import replace

from bananas_core.codec import (
    CLAIM_CHECK,
    CodecContext,
    Codecs,
    Encoded,
    from_base64,
    to_base64,
)
from bananas_core.errors import InvalidPayload, PayloadTooLarge
from bananas_core.job import ErrorInfo, Job, OutcomeKind, Write

if TYPE_CHECKING:
    from bananas_core.job import Claim, Outcome
    from bananas_core.message import Body, Message
    from bananas_core.results import ResultBackend

INLINE: Final = 200_000
"""Most bytes that a message or a record carries itself."""
CHUNK: Final = 256 * 1024
TTL: Final = 90 * 86_400.0
"""Seconds that chunks outlive when no record prunes them (a submit or finish that failed).
A job that is still not done this long after its start time loses its large payload."""
MAX_PAYLOAD: Final = 8 << 20
WRITES: Final = 4
"""Chunks in one request: a MiB."""
_HEAD: Final = b'{"value":'


class Stores(Protocol):
    """What of an app is needed here."""

    @property
    def backend(self) -> ResultBackend: ...
    @property
    def codecs(self) -> Codecs: ...
    @property
    def max_payload(self) -> int: ...


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """Where the bytes are, and how to know that they are the right ones."""

    chunks: int
    size: int
    sha256: str


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    encoding: tuple[str, ...] = ()
    data: str = ""


_references = msgspec.json.Decoder(Reference)
_envelopes = msgspec.json.Decoder(_Envelope)


async def encode_payload_value(
    raw: bytes,
    context: CodecContext,
    *,
    codecs: Codecs,
    backend: ResultBackend,
    inline: int = INLINE,
    wait: float = 0.0,
) -> tuple[tuple[str, ...], bytes]:
    """``encoding`` and ``payload`` (JSON) of a message. Large ones are written to the ledger.

    Args:
        inline: most bytes that may stay in the message.
        wait: seconds until the job may start, which its chunks outlive too.

    Raises:
        ResultBackendError: the chunks could not be written; nothing was sent.
    """
    encoded = codecs.encode(raw, context) if codecs else Encoded(encoding=(), data=raw)
    if len(encoded.data) > inline:
        digest = hashlib.sha256(encoded.data).hexdigest()
        prefix = f"job/{context.job_id}/payload/{digest[:16]}/"
        encoded = await _check_in(encoded, prefix, digest, backend, TTL + wait)
    if not encoded.encoding:
        return (), raw
    return encoded.encoding, b'"' + to_base64(encoded.data).encode() + b'"'


async def decode_payload_value(
    payload: bytes,
    encoding: tuple[str, ...],
    context: CodecContext,
    *,
    codecs: Codecs,
    backend: ResultBackend,
    max_size: int = MAX_PAYLOAD,
) -> bytes:
    """The plain JSON of a message's payload.

    Raises:
        InvalidPayload: unknown codec, damaged or missing bytes, or too large.
    """
    if not encoding:
        return payload
    try:
        data = from_base64(msgspec.json.decode(payload, type=str))
    except msgspec.DecodeError as error:
        raise InvalidPayload(f"an encoded payload is a base64 string: {error}") from error
    encoded = Encoded(encoding=encoding, data=data)
    if encoding[-1] == CLAIM_CHECK:
        reference = _reference(data)
        prefix = f"job/{context.job_id}/payload/{reference.sha256[:16]}/"
        encoded = await _check_out(encoded, reference, prefix, backend, max_size)
    return codecs.decode(encoded, context, max_size)


def inline_result(raw: bytes) -> bytes:
    """The envelope of a small result that no codec changes."""
    return _HEAD + raw + b"}"


def is_small(result: bytes) -> bool:
    """Whether a result may stay in the envelope that ``inline_result`` made."""
    return len(result) <= INLINE


async def encode_result_value(
    raw: bytes, context: CodecContext, fence: int, *, codecs: Codecs, backend: ResultBackend
) -> bytes:
    """The envelope for ``Job.result``. Large results are written to the ledger first.

    Raises:
        ResultBackendError: the chunks could not be written.
    """
    encoded = codecs.encode(raw, context) if codecs else Encoded(encoding=(), data=raw)
    if len(encoded.data) > INLINE:
        digest = hashlib.sha256(encoded.data).hexdigest()
        prefix = f"job/{context.job_id}/result/{fence}/"
        encoded = await _check_in(encoded, prefix, digest, backend, TTL)
    if not encoded.encoding:
        return inline_result(raw)
    return msgspec.json.encode({"encoding": encoded.encoding, "data": to_base64(encoded.data)})


async def decode_result_value(
    job: Job, *, codecs: Codecs, backend: ResultBackend, max_size: int = MAX_PAYLOAD
) -> bytes | None:
    """The plain JSON of a job's result; None when none is kept.

    Raises:
        InvalidPayload: unknown codec, damaged or missing bytes.
    """
    if job.result is None:
        return None
    envelope = _open(job.result)
    if not isinstance(envelope.value, msgspec.UnsetType):
        return bytes(envelope.value)
    encoded = Encoded(encoding=envelope.encoding, data=from_base64(envelope.data))
    if encoded.encoding and encoded.encoding[-1] == CLAIM_CHECK:
        prefix = f"job/{job.id}/result/{job.fence}/"
        reference = _reference(encoded.data)
        encoded = await _check_out(encoded, reference, prefix, backend, max_size)
    context = CodecContext(job_id=job.id, name=job.name, kind="result")
    return codecs.decode(encoded, context, max_size)


async def load_payload(app: Stores, claim: Claim, message: Message | Body) -> bytes:
    """The plain JSON arguments of a claimed job, from its decoded message.

    Raises:
        InvalidPayload: they can't be decoded here.
        ResultBackendError: a large payload could not be read.
    """
    if not message.encoding:
        return bytes(message.payload)
    context = CodecContext(job_id=claim.id, name=claim.name, kind="payload")
    return await decode_payload_value(
        bytes(message.payload),
        message.encoding,
        context,
        codecs=app.codecs,
        backend=app.backend,
        max_size=app.max_payload,
    )


async def store_result(app: Stores, claim: Claim, outcome: Outcome) -> Outcome:
    """The outcome with its result, in an envelope of ``inline_result``, as it is kept; a failure
    if it can't be kept.

    Raises:
        ResultBackendError: a large result could not be written.
    """
    if outcome.result is None:
        return outcome
    codecs = app.codecs
    raw = outcome.result[len(_HEAD) : -1]
    try:
        if len(raw) > app.max_payload:
            raise PayloadTooLarge(
                f"a result of {len(raw)} bytes is over max_payload = {app.max_payload}"
            )
        if not codecs and is_small(raw):
            return outcome
        context = CodecContext(job_id=claim.id, name=claim.name, kind="result")
        envelope = await encode_result_value(
            raw, context, claim.fence, codecs=codecs, backend=app.backend
        )
    except InvalidPayload as error:
        info = ErrorInfo(type=type(error).__name__, message=str(error))
        return replace(outcome, kind=OutcomeKind.FAILED, result=None, error=info)
    return replace(outcome, result=envelope)


async def _check_in(
    encoded: Encoded, prefix: str, digest: str, backend: ResultBackend, ttl: float
) -> Encoded:
    """Write the data as chunks; what remains is a reference to them. Safe to repeat."""
    data = encoded.data
    parts = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
    writes = [Write(key=f"{prefix}{n:04d}", value=part, ttl=ttl) for n, part in enumerate(parts)]
    for start in range(0, len(writes), WRITES):
        await backend.cas(writes[start : start + WRITES])
    reference = Reference(chunks=len(parts), size=len(data), sha256=digest)
    return Encoded(encoding=(*encoded.encoding, CLAIM_CHECK), data=msgspec.json.encode(reference))


async def _check_out(
    encoded: Encoded, reference: Reference, prefix: str, backend: ResultBackend, max_size: int
) -> Encoded:
    # What codecs make is at most a little longer than what went in.
    if reference.size > max_size + max_size // 8 + 1024:
        raise InvalidPayload(f"{reference.size} encoded bytes are over what {max_size} can need")
    parts: list[bytes] = []
    after = ""
    while len(parts) < reference.chunks:
        docs = await backend.docs(prefix, after=after, limit=WRITES)
        if not docs:
            break
        parts.extend(doc.value for doc in docs)
        after = docs[-1].key
    data = b"".join(parts[: reference.chunks])
    if len(data) != reference.size or hashlib.sha256(data).hexdigest() != reference.sha256:
        raise InvalidPayload(f"the chunks {prefix}… are missing or damaged")
    return Encoded(encoding=encoded.encoding[:-1], data=data)


def _reference(data: bytes) -> Reference:
    try:
        return _references.decode(data)
    except msgspec.DecodeError as error:
        raise InvalidPayload(f"not a claim-check reference: {error}") from error


def _open(result: bytes) -> _Envelope:
    try:
        return _envelopes.decode(result)
    except msgspec.DecodeError as error:
        raise InvalidPayload(f"the stored result is damaged: {error}") from error


def plain_result(job: Job, codecs: Codecs) -> Any:
    """The value of a result that is kept in the record itself, for listings; None if there is
    none, or it lies in chunks, or it can't be decoded here."""
    if job.result is None:
        return None
    try:
        envelope = _open(job.result)
        if not isinstance(envelope.value, msgspec.UnsetType):
            return msgspec.json.decode(envelope.value)
        if CLAIM_CHECK in envelope.encoding:
            return None
        encoded = Encoded(encoding=envelope.encoding, data=from_base64(envelope.data))
        context = CodecContext(job_id=job.id, name=job.name, kind="result")
        return msgspec.json.decode(codecs.decode(encoded, context, MAX_PAYLOAD))
    except InvalidPayload:
        return None
