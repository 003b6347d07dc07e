"""``bananas limits``: what limits hold back, and changing them while jobs run."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
import typer

from bananas_core.cli.options import BrokerUrl, Json, ResultBackendUrl, arguments, find_target
from bananas_core.cli.output import Column, Output, count
from bananas_core.cli.queues import who
from bananas_core.cli.run import run
from bananas_core.clock import to_datetime
from bananas_core.errors import ConfigurationError
from bananas_core.limits import Rule, parse_rule
from bananas_core.limits.views import LimitView, look, set_rule
from bananas_core.target import Target, get_app, is_reference

LIMITS: Final = (
    Column("limit"),
    Column("key"),
    Column("rule"),
    Column("used"),
    Column("waiting", rank=1),
    Column("next turn", rank=2),
    Column("changed by", rank=3),
)


def limits(
    args: Annotated[list[str] | None, arguments("[NAME]")] = None,
    new: Annotated[
        str | None,
        typer.Option(
            "--set",
            help="Let limit NAME be this from now on: '200/s burst 20', 1000/day, '5 at once'.",
            metavar="RULE",
        ),
    ] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Let limit NAME be what the code says again.")
    ] = False,
    broker_url: BrokerUrl = None,
    result_backend_url: ResultBackendUrl = None,
    as_json: Json = False,
) -> None:
    """Show limits that are in use, or change one for all workers, within 3 s."""
    changes = new is not None or reset
    given = args or []
    named = changes or len(given) > 1 or (bool(given) and not is_reference(given[0]))
    target, rest = find_target(
        given,
        ["NAME"] if named else [],
        broker_url=broker_url,
        result_backend_url=result_backend_url,
    )
    if new is not None and reset:
        raise typer.BadParameter("give --set or --reset, not both")
    out = Output(json=as_json)
    name = rest[0] if rest else None
    if name is None or not changes:
        run(_show(target, name, out))
    else:
        run(_change(target, name, None if new is None else _rule(new), out))


def _rule(text: str) -> Rule:
    try:
        return parse_rule(text)
    except ConfigurationError as error:
        raise typer.BadParameter(str(error)) from error


async def _show(target: Target, name: str | None, out: Output) -> None:
    async with get_app(target) as app:
        views = await look(app.backend, name)
    for view in views if out.json else ():
        out.line({**msgspec.structs.asdict(view), "next_turn": to_datetime(view.next_turn)})
    if not out.json:
        out.table(count(len(views), "limit"), LIMITS, [_row(view) for view in views])


async def _change(target: Target, name: str, rule: Rule | None, out: Output) -> None:
    async with get_app(target) as app:
        config = await set_rule(app.backend, name, rule, by=who())
    if out.json:
        out.line({"name": name, "rule": config.rule, "by": config.by, "at": to_datetime(config.at)})
    says = "as the code says again" if config.rule is None else config.rule
    out.say(f"limit {name} is {says}")


def _row(view: LimitView) -> tuple[object, ...]:
    return (
        view.name,
        view.key,
        view.rule,
        view.used,
        view.waiters or "",
        to_datetime(view.next_turn),
        view.by or "",
    )
