"""What the doctor tells, and what it keeps to itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bananas_core.cli.doctor import durability_of, weaker_of
from bananas_core.pair import Pair, load_pair

Cli = Callable[..., Any]


def _found(ran: Any) -> dict[tuple[str, str], dict[str, Any]]:
    return {(line["topic"], line["name"]): line for line in ran.lines}


def test_each_setting_has_its_source(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "pyproject.toml").write_text("[tool.bananas]\nconcurrency = 3\n")
    monkeypatch.setenv("BANANAS_GRACE", "7")
    seen = _found(cli("doctor", "shop:app", "--json"))

    def setting(name: str) -> tuple[Any, str]:
        line = seen["settings", name]
        return line["value"], line["source"]

    assert setting("concurrency") == (3, "pyproject.toml")
    assert setting("grace") == (7.0, "BANANAS_GRACE")
    assert setting("processes") == (1, "default")
    assert setting("broker_url")[1] == "BANANAS_BROKER_URL"
    by_flag = _found(cli("doctor", "--broker-url", f"sqlite:///{folder}/x.db", "--json"))
    assert by_flag["settings", "broker_url"]["source"] == "argument"


def test_drivers_durability_versions_and_entry_points(cli: Cli) -> None:
    ran = cli("doctor", "--json")
    assert ran.code == 0
    seen = _found(ran)
    assert seen["transport", "driver"]["value"] == "SQLiteTransport"
    assert seen["result backend", "driver"]["value"] == "SQLiteResultBackend"
    assert seen["pair", "durability"]["value"] == "disk"
    assert seen["versions", "msgspec"]["value"]
    assert "SQLite" in seen["bananas.transports", "sqlite"]["value"]
    table = cli("doctor").stdout
    for text in ("settings", "versions", "durability", "BANANAS_BROKER_URL"):
        assert text in table


def test_the_rest_is_told_when_the_broker_is_away(cli: Cli, folder: Path) -> None:
    (folder / "taken.db").mkdir()
    ran = cli("doctor", "--broker-url", f"sqlite:///{folder}/taken.db", "--json")
    assert ran.code == 3
    assert ("versions", "python") in _found(ran)


def test_a_wrong_setting_exits_2(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANANAS_CONCURRENCY", "many")
    refused = cli("doctor")
    assert refused.code == 2
    assert "BANANAS_CONCURRENCY" in refused.stderr


def test_passwords_are_left_out(cli: Cli) -> None:
    ran = cli("doctor", "--broker-url", "carrier-pigeon://me:s3cret@x")
    assert ran.code == 2
    assert "carrier-pigeon://me:***@x" in ran.stdout
    assert "s3cret" not in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("one", "other", "weaker"),
    [
        ("disk", "disk", "disk"),
        ("disk", "memory", "memory"),
        ("replicated", "disk", "disk"),
        ("disk", "paper", "paper"),
    ],
)
def test_the_weaker_durability_names_the_pair(one: str, other: str, weaker: str) -> None:
    assert weaker_of(one, other) == weaker_of(other, one) == weaker


def test_memory_is_warned_of_and_drivers_warnings_are_passed_on() -> None:
    pair = load_pair("memory://doctor", None, "test")

    class Careful:
        capabilities = pair.backend.capabilities

        def warnings(self) -> list[str]:
            return ["mind the gap"]

    patched = Pair(pair.transport, pair.backend)
    patched.backend = Careful()  # type: ignore[assignment]
    texts = [f.value for f in durability_of(patched) if f.topic == "warnings"]
    assert any("lost" in text for text in texts)
    assert "mind the gap" in texts
