"""Where settings come from, and which source goes first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bananas_core.app import Bananas
from bananas_core.errors import ConfigurationError
from bananas_core.settings import Loaded, Settings, overlay
from bananas_core.sources import load_settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.__struct_fields__:
        monkeypatch.delenv(f"BANANAS_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)


def write(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")


def test_defaults() -> None:
    loaded = load_settings({"broker_url": None})
    settings = loaded.settings
    assert settings.broker_url == "sqlite:///.bananas/bananas.db"
    assert (settings.concurrency, settings.processes, settings.grace) == (16, 1, 30.0)
    assert (settings.pool, settings.max_payload) == ("thread", 8 << 20)
    assert set(loaded.sources.values()) == {"default"}


def test_each_source_goes_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        tmp_path,
        '[tool.bananas]\napp = "shop:app"\nconcurrency = 1\nnamespace = "file"\n'
        'broker-url = "memory://file"\ngrace = 5\n',
    )
    monkeypatch.setenv("BANANAS_CONCURRENCY", "2")
    monkeypatch.setenv("BANANAS_NAMESPACE", "environment")
    monkeypatch.setenv("BANANAS_APP", "shop:app")
    loaded = load_settings({"concurrency": 3})
    assert loaded.settings.concurrency == 3
    assert loaded.settings.namespace == "environment"
    assert loaded.settings.broker_url == "memory://file"
    assert loaded.settings.grace == 5
    expected = {
        "concurrency": "argument",
        "namespace": "BANANAS_NAMESPACE",
        "broker_url": "pyproject.toml",
        "pool": "default",
    }
    assert {name: loaded.sources[name] for name in expected} == expected


def test_lists_are_separated_by_commas_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BANANAS_PLUGINS", "job_log, compression")
    assert load_settings({}).settings.plugins == ("job_log", "compression")
    assert load_settings({"routing_keys": ["a", "b"]}).settings.routing_keys == ("a", "b")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"concurrency": 0}, "concurrency.*argument"),
        ({"pool": "fiber"}, "pool"),
        ({"namespace": "a b"}, "namespace"),
        ({"retention_failed": 1}, "retention_failed"),
        ({"speed": 1}, "speed"),
    ],
)
def test_impossible_values_and_unknown_names_are_told(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        load_settings(given)


def test_a_wrong_value_says_where_it_is_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANANAS_GRACE", "long")
    with pytest.raises(ConfigurationError, match=r"grace.*BANANAS_GRACE"):
        load_settings({})
    monkeypatch.delenv("BANANAS_GRACE")
    write(tmp_path, "[tool.bananas]\ngrase = 1\n")
    with pytest.raises(ConfigurationError, match=r"grase.*pyproject"):
        load_settings({})
    write(tmp_path, "[tool")
    with pytest.raises(ConfigurationError, match="pyproject"):
        load_settings({})


def test_no_secret_is_shown() -> None:
    url = "redis://user:hunter2@host:1/0"
    assert "hunter2" not in repr(load_settings({"broker_url": url}).settings)
    assert "hunter2" not in str(load_settings({"broker_url": url}).settings)
    assert "hunter2" not in repr(Bananas(url))


def test_retention_is_the_ledgers() -> None:
    assert load_settings({"retention_failed": 700}).settings.retention.failed == 700


async def test_an_app_says_where_its_settings_are_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BANANAS_BROKER_URL", "memory://from-environment")
    async with Bananas(namespace="mine") as app:
        assert app.settings.broker_url == "memory://from-environment"
        assert app.sources["broker_url"] == "BANANAS_BROKER_URL"
        assert app.sources["namespace"] == "argument"


def test_what_an_app_was_given_goes_before_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANANAS_GRACE", "5")
    monkeypatch.setenv("BANANAS_CONCURRENCY", "6")
    loaded = overlay(load_settings({}), {"concurrency": 7, "namespace": None})
    assert (loaded.settings.grace, loaded.settings.concurrency) == (5.0, 7)
    assert loaded.sources["grace"] == "BANANAS_GRACE"
    assert loaded.sources["concurrency"] == "argument"
    assert loaded.sources["namespace"] == "default"


def test_an_app_takes_settings_that_were_read_elsewhere() -> None:
    app = Bananas("memory://mine", concurrency=2)
    app.use_settings(overlay(Loaded(), {"broker_url": "memory://read", "grace": 1}, "elsewhere"))
    assert (app.settings.broker_url, app.settings.concurrency) == ("memory://mine", 2)
    assert (app.settings.grace, app.sources["grace"]) == (1.0, "elsewhere")
    with pytest.raises(ConfigurationError, match=r"concurrency.*argument"):
        Bananas(concurrency=0).use_settings(Loaded())


@pytest.mark.parametrize("value", ["nan", "long", "-1"])
def test_a_duration_is_a_number(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("BANANAS_GRACE", value)
    with pytest.raises(ConfigurationError, match="grace"):
        load_settings({})
