"""``bananas doctor``: what is set and from where, what the drivers can do, what to look out for."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from bananas_core.cli.options import BrokerUrl, Json, ResultBackendUrl, arguments, find_target
from bananas_core.cli.output import Column, Output
from bananas_core.cli.run import run
from bananas_core.pair import installed
from bananas_core.target import Target, get_app
from bananas_core.urls import redact

if TYPE_CHECKING:
    from bananas_core.app import Bananas
    from bananas_core.pair import Pair

DURABILITY: Final = ("memory", "disk", "replicated")
"""From the weakest on: what survives nothing, a restart, the loss of a machine."""
PACKAGES: Final = ("bananas", "msgspec", "pluggy", "pydantic-settings", "typer", "rich", "uvloop")
GROUPS: Final = ("bananas.transports", "bananas.result_backends", "bananas.plugins")


COLUMNS: Final = (Column("name"), Column("value", fold=True), Column("from", fold=True))


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the doctor saw. ``source``: where it comes from, if that can differ."""

    topic: str
    name: str
    value: Any
    source: str | None = None


def doctor(
    args: Annotated[list[str] | None, arguments("")] = None,
    broker_url: BrokerUrl = None,
    result_backend_url: ResultBackendUrl = None,
    as_json: Json = False,
) -> None:
    """Show settings and their sources, what the drivers can do, durability and versions."""
    target, _ = find_target(
        args or [], [], broker_url=broker_url, result_backend_url=result_backend_url
    )
    run(_doctor(target, Output(json=as_json)))


async def _doctor(target: Target, out: Output) -> None:
    app = get_app(target)
    show(out, [*settings_of(app), *versions(), *entry_points_of()])
    # What needs the broker goes last, so that the rest is seen when it can't be reached.
    async with app:
        assert app.pair is not None
        for driver in (app.pair.transport, app.pair.backend):
            examine = getattr(driver, "examine", None)  # optional: asks the server for `warnings`
            if examine is not None:
                await examine()
        show(out, [*plugins_of(app), *capabilities_of(app.pair), *durability_of(app.pair)])


def show(out: Output, findings: list[Finding]) -> None:
    """Lines of JSON, or a table for each topic."""
    if out.json:
        for finding in findings:
            out.line(finding)
        return
    for topic in dict.fromkeys(finding.topic for finding in findings):
        rows = [f for f in findings if f.topic == topic]
        sourced = any(f.source is not None for f in rows)
        columns = COLUMNS if sourced else COLUMNS[:2]
        out.table(topic, columns, ((f.name, f.value, f.source)[: len(columns)] for f in rows))
        out.say("")


def settings_of(app: Bananas) -> Iterable[Finding]:
    """All settings, secrets left out. Raises ConfigurationError if one of them is not valid."""
    settings, sources = app.settings, app.sources
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if isinstance(value, str) and "://" in value:
            value = redact(value)
        if isinstance(value, tuple):
            value = ", ".join(value)
        yield Finding(topic="settings", name=name, value=value, source=sources[name])


def versions() -> Iterable[Finding]:
    """Python and the packages that matter; None for what isn't installed."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    yield Finding(topic="versions", name="python", value=python)
    yield Finding(topic="versions", name="system", value=platform.platform())
    for package in PACKAGES:
        try:
            found: str | None = version(package)
        except PackageNotFoundError:
            found = None
        yield Finding(topic="versions", name=package, value=found)


def entry_points_of() -> Iterable[Finding]:
    """Drivers and plugins that are installed."""
    for group in GROUPS:
        for name, point in sorted(installed(group).items()):
            package = "" if point.dist is None else f"{point.dist.name} {point.dist.version}"
            yield Finding(topic=group, name=name, value=point.value, source=package)


def plugins_of(app: Bananas) -> Iterable[Finding]:
    """Plugins that this app uses."""
    for name in app.plugins.names:
        yield Finding(topic="plugins in use", name=name, value="on")


def capabilities_of(pair: Pair) -> Iterable[Finding]:
    """What both drivers say of themselves."""
    sides = (("transport", pair.transport), ("result backend", pair.backend))
    for side, driver in sides:
        yield Finding(topic=side, name="driver", value=type(driver).__name__)
        for name in driver.capabilities.__struct_fields__:
            value = getattr(driver.capabilities, name)
            if isinstance(value, tuple):
                value = ", ".join(value)
            yield Finding(topic=side, name=name, value=value)
    yield Finding(topic="pair", name="one place", value=pair.fused)


def durability_of(pair: Pair) -> Iterable[Finding]:
    """The weaker durability of the two, which names the guarantee, and warnings."""
    weaker = weaker_of(pair.transport.capabilities.durability, pair.backend.capabilities.durability)
    yield Finding(topic="pair", name="durability", value=weaker)
    if weaker == DURABILITY[0]:
        text = "accepted jobs are lost when the process or server that keeps them ends"
        yield Finding(topic="warnings", name="durability", value=text)
    for side, driver in (("transport", pair.transport), ("result backend", pair.backend)):
        warnings = getattr(driver, "warnings", None)
        for text in warnings() if callable(warnings) else ():
            yield Finding(topic="warnings", name=side, value=str(text))


def weaker_of(one: str, other: str) -> str:
    """The weaker of two durabilities; an unknown word counts as the weakest."""
    for word in (one, other):
        if word not in DURABILITY:
            return word
    return min(one, other, key=DURABILITY.index)
