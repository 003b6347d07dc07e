"""Health is proven by jobs, and said over HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from msgspec.structs import replace

from bananas import Bananas
from bananas_core import health
from bananas_core.children import Child
from bananas_core.clock import SystemClock
from bananas_core.health import HealthReport, WorkerHealth, check_health
from bananas_core.health_server import HealthServer
from bananas_core.held import ClaimTable
from bananas_core.job import Query, Write
from bananas_core.pair import Pair
from bananas_core.pipe import Hello
from bananas_core.probe import PROBE, Probe, register_probe
from bananas_core.renew import Renewer
from bananas_core.upkeep import Pairs
from bananas_core.worker import Worker
from tests.worker.conftest import eventually, working
from tests.worker.group import Group, environment

# -- probes ----------------------------------------------------------------------------------------


async def test_probes_go_through_and_leave_one_record(app: Bananas) -> None:
    register_probe(app)
    await app.open()
    async with working(app):
        pair = app.pair
        assert pair is not None
        probe = Probe(pair, "default", "probe-1")
        for _ in range(3):
            took = await probe.run(5.0)
            assert took is not None
        page = await app.backend.query(Query(name=PROBE))
        assert [job.id for job in page.jobs] == ["probe-1"]
        assert len(page.jobs[0].attempts) == 3
        await probe.retire()
        assert await probe.run(5.0) is not None, "a retired probe can be used again"


async def test_a_probe_that_nobody_runs_is_no_proof(app: Bananas) -> None:
    await app.open()
    pair = app.pair
    assert pair is not None
    probe = Probe(pair, "default", "probe-1")
    assert await probe.run(0.05) is None
    assert await probe.run(0.05) is None


# -- bananas health --------------------------------------------------------------------------------


async def test_a_working_app_is_healthy(app: Bananas) -> None:
    register_probe(app)
    await app.open()
    async with working(app, routing_keys=("default", "media")):
        report = await check_health(app)
    assert report.ok, report.reasons
    assert set(report.probes) == {"default", "media"}
    assert [record.session.routing_keys for record in report.sessions] == [("default", "media")]
    page = await app.backend.query(Query(name=PROBE))
    assert {job.state.value for job in page.jobs} == {"cancelled"}, "probes were left behind"


async def test_without_a_worker_nothing_is_healthy(app: Bananas) -> None:
    await app.open()
    report = await check_health(app)
    assert "no worker is running" in report.reasons


async def test_a_worker_that_runs_nothing_is_not_healthy(app: Bananas) -> None:
    register_probe(app)
    await app.open()
    async with working(app) as worker:
        worker._fetching.cancel()  # what a hung connection looks like
        report = await check_health(app, timeout=0.1)
    assert report.reasons == ("no job of routing key 'default' was run within 0.1 s",)


async def test_a_paused_routing_key_is_not_probed(app: Bananas) -> None:
    register_probe(app)
    await app.open()
    async with working(app):
        await app.backend.cas([Write(key="pause/default", value=b"1")])
        report = await check_health(app, timeout=0.1)
    assert report.ok
    assert report.probes == {}


async def test_children_that_are_not_there_are_a_reason() -> None:
    report = await WorkerHealth(lambda: [None], Pairs(), SystemClock()).report()
    assert report.reasons == ("process 0 is not ready",)


class OnePair(Pairs):
    """The app's own connection."""

    def __init__(self, app: Bananas) -> None:
        super().__init__()
        self._app = app

    async def get(self, hello: Hello) -> Pair:
        pair = self._app.pair
        assert pair is not None
        return pair


def child_of(worker: Worker, **changes: object) -> Child:
    """What a supervisor knows of a good child with free slots."""
    now = time.monotonic()
    hello = Hello(
        session=worker.session,
        broker_url="memory://",
        result_backend_url=None,
        namespace="n",
        processes=1,
        grace=1.0,
        probe_key="default",
    )
    known = {
        "slot": 0,
        "hello": hello,
        "renewer": Renewer(worker.session, ClaimTable(), SystemClock()),
        "ready_at": now,
        "beat_at": now,
        "proved_at": now - 100,
    }
    return cast(Child, SimpleNamespace(**{**known, **changes}))


