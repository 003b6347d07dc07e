"""Encodings, and what is too large for a message."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import AsyncIterator

import msgspec
import pytest

from bananas_core import blobs
from bananas_core.app import Bananas
from bananas_core.blobs import (
    decode_result_value,
    encode_result_value,
    inline_result,
    load_payload,
)
from bananas_core.codec import CodecContext, Codecs, Encoded, from_base64
from bananas_core.errors import (
    ConfigurationError,
    InvalidPayload,
    JobFailed,
    PayloadTooLarge,
    ResultBackendError,
)
from bananas_core.job import Claim, Job, JobState, Outcome, OutcomeKind, Write
from bananas_core.message import decode_stored
from bananas_core.testing.helpers import drain, memory_app
from bananas_plugins.compression import Compression, Deflate

HERE = CodecContext(job_id="j", name="n", kind="payload")


class Reverse:
    """A codec whose effect can be seen."""

    def __init__(self, name: str = "reverse") -> None:
        self.name = name

    def encode(self, data: bytes, context: CodecContext) -> bytes | None:
        return data[::-1] + self.name.encode()

    def decode(self, data: bytes, context: CodecContext, max_size: int) -> bytes:
        if not data.endswith(self.name.encode()):
            raise InvalidPayload(f"not {self.name}")
        return data[: -len(self.name)][::-1]


@pytest.fixture
async def app() -> AsyncIterator[Bananas]:
    async with memory_app(plugins=[Compression(threshold=100)]) as app:
        yield app


@pytest.fixture
async def plain() -> AsyncIterator[Bananas]:
    async with memory_app() as app:
        yield app


def test_codecs_are_applied_in_order_and_undone_in_reverse() -> None:
    codecs = Codecs([Reverse("a"), Reverse("b")])
    encoded = codecs.encode(b"xyz", HERE)
    assert encoded == Encoded(encoding=("a", "b"), data=b"axyzb")
    assert codecs.decode(encoded, HERE, 100) == b"xyz"
    with pytest.raises(InvalidPayload):
        codecs.decode(Encoded(encoding=("b", "a"), data=encoded.data), HERE, 100)


def test_an_unknown_encoding_is_named() -> None:
    with pytest.raises(InvalidPayload, match="brotli"):
        Codecs([Reverse()]).decode(Encoded(encoding=("brotli",), data=b""), HERE, 100)


def test_two_codecs_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="reverse"):
        Codecs([Reverse(), Reverse()])
    with pytest.raises(ConfigurationError, match="claim-check"):
        Codecs([Reverse("claim-check")])


def test_what_is_not_base64_is_refused() -> None:
    for text in ("a", "ü", "a b="):
        with pytest.raises(InvalidPayload):
            from_base64(text)


@pytest.mark.parametrize("name", ["gzip", "zlib"])
def test_compression_is_undone_and_bounded(name: str) -> None:
    codec = Deflate(name, threshold=10, level=6)
    bomb = b"0" * 10_000_000
    packed = codec.encode(bomb, HERE)
    assert packed is not None
    assert len(packed) < 50_000
    assert codec.decode(packed, HERE, len(bomb)) == bomb
    with pytest.raises(InvalidPayload, match="over 1000 bytes"):
        codec.decode(packed, HERE, 1000)
    with pytest.raises(InvalidPayload, match="cut off"):
        codec.decode(packed[:-9], HERE, len(bomb))
    with pytest.raises(InvalidPayload):
        codec.decode(b"\x00" + packed, HERE, len(bomb))


def test_compression_leaves_what_it_would_not_make_smaller() -> None:
    codec = Deflate("gzip", threshold=10, level=6)
    assert codec.encode(b"short", HERE) is None
    assert codec.encode(os.urandom(1000), HERE) is None


def test_compression_reads_both_and_is_the_standard_format() -> None:
    codecs = Codecs(Compression("zlib", threshold=10).codecs())
    data = b'{"a":"' + b"x" * 500 + b'"}'
    encoded = codecs.encode(data, HERE)
    assert encoded.encoding == ("zlib",)
    assert zlib.decompress(encoded.data) == data
    packed = Encoded(encoding=("gzip",), data=gzip.compress(data))
    assert codecs.decode(packed, HERE, 1000) == data


async def test_a_compressed_payload_and_result_come_back(app: Bananas) -> None:
    @app.task
    async def echo(text: str) -> str:
        return text

    job = await echo.submit("x" * 5000)
    (stored,) = await app.backend.get([job.id])
    assert stored is not None
    message = decode_stored(stored.message)
    assert message.encoding == ("gzip",)
    assert len(stored.message) < 1000
    await drain(app)
    assert await job.result(timeout=5) == "x" * 5000
    (stored,) = await app.backend.get([job.id])
    assert stored is not None
    assert stored.result is not None
    assert json.loads(stored.result)["encoding"] == ["gzip"]
    record = await job.record()
    assert record.payload == {"text": "x" * 5000}
    assert record.result == "x" * 5000


@pytest.mark.parametrize("size", [199_000, 201_000, 800_000])
async def test_large_values_go_to_the_ledger_and_come_back(plain: Bananas, size: int) -> None:
    text = "0123456789" * (size // 10)

    @plain.task
    async def echo(text: str) -> str:
        return text[::-1]

    job = await echo.submit(text)
    (stored,) = await plain.backend.get([job.id])
    assert stored is not None
    checked_in = size > 200_000
    assert decode_stored(stored.message).encoding == (("claim-check",) if checked_in else ())
    assert len(stored.message) < 200_000
    docs = await plain.backend.docs(f"job/{job.id}/payload/")
    assert len(docs) == (-(-(size + 11) // blobs.CHUNK) if checked_in else 0)
    await drain(plain)
    assert await job.result(timeout=5) == text[::-1]
    assert (await job.record()).payload == {"text": text}
    assert bool(await plain.backend.docs(f"job/{job.id}/result/")) is checked_in


async def test_over_max_payload_nothing_is_sent() -> None:
    async with memory_app(max_payload=300_000) as app:

        @app.task
        async def echo(size: int) -> str:
            return "x" * size

        with pytest.raises(PayloadTooLarge):
            await app.submit_job("unknown_here", {"text": "x" * 300_000})
        assert await app.backend.count(["state"]) == []
        job = await echo.submit(300_000)
        await drain(app)
        with pytest.raises(JobFailed) as failed:
            await job.result(timeout=5)
        assert failed.value.error_type == "PayloadTooLarge"


async def test_two_submissions_of_one_id_do_not_mix_their_chunks(plain: Bananas) -> None:
    @plain.task
    async def echo(text: str) -> str:
        return text[:3]

    first = await echo.job("one" * 100_000).options(job_id="same").submit()
    second = await echo.job("two" * 100_000).options(job_id="same").submit()
    assert first == second
    await drain(plain)
    assert await first.result(timeout=5) == "one"


async def test_damaged_chunks_fail_the_job(plain: Bananas) -> None:
    @plain.task(max_attempts=1)
    async def echo(text: str) -> str:
        return text

    job = await echo.submit("x" * 300_000)
    doc = (await plain.backend.docs(f"job/{job.id}/payload/"))[0]
    await plain.backend.cas([Write(key=doc.key, value=b"y" * len(doc.value))])
    await drain(plain)
    with pytest.raises(JobFailed, match="damaged"):
        await job.result(timeout=5)


def claim_of(message: bytes) -> Claim:
    return Claim(
        id="j",
        fence=7,
        gen=1,
        name="n",
        routing_key="default",
        priority=50,
        attempt=1,
        failures=0,
        deaths=0,
        max_attempts=3,
        created_at=0.0,
        at=0.0,
        message=message,
    )


async def test_a_result_envelope_is_either_plain_or_encoded(plain: Bananas) -> None:
    context = CodecContext(job_id="j", name="n", kind="result")
    codecs = Codecs([Reverse()])
    for used in (Codecs(), codecs):
        envelope = await encode_result_value(
            b'{"a":1}', context, 7, codecs=used, backend=plain.backend
        )
        assert set(msgspec.json.decode(envelope)) == ({"encoding", "data"} if used else {"value"})
        job = Job(
            id="j",
            name="n",
            routing_key="default",
            state=JobState.COMPLETED,
            message=b"",
            created_at=0.0,
            changed_at=0.0,
            fence=7,
            result=envelope,
        )
        raw = await decode_result_value(job, codecs=codecs, backend=plain.backend)
        assert raw == b'{"a":1}'


async def test_what_can_not_be_decoded_is_an_invalid_payload(plain: Bananas) -> None:
    start = b'{"v":1,"id":"j","name":"n","created_at":"2026-01-01T00:00:00Z",'
    for rest in (
        b'"payload":"e30=","encoding":["brotli"]}',
        b'"payload":"!","encoding":["claim-check"]}',
        b'"payload":"e30=","encoding":["claim-check"]}',
        b'"payload":7,"encoding":["gzip"]}',
    ):
        claim = claim_of(start + rest)
        with pytest.raises(InvalidPayload):
            await load_payload(plain, claim, decode_stored(claim.message))


async def test_a_result_that_can_not_be_kept_fails_the_job_at_once() -> None:
    async with memory_app(max_payload=2000) as app:
        done = Outcome(
            id="j", fence=7, kind=OutcomeKind.COMPLETED, result=inline_result(b"1" * 2001)
        )
        stored = await blobs.store_result(app, claim_of(b""), done)
        assert stored.kind is OutcomeKind.FAILED
        assert stored.result is None
        assert stored.error is not None
        assert stored.error.type == "PayloadTooLarge"


async def test_nothing_is_sent_when_chunks_can_not_be_written(
    plain: Bananas, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(writes: object) -> None:
        raise ResultBackendError("full")

    monkeypatch.setattr(plain.backend, "cas", refuse)
    with pytest.raises(ResultBackendError, match="full"):
        await plain.submit_job("n", {"text": "x" * 300_000})
    assert await plain.backend.count(["state"]) == []
