"""Which app a command works on, and what happens when there is none."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from bananas_core.cli.options import find_target, parse_since
from bananas_core.cli.run import ExitCode, exit_code
from bananas_core.errors import (
    BananasError,
    ConfigurationError,
    InvalidPayload,
    JobCancelled,
    JobFailed,
    JobNotFound,
    ResultBackendUnavailable,
    ResultTimeout,
    TransportError,
    TransportUnavailable,
    UnknownTask,
)

Cli = Callable[..., Any]


def _find(*arguments: str, names: tuple[str, ...] = ("ID",), **given: Any) -> tuple[Any, ...]:
    given.setdefault("broker_url", None)
    given.setdefault("result_backend_url", None)
    target, rest = find_target(arguments, names, **given)
    return target.app, rest


def test_the_app_is_told_from_the_other_arguments(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _find("a.b:app", "7") == ("a.b:app", ["7"])
    assert _find("7") == (None, ["7"])
    assert _find("a:app", "1", "2", several=True) == ("a:app", ["1", "2"])
    assert _find("1", "2", several=True) == (None, ["1", "2"])
    assert _find("a:b", "2", several=True, broker_url="memory://x") == (None, ["a:b", "2"])
    monkeypatch.setenv("BANANAS_APP", "env:app")
    assert _find("7") == ("env:app", ["7"])
    assert _find("a:b") == ("env:app", ["a:b"])
    assert _find("a.b:app", "7") == ("a.b:app", ["7"])
    assert _find("7", broker_url="memory://x") == (None, ["7"])


@pytest.mark.parametrize(
    "arguments", [(), ("a:app",), ("a:app", "1", "2"), ("not-an-app", "1")], ids=str
)
def test_impossible_arguments_are_refused(folder: Path, arguments: tuple[str, ...]) -> None:
    with pytest.raises(typer.BadParameter):
        _find(*arguments)


def test_an_app_and_urls_together_are_refused(folder: Path) -> None:
    with pytest.raises(typer.BadParameter, match="not both"):
        _find("a:app", "7", broker_url="memory://x")


@pytest.mark.parametrize(
    ("source", "reference", "said"),
    [
        ("", "absent:app", "no module 'absent'"),
        ("import absent_library\n", "broken:app", "No module named 'absent_library'"),
        ("import absent_library\n", "broken:app", "broken.py:1"),
        ("1 +\n", "broken:app", "SyntaxError"),
        ("raise RuntimeError('at import')\n", "broken:app", "RuntimeError: at import"),
        ("raise SystemExit(0)\n", "broken:app", "SystemExit"),
        ("app = 7\n", "broken:app", "int, not a Bananas app"),
        ("from bananas import Bananas\nmain = Bananas()\n", "broken:app", "broken:main"),
    ],
)
def test_an_app_that_can_t_be_imported_exits_2_with_the_cause(
    cli: Cli, folder: Path, source: str, reference: str, said: str
) -> None:
    (folder / "broken.py").write_text(source)
    refused = cli("jobs", reference)
    assert refused.code == 2
    assert said in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert "Traceback" not in refused.stderr


def test_a_broker_that_can_t_be_reached_exits_3(cli: Cli, folder: Path) -> None:
    (folder / "taken.db").mkdir()
    for command in (["jobs"], ["queues"], ["workers"], ["submit", "add"], ["doctor"]):
        refused = cli(*command, "--broker-url", f"sqlite:///{folder}/taken.db")
        assert refused.code == 3, command
        assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("url", ["nonsense", "carrier-pigeon://x", "amqp://localhost"])
def test_an_impossible_url_exits_2(cli: Cli, url: str) -> None:
    refused = cli("jobs", "--broker-url", url)
    assert refused.code == 2
    assert refused.stderr.count("\n") == 1


def test_a_password_is_not_printed(cli: Cli) -> None:
    refused = cli("jobs", "--broker-url", "carrier-pigeon://me:s3cret@x")
    assert refused.code == 2
    assert "s3cret" not in refused.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (JobFailed("ValueError", "x"), ExitCode.JOB_FAILED),
        (JobCancelled(), ExitCode.JOB_FAILED),
        (ConfigurationError(), ExitCode.USAGE),
        (InvalidPayload(), ExitCode.USAGE),
        (TransportUnavailable(), ExitCode.UNAVAILABLE),
        (ResultBackendUnavailable(), ExitCode.UNAVAILABLE),
        (TransportError(), ExitCode.UNAVAILABLE),
        (JobNotFound(), ExitCode.NOT_FOUND),
        (UnknownTask(), ExitCode.NOT_FOUND),
        (ResultTimeout(), ExitCode.TIMEOUT),
    ],
)
def test_each_error_has_its_exit_code(error: BananasError, code: ExitCode) -> None:
    assert exit_code(error) is code


@pytest.mark.parametrize(
    ("text", "ago"), [("90s", 90), ("15m", 900), ("1.5h", 5400), ("2d", 172_800), ("1w", 604_800)]
)
def test_since_takes_spans(text: str, ago: float) -> None:
    now = time.time()
    assert parse_since(text, now) == now - ago


def test_since_takes_iso_times_in_utc_unless_said_otherwise() -> None:
    assert parse_since("1970-01-02", 0) == 86_400
    assert parse_since("1970-01-01T02:00:00+01:00", 0) == 3_600
    assert parse_since("1970-01-01T01:00:00Z", 0) == 3_600