async def report_of(app: Bananas, child: Child) -> HealthReport:
    return await WorkerHealth(lambda: [child], OnePair(app), SystemClock()).report()


async def test_an_idle_child_is_proven_by_a_probe(app: Bananas) -> None:
    register_probe(app)
    await app.open()
    async with working(app) as worker:
        report = await report_of(app, child_of(worker))
        assert report.ok, report.reasons
        assert set(report.probes) == {"0"}
        recent = child_of(worker, proved_at=time.monotonic())
        assert (await report_of(app, recent)).probes == {}, "a job that just ended is proof enough"


async def test_a_child_that_runs_no_probe_is_not_healthy(
    app: Bananas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_WITHIN", 0.1)
    register_probe(app)
    await app.open()
    async with working(app) as worker:
        worker._fetching.cancel()
        report = await report_of(app, child_of(worker))
        assert report.reasons == ("process 0 ran no job, not even a probe",)
        busy = Renewer(replace(worker.session, free=0), ClaimTable(), SystemClock())
        report = await report_of(app, child_of(worker, renewer=busy))
        assert report.ok, "one with all slots in use can't run a probe"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ready_at": None}, "process 0 is not ready"),
        ({"beat_at": 0.0}, "the event loop of process 0 is blocked"),
    ],
)
async def test_what_keeps_a_child_from_working_is_said(
    app: Bananas, changes: dict[str, object], reason: str
) -> None:
    await app.open()
    async with working(app) as worker:
        report = await report_of(app, child_of(worker, **changes))
    assert reason in report.reasons[0]


async def test_renewals_that_are_not_confirmed_are_a_reason(app: Bananas) -> None:
    await app.open()
    async with working(app) as worker:
        child = child_of(worker)
        assert child.renewer is not None
        child.renewer.confirmed = 0.0
        report = await report_of(app, child)
    assert "claims of process 0 were not renewed" in report.reasons[0]


# -- the port --------------------------------------------------------------------------------------


async def ask(port: int, request: bytes) -> tuple[int, dict[str, object]]:
    """Status and body of an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return (int(head.split()[1]), json.loads(body or b"{}")) if head else (0, {})


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


@pytest.fixture
async def report() -> list[HealthReport]:
    return [HealthReport()]


@pytest.fixture
async def port(report: list[HealthReport]) -> AsyncIterator[int]:
    async def answer() -> HealthReport:
        return report[0]

    server = HealthServer(answer, 0)
    yield await server.start()
    await server.stop()


@pytest.mark.parametrize("path", ["/health", "/healthz", "/readyz", "/health?verbose=1"])
async def test_healthy_is_200(port: int, path: str) -> None:
    status, body = await ask(port, get(path))
    assert (status, body["ok"], body["reasons"]) == (200, True, [])


async def test_unhealthy_is_503_with_the_reasons(port: int, report: list[HealthReport]) -> None:
    report[0] = HealthReport(reasons=("process 0 is not ready",))
    status, body = await ask(port, get("/health"))
    assert (status, body["ok"]) == (503, False)
    assert body["reasons"] == ["process 0 is not ready"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/"), 404),
        (get("/health", "POST"), 405),
        (get("/health", "HEAD"), 200),
        (b"rubbish\r\n\r\n", 0),
        (b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 0),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", 0),
    ],
)
async def test_other_requests_are_answered_shortly_or_not_at_all(
    port: int, request_: bytes, status: int
) -> None:
    try:
        found, _ = await ask(port, request_)
    except ConnectionError:
        found = 0
    assert found == status
    assert (await ask(port, get("/health")))[0] == 200


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_a_supervisor_serves_the_health_of_its_children(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    group = Group(tmp_path, flags={"processes": 2, "health_port": port}).start()
    try:
        answers: list[tuple[int, dict[str, object]]] = []

        async def answered() -> bool:
            try:
                answers.append(await ask(port, get("/health")))
            except OSError:
                return False
            return True

        await eventually(answered)
        assert answers[0][0] == 200, answers
        async with Bananas(environment(tmp_path)["BANANAS_BROKER_URL"]) as app:
            keys = {k for r in await app.backend.sessions() for k in r.session.routing_keys}
        assert len([key for key in keys if key.startswith(PROBE)]) == 2
    finally:
        group.kill()
