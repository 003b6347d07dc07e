"""``bananas workflow``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from bananas import chain, chord

Cli = Callable[..., Any]


@pytest.fixture
def flow(cli: Cli) -> str:
    """A workflow that is not run yet: a chord, then a step that fails, then one more."""
    import shop  # type: ignore[import-not-found]

    async def submit() -> None:
        async with shop.app:
            header = [shop.add.job(n) for n in range(5)]
            body = shop.add.job(x=1).options(bind=False)
            last = shop.add.job(x=2).options(bind=False)
            bad = shop.fail.job("no [bold]luck[/bold]").options(bind=False)
            await chain(chord(header, body), bad, last).submit(workflow_id="flow-1")

    asyncio.run(submit())
    return "flow-1"


def test_it_is_drawn_with_states_and_errors(cli: Cli, flow: str, work: Callable[[], None]) -> None:
    drawn = cli("workflow", "shop:app", flow, "--most", "2").stdout
    assert "8 waiting" in drawn or "5 pending, 3 waiting" in drawn
    assert "└── … and 3 more" in drawn
    work()
    drawn = cli("workflow", "shop:app", flow).stdout
    assert "flow-1 failed" in drawn
    assert "ValueError: no [bold]luck[/bold]" in drawn
    assert "add[4] completed" in drawn
    assert drawn.rstrip().endswith("add cancelled")


def test_programs_get_one_object_a_node(cli: Cli, flow: str) -> None:
    lines = cli("workflow", "shop:app", flow, "--json").lines
    assert [line["name"] for line in lines[:3]] == ["", "chord", "chord/group"]
    assert {line["task"] for line in lines} == {None, "add", "fail"}
    assert [line["depth"] for line in lines] == [0, 1, 2, 3, 3, 3, 3, 3, 2, 1, 1]


def test_it_is_a_mermaid_graph(cli: Cli, flow: str) -> None:
    text = cli("workflow", "shop:app", flow, "--mermaid").stdout
    assert text.startswith("flowchart TD\n")
    assert 'subgraph n0["chord"]' in text
    assert "n1 --> n7" in text


def test_it_is_cancelled_once(cli: Cli, flow: str) -> None:
    done = cli("workflow", "shop:app", flow, "--cancel", "--reason", "not today")
    assert (done.code, done.stdout) == (0, "workflow flow-1 is cancelled\n")
    assert "8 cancelled" in cli("workflow", "shop:app", flow).stdout
    assert cli("workflow", "shop:app", flow, "--cancel").code == 0


def test_it_is_resumed_and_run_again(cli: Cli, flow: str, work: Callable[[], None]) -> None:
    assert cli("workflow", "shop:app", flow, "--resume").code != 0
    work()
    assert cli("workflow", "shop:app", flow, "--resume").stdout == "workflow flow-1 is processing\n"
    work()
    assert cli("workflow", "shop:app", flow, "--rerun", "chord/add").code == 0
    assert cli("workflow", "shop:app", flow, "--cancel").code == 0
    assert cli("workflow", "shop:app", flow, "--rerun", "nope").code == 4


def test_a_node_is_not_retried_alone(cli: Cli, flow: str, work: Callable[[], None]) -> None:
    work()
    lines = cli("workflow", "shop:app", flow, "--json").lines
    (id,) = [line["id"] for line in lines if line["name"] == "fail"]
    refused = cli("retry", "shop:app", id)
    assert refused.code == 1
    assert "bananas workflow flow-1 --resume" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nobody"], 4),
        (["flow-1", "--resume", "--cancel"], 2),
        (["flow-1", "--reason", "x"], 2),
    ],
)
def test_what_makes_no_sense_is_refused(
    cli: Cli, flow: str, arguments: list[str], code: int
) -> None:
    assert cli("workflow", "shop:app", *arguments).code == code


def test_a_job_is_no_workflow(cli: Cli) -> None:
    id = cli("submit", "shop:app", "add", "--payload", '{"x": 1}').stdout.strip()
    refused = cli("workflow", "shop:app", id)
    assert refused.code == 2
    assert "no workflow" in refused.stderr
