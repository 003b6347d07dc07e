"""How a child process of a supervisor gets its options."""

from __future__ import annotations

from pathlib import Path

import pytest

from bananas import Bananas
from bananas_core.child import default_keys, effective_settings, probe_key, worker_options
from bananas_core.errors import ConfigurationError
from bananas_core.message import check_name
from bananas_core.processes import resident_memory
from tests.worker.group import Group


def make_app() -> Bananas:
    app = Bananas("sqlite:///jobs.db", concurrency=3, grace=7.0)

    @app.task(routing_key="media")
    async def thumbnail() -> None: ...

    return app


def test_flags_go_before_what_the_app_was_given() -> None:
    settings = effective_settings(make_app(), {"concurrency": 5, "routing_keys": ["a", "b"]})
    options = worker_options(settings, "w", settings.routing_keys)
    assert (options.concurrency, options.grace, options.name) == (5, 7.0, "w")
    assert options.routing_keys == ("a", "b")


@pytest.mark.parametrize("flags", [{"concurrency": 0}, {"pool": "fiber"}, {"colour": "red"}])
def test_an_impossible_flag_is_refused(flags: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(flags))):
        effective_settings(make_app(), flags)


def test_without_a_choice_the_keys_of_the_tasks_are_consumed() -> None:
    assert default_keys(make_app()) == ("default", "media")


def test_the_probes_routing_key_is_valid_on_any_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "höst name:1" + "x" * 200)
    assert check_name("routing_key", probe_key(3)).endswith(".3")


def test_resident_memory_is_in_bytes() -> None:
    assert 5 << 20 < resident_memory() < 4 << 30


def test_a_broker_that_cannot_be_reached_ends_with_3(tmp_path: Path) -> None:
    group = Group(tmp_path, env={"BANANAS_BROKER_URL": f"sqlite:///{tmp_path}"}).launch()
    try:
        assert group.wait(15) == 3
        assert "bananas:" in group.log()
    finally:
        group.kill()
