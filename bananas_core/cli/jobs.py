"""Commands on jobs: submit, list, show, cancel, run again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
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
from bananas_core.cli.output import Output, count
from bananas_core.cli.run import ExitCode, complain, exit_code, leave, run
from bananas_core.cli.views import (
    COLUMNS,
    QUARANTINED,
    job_row,
    json_text,
    quarantined_row,
    show_job,
    with_raw,
)
from bananas_core.errors import (
    InvalidPayload,
    JobCancelled,
    JobFailed,
    ResultTimeout,
    UnknownTask,
)
from bananas_core.job import Job, JobState, Query, Signal, SignalKind
from bananas_core.probe import PROBE
from bananas_core.record import brief_record
from bananas_core.report import LogLine, log_prefix
from bananas_core.target import Target, get_app

if TYPE_CHECKING:
    from bananas_core.app import Bananas
    from bananas_core.handle import Job as Handle

PAGE: Final = 500
"""Records fetched at once."""
STATES: Final = ", ".join(JobState)


def submit(
    args: Annotated[list[str], arguments("NAME")],
    payload: Annotated[
        str, typer.Option("--payload", help="Named arguments: a JSON object.", metavar="JSON")
    ] = "{}",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end; print result.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", help="How long --wait waits, in seconds.", min=0, metavar="S"),
    ] = None,
    broker_url: BrokerUrl = None,
    result_backend_url: ResultBackendUrl = None,
    as_json: Json = False,
) -> None:
    """Submit a job by its task's name; prints its id, or with --wait its result."""
    target, (name,) = find_target(
        args, ["NAME"], broker_url=broker_url, result_backend_url=result_backend_url
    )
    if timeout is not None and not wait:
        raise typer.BadParameter("--timeout says how long --wait waits; give --wait too")
    out = Output(json=as_json)
    leave(run(_submit(target, name, parse_payload(payload), wait, timeout, out)))


def jobs(
    args: Annotated[list[str] | None, arguments("")] = None,
    state: Annotated[
        list[JobState] | None,
        typer.Option("--state", help=f"{STATES}; may be repeated.", metavar="STATE"),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Only this task.")] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", help="Created since: 15m, 1h, 7d, or an ISO time.", metavar="TIME"),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", help="Most jobs shown.", min=1, metavar="N")
    ] = 50,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="Only quarantined ones, with their raw bytes.")
    ] = False,
    broker_url: BrokerUrl = None,
    result_backend_url: ResultBackendUrl = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first. Failed jobs are the dead letters."""
    target, _ = find_target(
        args or [], [], broker_url=broker_url, result_backend_url=result_backend_url
    )
    if quarantined and state:
        raise typer.BadParameter("--quarantined is a state; leave --state out")
    states = (JobState.QUARANTINED,) if quarantined else tuple(state or ())
    query = Query(states=states, name=name, limit=min(limit, PAGE))
    run(_jobs(target, query, since, limit, quarantined, Output(json=as_json)))


def job(
    args: Annotated[list[str], arguments("ID")],
    broker_url: BrokerUrl = None,
    result_backend_url: ResultBackendUrl = None,
    as_json: Json = False,
) -> None:
    """Show everything known of one job."""
    target, (job_id,) = find_target(
        args, ["ID"], broker_url=broker_url, result_backend_url=result_backend_url
    )
    run(_job(target, job_id, Output(json=as_json)))


def cancel(
    args: Annotated[list[str], arguments("ID")],
    reason: Annotated[str | None, typer.Option("--reason", help="Kept in the record.")] = None,
    broker_url: BrokerUrl = None,
    result_backend_url: ResultBackendUrl = None,
    as_json: Json = False,
) -> None:
    """Cancel a job: it won't run, or its worker is told to stop it."""
    target, (job_id,) = find_target(
        args, ["ID"], broker_url=broker_url, result_backend_url=result_backend_url
    )
    leave(run(_cancel(target, job_id, reason, Output(json=as_json))))


def retry(
    args: Annotated[list[str], arguments("ID...")],
    broker_url: BrokerUrl = None,
    result_backend_url: ResultBackendUrl = None,
    as_json: Json = False,
) -> None:
    """Run failed, cancelled or quarantined jobs again, with fresh attempts."""
    target, ids = find_target(
        args, ["ID"], broker_url=broker_url, result_backend_url=result_backend_url, several=True
    )
    leave(run(_retry(target, ids, Output(json=as_json))))


