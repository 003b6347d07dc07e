"""Commands on jobs: what they do, their JSON, their exit codes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bananas import Bananas, JobRecord
from bananas_core.job import ErrorInfo, JobPut

Cli = Callable[..., Any]
Work = Callable[[], None]

FIELDS = set(JobRecord.__struct_fields__)


def test_submit_prints_the_id_and_job_shows_it(cli: Cli) -> None:
    sent = cli("submit", "shop:app", "add", "--payload", '{"x": 2}')
    assert sent.code == 0
    job_id = sent.stdout.strip()
    shown = cli("job", "shop:app", job_id)
    assert shown.code == 0
    assert job_id in shown.stdout
    assert '{"x":2}' in shown.stdout


def test_json_has_the_record_s_fields(cli: Cli, work: Work) -> None:
    sent = cli("submit", "shop:app", "add", "--payload", '{"x": 2}', "--json").lines
    assert [set(line) for line in sent] == [FIELDS]
    assert sent[0]["state"] == "pending"
    work()
    (shown,) = cli("job", "shop:app", sent[0]["id"], "--json").lines
    assert set(shown) == FIELDS
    assert (shown["state"], shown["result"], shown["payload"]) == ("completed", 3, {"x": 2})
    assert [entry["outcome"] for entry in shown["timeline"]] == ["completed"]


def test_a_finished_job_s_page_has_result_attempts_and_log(cli: Cli, work: Work) -> None:
    job_id = cli("submit", "shop:app", "add", "--payload", '{"x": 41}').stdout.strip()
    work()
    page = cli("job", "shop:app", job_id).stdout
    for text in ("completed", "42", "attempts", "adding 41"):
        assert text in page


def test_a_failed_job_s_page_has_error_and_traceback(cli: Cli, work: Work) -> None:
    job_id = cli("submit", "shop:app", "fail", "--payload", '{"text": "no luck"}').stdout.strip()
    work()
    shown = cli("job", "shop:app", job_id)
    assert shown.code == 0  # to show it worked
    assert "ValueError: no luck" in shown.stdout
    assert "shop.py" in shown.stdout


def test_submit_needs_no_app_with_a_url(cli: Cli, folder: Path) -> None:
    url = f"sqlite:///{folder}/other.db"
    sent = cli("submit", "resize", "--payload", '{"path": "a"}', "--broker-url", url, "--json")
    assert sent.lines[0]["name"] == "resize"
    assert [j["name"] for j in cli("jobs", "--broker-url", url, "--json").lines] == ["resize"]
    assert cli("jobs", "shop:app", "--json").lines == []


def test_the_app_may_come_from_the_environment(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANANAS_APP", "shop:app")
    assert cli("submit", "add", "--payload", '{"x": 1}').code == 0
    unknown = cli("submit", "subtract")
    assert unknown.code == 4
    assert "add, fail, flaky" in unknown.stderr


def test_the_app_may_come_from_pyproject(cli: Cli, folder: Path) -> None:
    (folder / "pyproject.toml").write_text('[tool.bananas]\napp = "shop:app"\n')
    assert cli("submit", "subtract").code == 4
    assert cli("submit", "add", "--payload", '{"x": 1}').code == 0


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ("{", "not JSON"),
        ("[1]", "JSON object"),
        ('{"z": 1}', "no argument 'z'"),
        ('{"x": "two"}', "x"),
    ],
)
def test_a_bad_payload_is_a_usage_error_and_sends_nothing(
    cli: Cli, payload: str, said: str
) -> None:
    refused = cli("submit", "shop:app", "add", "--payload", payload)
    assert refused.code == 2
    assert said in refused.stderr
    assert cli("jobs", "shop:app", "--json").lines == []


def test_waiting_too_long_exits_5_and_the_job_goes_on(cli: Cli) -> None:
    late = cli(
        "submit", "shop:app", "add", "--payload", '{"x": 1}', "--wait", "--timeout", "0.1", "--json"
    )
    assert late.code == 5
    assert late.lines[0]["state"] == "pending"
    assert late.lines[0]["id"] in late.stderr


def test_timeout_without_wait_is_a_usage_error(cli: Cli) -> None:
    assert cli("submit", "shop:app", "add", "--timeout", "1").code == 2


def test_jobs_filters_by_state_name_and_time(cli: Cli, work: Work) -> None:
    for text in ("a", "b"):
        cli("submit", "shop:app", "fail", "--payload", f'{{"text": "{text}"}}')
    cli("submit", "shop:app", "add", "--payload", '{"x": 1}')
    work()
    cli("submit", "shop:app", "add", "--payload", '{"x": 2}')

    def names(*options: str) -> list[str]:
        return sorted(line["name"] for line in cli("jobs", "shop:app", "--json", *options).lines)

    assert names() == ["add", "add", "fail", "fail"]
    assert names("--state", "failed") == ["fail", "fail"]
    assert names("--state", "failed", "--state", "pending") == ["add", "fail", "fail"]
    assert names("--name", "add", "--state", "completed") == ["add"]
    assert names("--since", "1h") == ["add", "add", "fail", "fail"]
    assert names("--since", "2999-01-01") == []
    assert names("--since", "2000-01-01T00:00:00+02:00", "--limit", "1") == ["add"]
    assert cli("jobs", "shop:app", "--since", "yesterday").code == 2
    assert cli("jobs", "shop:app", "--state", "lost").code == 2
    table = cli("jobs", "shop:app", "--state", "failed").stdout
    assert "2 jobs" in table
    assert "ValueError: a" in table


def test_jobs_goes_over_pages(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bananas_core.cli.jobs.PAGE", 3)

    async def fill() -> None:
        async with Bananas() as app:
            for number in range(8):
                await app.submit_job("add", {"x": number})

    asyncio.run(fill())
    listed = cli("jobs", "--json", "--limit", "7").lines
    assert [line["payload"]["x"] for line in listed] == [7, 6, 5, 4, 3, 2, 1]
    assert len(cli("jobs", "--json", "--limit", "100").lines) == 8


def test_quarantined_bytes_are_shown_escaped(cli: Cli) -> None:
    raw = b"\x1b[31mnot \\ json\xff"
    put = JobPut(
        id="quarantined-1",
        name="",
        message=raw,
        quarantine=ErrorInfo(type="InvalidMessage.not-json", message="\x1b]0;owned\x07"),
    )

    async def fill() -> None:
        async with Bananas() as app:
            await app.backend.put([put])

    asyncio.run(fill())
    (line,) = cli("jobs", "--quarantined", "--json").lines
    assert line["raw"] == r"\x1b[31mnot \x5c json\xff"
    assert set(line) == FIELDS | {"raw"}
    table = cli("jobs", "--quarantined").stdout
    assert r"\x1b[31mnot" in table
    assert "\x1b]0" not in table
    assert "\x1b]0" not in cli("job", "quarantined-1").stdout
    assert cli("jobs", "--quarantined", "--state", "failed").code == 2


def test_cancel_keeps_the_reason_and_is_repeatable(cli: Cli, work: Work) -> None:
    job_id = cli("submit", "shop:app", "add", "--payload", '{"x": 1}').stdout.strip()
    for _ in range(2):
        assert cli("cancel", "shop:app", job_id, "--reason", "typo").code == 0
    (record,) = cli("job", "shop:app", job_id, "--json").lines
    assert record["state"] == "cancelled"
    done = cli("submit", "shop:app", "add", "--payload", '{"x": 1}').stdout.strip()
    work()
    late = cli("cancel", "shop:app", done)
    assert late.code == 1
    assert "completed" in late.stderr


def test_retry_runs_many_jobs_again(cli: Cli, work: Work) -> None:
    ids = [
        cli("submit", "shop:app", "fail", "--payload", f'{{"text": "{n}"}}').stdout.strip()
        for n in range(3)
    ]
    work()
    again = cli("retry", "shop:app", *ids, "--json")
    assert again.code == 0
    assert [(line["id"], line["state"]) for line in again.lines] == [(i, "pending") for i in ids]
    assert cli("retry", ids[0], "--broker-url", f"sqlite:///{Path.cwd()}/jobs.db").code == 1
    missing = cli("retry", "shop:app", ids[0], "no-such-job")
    assert missing.code == 4
    assert "no-such-job" in missing.stderr


@pytest.mark.parametrize("command", ["job", "cancel", "retry"])
def test_an_unknown_job_exits_4_with_one_line(cli: Cli, command: str) -> None:
    refused = cli(command, "shop:app", "no-such-job")
    assert refused.code == 4
    assert refused.stderr.count("\n") == 1
    assert "no-such-job" in refused.stderr
    assert refused.stdout == ""


@pytest.mark.parametrize("command", ["job", "cancel", "retry", "submit", "purge", "pause"])
def test_a_missing_argument_is_a_usage_error(cli: Cli, command: str) -> None:
    assert cli(command, "shop:app").code == 2
    assert cli(command).code == 2


def test_health_probes_are_listed_only_by_their_name(cli: Cli) -> None:
    async def fill() -> None:
        async with Bananas() as app:
            await app.submit_job("bananas.probe", {})
            await app.submit_job("add", {"x": 1}, job_id="mine")

    asyncio.run(fill())
    assert [line["id"] for line in cli("jobs", "--json", "--limit", "1").lines] == ["mine"]
    assert [line["name"] for line in cli("jobs", "--json").lines] == ["add"]
    assert len(cli("jobs", "--json", "--name", "bananas.probe").lines) == 1


def test_a_scheduled_job_says_when_it_is_due(cli: Cli) -> None:
    async def fill() -> None:
        async with Bananas() as app:
            run_at = datetime(2999, 1, 2, 3, 4, 5, tzinfo=UTC)
            await app.submit_job("add", {"x": 1}, run_at=run_at)

    asyncio.run(fill())
    assert "due 2999-01-02 03:04:05Z" in cli("jobs").stdout
