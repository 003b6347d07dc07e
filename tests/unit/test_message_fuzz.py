"""Bytes that nobody vouches for: a message or InvalidMessage, nothing else, at little cost."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_wire_format import bytes_of, vectors

from bananas_core.app import Bananas
from bananas_core.clock import SystemClock
from bananas_core.errors import InvalidMessage
from bananas_core.job import JobState, Query
from bananas_core.message import DEFAULT_LIMITS, decode_message, with_fields
from bananas_core.renew import LoopKeeper
from bananas_core.transport import Outgoing
from bananas_core.worker import Worker, WorkerOptions

REASONS = {
    "crit",
    "invalid",
    "not-json",
    "payload",
    "too-deep",
    "too-large",
    "too-many-digits",
    "version",
}
"""A MiB takes milliseconds; anything that grows faster than its length takes minutes."""
MOST_BYTES = 64 * DEFAULT_LIMITS.max_bytes
"""Allocated at most while one message is decoded, whatever it says."""

ANY_STORE_TAKES = 256 * 1024
"""Larger bytes may be kept by the transport only, when a ledger's records can't hold them."""

VALID = json.dumps(
    {
        "v": 1,
        "id": "a1",
        "gen": 2,
        "put": True,
        "name": "shop.order",
        "payload": {"order": "é", "n": [1, 2.5, None, {"x": True}]},
        "priority": 90,
        "retry": {"delay": 1.5},
        "timeout": 30,
        "created_at": "2026-11-24T16:00:00.5Z",
        "run_at": "2026-11-24T17:00:00+02:00",
        "trace": {"traceparent": "00-ab-cd-01"},
        "crit": ["timeout"],
        "x-unknown": [{}],
    },
    ensure_ascii=False,
).encode()

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def try_to_decode(raw: bytes) -> None:
    """Decode; what is accepted must be usable too: its payload is JSON and it can be re-sent."""
    message, reason = None, None
    try:
        message = decode_message(raw)
    except InvalidMessage as error:
        reason = error.reason
    if message is None:
        assert reason in REASONS
        return
    json.loads(bytes(message.payload))
    assert decode_message(with_fields(raw, gen=3)).id == message.id


@given(st.binary(max_size=300))
def test_arbitrary_bytes(raw: bytes) -> None:
    try_to_decode(raw)


@given(st.text(alphabet='{}[]",:\\ \n019.eE+-untrfalsé\u0000', max_size=200))
def test_arbitrary_json_like_text(text: str) -> None:
    try_to_decode(text.encode())


@settings(max_examples=300)
@given(st.data())
def test_valid_messages_with_broken_bytes(data: st.DataObject) -> None:
    raw = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        gone = data.draw(st.integers(0, 8))
        raw[at : at + gone] = data.draw(st.binary(max_size=8))
        if not raw:
            break
    try_to_decode(bytes(raw))


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([*json.loads(VALID), "unique", "workflow", "encoding"]), json_values)
def test_valid_messages_with_a_field_of_another_kind(name: str, value: Any) -> None:
    fields = {**json.loads(VALID), name: value}
    try_to_decode(json.dumps(fields).encode())


HOSTILE = {
    "open strings": b"[" * 65 + b'"' + b'\\"' * 500_000,
    "many strings": b"[" * 65 + b'"a"' * 300_000,
    "backslashes": b"[" * 65 + b'"' + b"\\" * 1_000_000,
    "quotes": b"{" * 65 + b'"' * 1_000_001,
    "brackets": b"[" * 1_048_576,
    "closing brackets": b"]" * 500_000 + b"[" * 500_000,
    "digits in a string": b'{"a":"' + b"1" * 1_000_000 + b'"}',
    "digits": b'{"gen":' + b"9" * 1_000_000 + b"}",
    "long numbers": b"[" + b"9" * 1000 + (b"," + b"9" * 1000) * 1000 + b"]",
    "exponent": b'{"v":1e' + b"9" * 999 + b"}",
    "repeated keys": b'{"v":1' + b',"v":1' * 170_000 + b"}",
    "distinct keys": b"{" + b",".join(b'"%d":0' % i for i in range(90_000)) + b"}",
    "white space": b" " * 1_048_576,
    "over the limit": b"[" * 8_000_000,
}


@pytest.mark.parametrize("raw", [pytest.param(raw, id=name) for name, raw in HOSTILE.items()])
def test_hostile_bytes_cost_little_time_and_memory(raw: bytes) -> None:
    """Time that grows with the square of the length would take hours: the time-out sees it."""
    tracemalloc.start()
    try:
        with pytest.raises(InvalidMessage):
            decode_message(raw)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("form", ["fused", "split"])
async def test_a_worker_quarantines_bad_bytes_and_goes_on(form: str) -> None:
    bad = {bytes_of(v): v["reason"] for v in (case.values[0] for case in vectors("refuse"))}
    app = Bananas(f"memory://{uuid.uuid4().hex}?form={form}")
    ran: list[str] = []

    @app.task(name="t")
    async def record(who: str = "") -> None:
        ran.append(who)

    async with app:
        bad = {raw: reason for raw, reason in bad.items() if len(raw) <= ANY_STORE_TAKES}
        good = json.loads(VALID) | {"name": "t", "payload": {"who": "good"}, "gen": 1, "put": False}
        del good["run_at"]
        bodies = [*bad, json.dumps(good).encode()]
        answers = await app.transport.send([Outgoing(body=body) for body in bodies])
        assert answers == [None] * len(bodies)
        worker = Worker(app, WorkerOptions(), keeper=LoopKeeper(app.backend, SystemClock()))
        running = asyncio.create_task(worker.run())
        try:
            async with asyncio.timeout(20):
                while not ran or await quarantined(app) != bad:
                    assert not running.done()
                    await asyncio.sleep(0.02)
        finally:
            worker.stop()
            await running
    assert ran == ["good"]


async def quarantined(app: Bananas) -> dict[bytes, str]:
    """The raw bytes of quarantined records, with the reason in each one's error."""
    page = await app.backend.query(Query(states=(JobState.QUARANTINED,), limit=1000))
    return {
        job.message: job.error.type.removeprefix("InvalidMessage.")
        for job in page.jobs
        if job.error is not None
    }