def parse_payload(text: str) -> dict[str, Any]:
    """The arguments of a job. Raises InvalidPayload unless they are a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidPayload(f"--payload is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidPayload('--payload is a JSON object of named arguments, like {"path": "a"}')
    return value


async def _submit(
    target: Target,
    name: str,
    payload: dict[str, Any],
    wait: bool,
    timeout: float | None,
    out: Output,
) -> ExitCode:
    async with get_app(target) as app:
        if target.app is not None and name not in app.tasks:
            known = ", ".join(sorted(app.tasks)) or "none"
            raise UnknownTask(f"{target.app} has no task {name!r}; it has: {known}")
        handle: Handle[Any] = await app.submit_job(name, payload=payload)
        ended: JobFailed | JobCancelled | ResultTimeout | None = None
        if wait:
            try:
                out.say(json_text(await handle.result(timeout=timeout)))
            except (JobFailed, JobCancelled, ResultTimeout) as error:
                ended = error
        else:
            out.say(handle.id)
        if out.json:
            out.line(await handle.record())
        if ended is None:
            return ExitCode.OK
        complain(ended if isinstance(ended, ResultTimeout) else f"job {handle.id}: {ended}")
        return exit_code(ended)


async def _jobs(
    target: Target, query: Query, since: str | None, limit: int, raw: bool, out: Output
) -> None:
    async with get_app(target) as app:
        if since is not None:
            moment = parse_since(since, await app.backend.now())
            query = msgspec.structs.replace(query, since=moment)
        rows: list[tuple[object, ...]] = []
        async for item in found_jobs(app, query, limit):
            record = brief_record(item, app.codecs)
            if out.json:
                out.line(with_raw(record, item) if raw else record)
            else:
                rows.append(quarantined_row(record, item) if raw else job_row(record, item))
        if not out.json:
            out.table(count(len(rows), "job"), QUARANTINED if raw else COLUMNS, rows)


async def found_jobs(app: Bananas, query: Query, limit: int) -> AsyncIterator[Job]:
    """Up to ``limit`` records that match, page after page; health probes only by their name."""
    while limit > 0:
        page = await app.backend.query(query)
        jobs = [job for job in page.jobs if job.name != PROBE or query.name == PROBE][:limit]
        for item in jobs:
            yield item
        limit -= len(jobs)
        if page.cursor is None:
            return
        query = msgspec.structs.replace(query, cursor=page.cursor)


async def _job(target: Target, job_id: str, out: Output) -> None:
    async with get_app(target) as app:
        record = await (await app.get_job(job_id)).record()
        if out.json:
            out.line(record)
        else:
            show_job(out, record, await log_lines(app, job_id))


async def log_lines(app: Bananas, job_id: str) -> list[LogLine]:
    """What the job told with ``current_job().log(…)``, oldest first."""
    lines: list[LogLine] = []
    prefix = after = log_prefix(job_id)
    while docs := await app.backend.docs(prefix, after=after):
        for doc in docs:
            lines.extend(msgspec.json.decode(doc.value, type=list[LogLine]))
        after = docs[-1].key
    return lines


async def _cancel(target: Target, job_id: str, reason: str | None, out: Output) -> ExitCode:
    async with get_app(target) as app:
        handle = await app.get_job(job_id)
        done = await handle.cancel(reason=reason)
        record = await handle.record()
        if out.json:
            out.line(record)
        if not done:
            complain(f"job {job_id} had ended before: {record.state}")
            return ExitCode.JOB_FAILED
        waits = record.state == JobState.PROCESSING
        out.say(f"{job_id} {'is told to stop' if waits else 'is cancelled'}")
        return ExitCode.OK


async def _retry(target: Target, ids: Sequence[str], out: Output) -> ExitCode:
    async with get_app(target) as app:
        code = ExitCode.OK
        nodes = await _nodes(app, ids)
        for id, flow in nodes.items():
            complain(f"job {id} is a node: bananas workflow {flow} --resume, or --rerun {id}")
            code = ExitCode.JOB_FAILED
        for start in range(0, len(ids), PAGE):
            part = [id for id in ids[start : start + PAGE] if id not in nodes]
            wishes = [Signal(id=id, kind=SignalKind.RETRY) for id in part]
            answers, ready = await app.backend.signal(wishes)
            await app.send_ready(ready)
            records = await app.backend.get([answer.id for answer in answers])
            for answer, stored in zip(answers, records, strict=True):
                if answer.state is None:
                    complain(f"there is no job {answer.id}: it was never accepted, or was pruned")
                    code = ExitCode.NOT_FOUND
                    continue
                if out.json and stored is not None:
                    out.line(brief_record(stored, app.codecs))
                if answer.done:
                    out.say(f"{answer.id} is {answer.state}")
                else:
                    complain(f"job {answer.id} can't run again: it is {answer.state}")
                    code = max(code, ExitCode.JOB_FAILED)
        return code


async def _nodes(app: Bananas, ids: Sequence[str]) -> dict[str, str]:
    """Those that are nodes of workflows, which run again together with what follows from them."""
    found: dict[str, str] = {}
    for start in range(0, len(ids), PAGE):
        for stored in await app.backend.get(ids[start : start + PAGE]):
            if stored is not None and stored.workflow is not None:
                found[stored.id] = stored.workflow
    return found
