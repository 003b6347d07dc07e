"""Commands that look at workers and at the health of the whole."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from bananas_core.cli.options import BrokerUrl, Json, ResultBackendUrl, arguments, find_target
from bananas_core.cli.output import Column, Output, count, seconds_text
from bananas_core.cli.run import ExitCode, complain, leave, run
from bananas_core.clock import to_datetime
from bananas_core.job import SessionRecord
from bananas_core.target import Target, get_app

WORKERS: Final = (
    Column("worker"),
    Column("host", rank=7),  # both are in the id, too
    Column("pid", rank=6),
    Column("routing keys", fold=True),
    Column("busy"),
    Column("claims", rank=5),
    Column("done", rank=1),
    Column("memory", rank=2),
    Column("version", rank=4),
    Column("up", rank=3),
    Column("renewed", rank=1),
)


def workers(
    args: Annotated[list[str] | None, arguments("")] = None,
    broker_url: BrokerUrl = None,
    result_backend_url: ResultBackendUrl = None,
    as_json: Json = False,
) -> None:
    """List live worker processes: what they consume, how busy they are."""
    target, _ = find_target(
        args or [], [], broker_url=broker_url, result_backend_url=result_backend_url
    )
    run(_workers(target, Output(json=as_json)))


async def _workers(target: Target, out: Output) -> None:
    async with get_app(target) as app:
        now = await app.backend.now()
        rows: list[tuple[object, ...]] = []
        for record in await app.backend.sessions():
            session = record.session
            if out.json:
                out.line(session_fields(record))
            rows.append(
                (
                    session.id,
                    session.host,
                    session.pid,
                    ", ".join(session.routing_keys),
                    f"{session.slots - session.free}/{session.slots}",
                    record.claims,
                    session.done,
                    f"{session.memory >> 20} MiB" if session.memory else "",
                    session.version,
                    seconds_text(now - session.started_at) if session.started_at else "",
                    f"{seconds_text(max(0.0, now - record.renewed_at))} ago",
                )
            )
        if not out.json:
            out.table(count(len(rows), "worker"), WORKERS, rows)


def session_fields(record: SessionRecord) -> dict[str, object]:
    """A session on one level, instants as such."""
    fields: dict[str, object] = msgspec.structs.asdict(record.session)
    fields["started_at"] = to_datetime(record.session.started_at)
    fields["renewed_at"] = to_datetime(record.renewed_at)
    fields["expires_at"] = to_datetime(record.expires_at)
    fields["claims"] = record.claims
    return fields


def health(
    args: Annotated[list[str] | None, arguments("")] = None,
    broker_url: BrokerUrl = None,
    result_backend_url: ResultBackendUrl = None,
    as_json: Json = False,
) -> None:
    """Find out whether jobs are really being run; exits 3 and says why if they are not."""
    target, _ = find_target(
        args or [], [], broker_url=broker_url, result_backend_url=result_backend_url
    )
    leave(run(_health(target, Output(json=as_json))))


async def _health(target: Target, out: Output) -> ExitCode:
    from bananas_core.health import check_health

    async with get_app(target) as app:
        report = await check_health(app)
    if out.json:
        out.line(
            {
                "ok": report.ok,
                "reasons": report.reasons,
                "due_age": report.due_age,
                "probes": report.probes,
                "sessions": [session_fields(record) for record in report.sessions],
            }
        )
    elif report.ok:
        took = [f"{key} {seconds_text(seconds)}" for key, seconds in report.probes.items()]
        workers = count(len(report.sessions), "worker")
        out.say(f"healthy: {workers}; probes: {', '.join(took) or 'none'}")
    for reason in report.reasons:
        complain(reason)
    return ExitCode.OK if report.ok else ExitCode.UNAVAILABLE
