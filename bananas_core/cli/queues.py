"""Commands on routing keys: look at them, stop and go on, empty them."""

from __future__ import annotations

import getpass
import socket
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from bananas_core.cli.options import (
    BrokerUrl,
    Json,
    ResultBackendUrl,
    arguments,
    find_target,
    parse_since,
)
from bananas_core.cli.output import Column, Output, cell, count
from bananas_core.cli.run import run
from bananas_core.clock import to_datetime
from bananas_core.due import PAUSE_PREFIX
from bananas_core.job import JobState, Query, Retention, Signal, SignalKind, Write
from bananas_core.limits.giving import give_back_of
from bananas_core.message import check_name
from bananas_core.target import Target, get_app

if TYPE_CHECKING:
    from bananas_core.app import Bananas
    from bananas_core.results import ResultBackend

PAGE: Final = 500
FOR_EVER: Final = 1e10
"""Seconds; longer than anything is kept."""


QUEUES: Final = (
    Column("routing key"),
    Column("ready"),
    Column("leased", rank=2),
    Column("buried", rank=2),
    Column("oldest", rank=3),
    *(Column(state.value, rank=1) for state in JobState),
    Column("paused", fold=True),
)


class PauseFlag(msgspec.Struct, frozen=True, kw_only=True):
    """The value of a document ``pause/{routing_key}``. ``at``: unix seconds, ledger's clock."""

    by: str
    at: float
    reason: str | None = None


def queues(
    args: Annotated[list[str] | None, arguments("")] = None,
    broker_url: BrokerUrl = None,
    result_backend_url: ResultBackendUrl = None,
    as_json: Json = False,
) -> None:
    """Show each routing key: messages at the broker, jobs by state, whether it is paused."""
    target, _ = find_target(
        args or [], [], broker_url=broker_url, result_backend_url=result_backend_url
    )
    run(_queues(target, Output(json=as_json)))


def pause(
    args: Annotated[list[str], arguments("KEY")],
    reason: Annotated[str | None, typer.Option("--reason", help="Shown by `queues`.")] = None,
    broker_url: BrokerUrl = None,
    result_backend_url: ResultBackendUrl = None,
    as_json: Json = False,
) -> None:
    """Start no more jobs of a routing key, on any worker, within 5 s."""
    target, (key,) = find_target(
        args, ["KEY"], broker_url=broker_url, result_backend_url=result_backend_url
    )
    run(_pause(target, check_name("routing_key", key), reason, Output(json=as_json)))


def resume(
    args: Annotated[list[str], arguments("KEY")],
    broker_url: BrokerUrl = None,
    result_backend_url: ResultBackendUrl = None,
    as_json: Json = False,
) -> None:
    """Start jobs of a paused routing key again."""
    target, (key,) = find_target(
        args, ["KEY"], broker_url=broker_url, result_backend_url=result_backend_url
    )
    run(_resume(target, check_name("routing_key", key), Output(json=as_json)))


def purge(
    args: Annotated[list[str] | None, arguments("KEY")] = None,
    dead_letters: Annotated[
        bool,
        typer.Option(
            "--dead-letters",
            help="Delete failed and quarantined jobs instead, of all routing keys.",
        ),
    ] = False,
    before: Annotated[
        str,
        typer.Option(
            "--before",
            help="With --dead-letters: those that ended before 15m, 1h, 7d ago or an ISO time. "
            "None younger than ten minutes is deleted.",
            metavar="TIME",
        ),
    ] = "10m",
    broker_url: BrokerUrl = None,
    result_backend_url: ResultBackendUrl = None,
    as_json: Json = False,
) -> None:
    """Cancel all pending and scheduled jobs of a routing key and remove its messages."""
    names = [] if dead_letters else ["KEY"]
    target, found = find_target(
        args or [], names, broker_url=broker_url, result_backend_url=result_backend_url
    )
    if dead_letters:
        run(_purge_dead(target, before, Output(json=as_json)))
    else:
        run(_purge(target, check_name("routing_key", found[0]), Output(json=as_json)))


async def _queues(target: Target, out: Output) -> None:
    async with get_app(target) as app:
        counts: dict[str, dict[str, int]] = {}
        for found in await app.backend.count(["routing_key", "state"]):
            counts.setdefault(found.group[0], {})[found.group[1]] = found.count
        paused = await pause_flags(app.backend)
        keys = sorted({*counts, *paused, *await _served_keys(app)})
        rows: list[tuple[object, ...]] = []
        for stats in await app.transport.stats(keys):
            states = counts.get(stats.queue, {})
            flag = paused.get(stats.queue)
            if out.json:
                out.line(
                    {
                        "routing_key": stats.queue,
                        "ready": stats.ready,
                        "leased": stats.leased,
                        "buried": stats.buried,
                        "oldest": to_datetime(stats.oldest),
                        "exact": stats.exact,
                        "states": {state.value: states.get(state.value, 0) for state in JobState},
                        "paused": None if flag is None else _flag_fields(flag),
                    }
                )
            about = "" if stats.exact else "≈"
            rows.append(
                (
                    stats.queue,
                    f"{about}{stats.ready}",
                    f"{about}{stats.leased}" if stats.leased else "",
                    f"{about}{stats.buried}" if stats.buried else "",
                    to_datetime(stats.oldest),
                    *(states.get(state.value, 0) or "" for state in JobState),
                    "" if flag is None else f"by {flag.by}: {flag.reason or 'no reason given'}",
                )
            )
        if not out.json:
            out.table(count(len(rows), "queue"), QUEUES, rows)


