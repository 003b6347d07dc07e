"""Message version 1: the golden vectors, the JSON Schema and the code say the same."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest

from bananas_core.errors import InvalidMessage
from bananas_core.message import (
    FIELDS,
    Message,
    decode_message,
    decode_stored,
    encode_message,
    with_fields,
)

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
SCHEMA = json.loads((ROOT / "docs" / "reference" / "message.schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

Vector = dict[str, Any]
RAW_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def vectors(kind: str) -> list[Any]:
    found = json.loads((GOLDEN / f"{kind}.json").read_text("utf-8"))["vectors"]
    names = [vector["name"] for vector in found]
    assert len(set(names)) == len(names)
    return [pytest.param(vector, id=vector["name"]) for vector in found]


def bytes_of(vector: Vector) -> bytes:
    if "hex" in vector:
        return bytes.fromhex(vector["hex"])
    if "rule" in vector:
        rule = vector["rule"]
        middle = rule["repeat"] * rule["times"] + rule.get("then", "") * rule["times"]
        return f"{rule['before']}{middle}{rule['after']}".encode()
    text: str = vector["text"]
    return text.encode()


def plain(message: Message) -> dict[str, Any]:
    """A message's fields as the vectors write them; instants in UTC."""
    fields = {name: getattr(message, name) for name in FIELDS - {"payload"}}
    for name, value in fields.items():
        if isinstance(value, datetime):
            fields[name] = value.astimezone(UTC)
    values: dict[str, Any] = json.loads(msgspec.json.encode(fields))
    if message.retry is not None:
        values["retry"] = {
            name: getattr(message.retry, name) for name in message.retry.__struct_fields__
        }
    return values


@pytest.mark.parametrize("vector", vectors("accept"))
def test_accepted_with_these_values(vector: Vector) -> None:
    message = decode_message(bytes_of(vector))
    found = plain(message)
    for name, value in vector.get("fields", {}).items():
        expected = value
        if name == "retry" and value is not None:
            expected = {"max_age": None, **value}
        assert found[name] == expected, name
    payload = json.loads(bytes(message.payload))
    if "payload" in vector:
        assert payload == vector["payload"]
    for name, digits in vector.get("exact", {}).items():
        assert str(payload[name]) == digits


@pytest.mark.parametrize("vector", vectors("accept"))
def test_accepted_messages_match_the_schema(vector: Vector) -> None:
    VALIDATOR.validate(json.loads(bytes_of(vector)))


@pytest.mark.parametrize("vector", vectors("accept"))
def test_sending_again_keeps_all_other_fields_byte_for_byte(vector: Vector) -> None:
    raw = bytes_of(vector)
    sent = with_fields(raw, gen=7, priority=95, put=True)
    before, after = RAW_FIELDS.decode(raw), RAW_FIELDS.decode(sent)
    changed = {"gen", "priority", "put"}
    kept = {name: bytes(value) for name, value in before.items() if name not in changed}
    assert {n: bytes(v) for n, v in after.items() if n not in changed} == kept
    for name, text in vector.get("keeps", {}).items():
        assert bytes(after[name]).decode() == text
    message = decode_message(sent)
    assert (message.gen, message.priority, message.put) == (7, 95, True)


@pytest.mark.parametrize("vector", vectors("accept"))
def test_encoding_a_decoded_message_changes_no_value(vector: Vector) -> None:
    message = decode_message(bytes_of(vector))
    again = decode_message(encode_message(message))
    assert plain(again) == plain(message)
    assert bytes(again.payload) == bytes(message.payload)
    assert plain(decode_stored(bytes_of(vector))) == plain(message)


@pytest.mark.parametrize("vector", vectors("refuse"))
def test_refused_for_this_reason(vector: Vector) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode_message(bytes_of(vector))
    assert caught.value.reason == vector["reason"]
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("vector", vectors("refuse"))
def test_the_schema_refuses_what_a_schema_can_see(vector: Vector) -> None:
    if vector["reason"] not in ("invalid", "version", "crit", "payload"):
        assert "schema_accepts" not in vector
        return
    accepted = VALIDATOR.is_valid(json.loads(bytes_of(vector)))
    assert accepted == vector.get("schema_accepts", False)


def test_the_schema_names_every_field_and_no_other() -> None:
    assert set(SCHEMA["properties"]) == FIELDS
    assert set(SCHEMA["properties"]["crit"]["items"]["enum"]) == FIELDS


def test_the_schema_states_the_defaults_of_the_code() -> None:
    for field in msgspec.structs.fields(Message):
        stated = SCHEMA["properties"][field.name].get("default", msgspec.NODEFAULT)
        if field.name in SCHEMA["required"]:
            assert field.default is msgspec.NODEFAULT
        elif field.default is None:
            assert stated is msgspec.NODEFAULT
        else:
            assert json.loads(msgspec.json.encode(field.default)) == stated


def test_the_schema_is_itself_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_spec_names_every_field_and_reason() -> None:
    text = (ROOT / "docs" / "reference" / "wire-format.md").read_text("utf-8")
    for name in FIELDS:
        assert f"| `{name}` |" in text, name
    reasons = {vector.values[0]["reason"] for vector in vectors("refuse")}
    for reason in reasons:
        assert f"| `{reason}` |" in text, reason


def test_the_specs_example_is_a_message() -> None:
    text = (ROOT / "docs" / "reference" / "wire-format.md").read_text("utf-8")
    example = text.partition("```json\n")[2].partition("\n```")[0].encode()
    VALIDATOR.validate(json.loads(example))
    assert encode_message(decode_message(example)) == example


def test_changing_run_at_writes_an_instant_and_none_removes_it() -> None:
    raw = b'{"v":1,"id":"a","name":"t","payload":{},"created_at":"2026-11-24T16:00:00Z"}'
    moved = with_fields(raw, run_at=1_764_000_000.5)
    assert decode_message(moved).run_at == datetime(2025, 11, 24, 16, 0, 0, 500_000, tzinfo=UTC)
    assert with_fields(moved, run_at=None) == raw