async def _served_keys(app: Bananas) -> set[str]:
    """Routing keys that tasks or live workers name, though no job has them yet."""
    keys = {task.routing_key for task in app.tasks.values()}
    for record in await app.backend.sessions():
        keys.update(record.session.routing_keys)
    return keys


async def pause_flags(backend: ResultBackend) -> dict[str, PauseFlag]:
    """All paused routing keys. A flag that somebody wrote in another form counts too."""
    flags: dict[str, PauseFlag] = {}
    after = ""
    while docs := await backend.docs(PAUSE_PREFIX, after=after):
        for doc in docs:
            flags[doc.key.removeprefix(PAUSE_PREFIX)] = _read_flag(doc.value)
        after = docs[-1].key
    return flags


def _read_flag(value: bytes) -> PauseFlag:
    try:
        return msgspec.json.decode(value, type=PauseFlag)
    except msgspec.DecodeError:
        return PauseFlag(by="unknown", at=0.0)


def _flag_fields(flag: PauseFlag) -> Mapping[str, Any]:
    return {"by": flag.by, "at": to_datetime(flag.at), "reason": flag.reason}


async def _pause(target: Target, key: str, reason: str | None, out: Output) -> None:
    async with get_app(target) as app:
        flag = PauseFlag(by=who(), at=await app.backend.now(), reason=reason)
        value = msgspec.json.encode(flag)
        (answer,) = await app.backend.cas([Write(key=PAUSE_PREFIX + key, value=value, version=0)])
        if not answer.done and answer.doc is not None:
            flag = _read_flag(answer.doc.value)
        if out.json:
            fields = {"routing_key": key, "changed": answer.done, "paused": _flag_fields(flag)}
            out.line(fields)
        elif answer.done:
            out.say(f"{key} is paused")
        else:
            out.say(f"{key} was paused before, by {flag.by} at {cell(to_datetime(flag.at))}")


async def _resume(target: Target, key: str, out: Output) -> None:
    async with get_app(target) as app:
        there = await app.backend.docs(PAUSE_PREFIX + key, limit=1)
        was = any(doc.key == PAUSE_PREFIX + key for doc in there)
        await app.backend.cas([Write(key=PAUSE_PREFIX + key, value=None)])
        if out.json:
            out.line({"routing_key": key, "changed": was, "paused": None})
        out.say(f"{key} goes on" if was else f"{key} was not paused")


async def _purge(target: Target, key: str, out: Output) -> None:
    async with get_app(target) as app:
        cancelled = await cancel_waiting(app.backend, key, by=who())
        removed = await app.transport.purge(key)
        if out.json:
            out.line({"routing_key": key, "cancelled": cancelled, "removed": removed})
        out.say(f"{key}: {count(cancelled, 'job')} cancelled, {count(removed, 'message')} removed")


async def _purge_dead(target: Target, before: str, out: Output) -> None:
    async with get_app(target) as app:
        now = await app.backend.now()
        age = max(0.0, now - parse_since(before, now, "--before"))
        kept = Retention(
            completed=FOR_EVER,
            cancelled=FOR_EVER,
            events=FOR_EVER,
            failed=age,
            quarantined=age,
            most=sys.maxsize,
        )
        deleted = 0
        while gone := await app.backend.prune(kept, PAGE):
            deleted += gone
        if out.json:
            out.line({"deleted": deleted})
        out.say(f"{count(deleted, 'dead letter')} deleted")


async def cancel_waiting(backend: ResultBackend, key: str, *, by: str) -> int:
    """Cancel the jobs of a routing key that wait to run; how many. A job that a worker takes
    in between is told to stop. Safe to repeat."""
    cancelled = 0
    query = Query(
        states=(JobState.WAITING, JobState.SCHEDULED, JobState.PENDING),
        routing_key=key,
        limit=PAGE,
    )
    while True:
        page = await backend.query(query)
        wishes = [
            Signal(id=job.id, kind=SignalKind.CANCEL, by=by, reason="purged") for job in page.jobs
        ]
        if wishes:
            answers, _ = await backend.signal(wishes)
            cancelled += sum(answer.done for answer in answers)
            await give_back_of(backend, page.jobs)
        if page.cursor is None:
            return cancelled
        query = msgspec.structs.replace(query, cursor=page.cursor)


def who() -> str:
    """The user and machine that a flag or a cancel comes from."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):
        user = "unknown"  # a container whose user id has no name
    return f"{user}@{socket.gethostname()}"
