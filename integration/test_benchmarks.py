"""The benchmark's own machinery, on a real server: a figure that lies is worse than none."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import measures
from benchmarks.environments import PEERS, ROOT, Subject, literals, our_subjects
from benchmarks.lab import Lab, SubjectFailed, WorkerProcess, cpu_of, family, worker_command
from benchmarks.plan import BANANAS, FULL, QUICK, WAYS, Profile, steps
from benchmarks.report import TARGETS, Report, Sample, summarise
from benchmarks.subjects.common import Options, make_cells
from integration.servers import RedisServer
from integration.servers.need import need

needs_extra = pytest.mark.skipif(
    importlib.util.find_spec("redis") is None or importlib.util.find_spec("hiredis") is None,
    reason="needs the extra `bench`",
)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    need(RedisServer)
    with RedisServer(appendonly=False) as server:
        yield Lab(server, tmp_path, f"sqlite:///{tmp_path}/bench.db")


def subject(name: str) -> Subject:
    return next(s for s in our_subjects() if s.name == name)


@needs_extra
@pytest.mark.parametrize("name", ["simple loop", "tight loop", "Bananas"])
@pytest.mark.parametrize("results", [True, False])
def test_a_flow_runs_every_job_once(lab: Lab, name: str, results: bool) -> None:
    figures = measures.flow(lab, subject(name), 1_500, results=results)
    assert figures["jobs"] == 1_500
    assert figures["short"] == figures["twice"] == 0
    assert figures["bulk"] > 0
    assert figures["drain"] > 0
    if name != "Bananas":
        kept = [str(key) for key in lab.server.call("KEYS", "*:result:*")]  # type: ignore[union-attr]
        assert len(kept) >= (1_400 if results else 0)  # the last batch is under way when it ends
        assert results or not kept


@needs_extra
@pytest.mark.parametrize("name", ["simple loop", "tight loop", "Bananas"])
def test_an_idle_worker_starts_what_comes(lab: Lab, name: str) -> None:
    figures = measures.idle(lab, subject(name), 20)
    assert figures["jobs"] == 20
    assert 0 < figures["latency_p50"] <= figures["latency_p99"] < 1
    assert figures["memory"] > 1_000_000
    assert 1_000_000 < figures["largest"] < 200_000_000
    assert figures["worker_cpu_us"] > 0
    assert figures["server_cpu_us"] > 0


def test_sequential_submits_and_imports_are_timed(lab: Lab) -> None:
    figures = measures.submit(lab, subject("Bananas"), 50)
    assert figures["jobs"] == 49
    assert 0 < figures["p50"] <= figures["p99"] < 1
    assert figures["submit_cpu_us"] > 0
    assert 0 < measures.importing(lab, subject("Bananas"))["seconds"] < 5


def test_keys_priorities_payload_and_processes_reach_the_subject(lab: Lab) -> None:
    figures = measures.flow(
        lab, subject("Bananas"), 600, keys=3, priorities=5, blob=2_000, processes=2
    )
    assert figures["jobs"] == 600
    assert figures["short"] == figures["twice"] == 0


@needs_extra
def test_a_worker_is_warm_when_the_drain_is_measured(lab: Lab) -> None:
    figures = measures.flow(lab, subject("Bananas"), 500, ahead=1_000, results=True)
    assert figures["jobs"] == 500
    assert figures["short"] == figures["twice"] == 0
    assert figures["drain"] > 0


def test_other_ways_reach_the_subject(lab: Lab, tmp_path: Path) -> None:
    for way, options in WAYS.items():
        redis = Lab(lab.server, tmp_path)
        function = measures.durable if "fsync" in options else measures.flow
        figures = function(redis, subject("Bananas"), 300, results=True, **options)
        assert (figures["jobs"], figures["short"], figures["twice"]) == (300, 0, 0), way
    plain = Options(plain=True, concurrency=7)
    assert worker_command(subject("Bananas"), plain)[-4:-2] == ["--concurrency", "7"]


def test_cpu_is_exact_to_less_than_a_tick() -> None:
    begun, before = time.process_time(), cpu_of(os.getpid())
    while time.process_time() < begun + 0.025:
        pass
    assert 0.024 < cpu_of(os.getpid()) - before < 0.029


def test_a_subject_that_fails_says_why(lab: Lab) -> None:
    broken = Lab(lab.server, lab.folder, "carrier-pigeon://nowhere")
    with pytest.raises(SubjectFailed, match="carrier-pigeon"):
        measures.flow(broken, subject("Bananas"), 10)


def test_a_killed_worker_leaves_no_process(lab: Lab) -> None:
    with lab.run(subject("Bananas"), 1) as run:
        run.produce("bulk", 1)
        with run.worker() as worker:
            run.wait_for(1, worker, 20)
            pids = family(worker._process.pid)
            assert len(pids) > 1, "a supervisor and its child"
            assert worker.cpu() > 0
        deadline = time.monotonic() + 10
        while any(os.path.exists(f"/proc/{pid}") for pid in pids):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_worker_that_ends_is_noticed_at_once(lab: Lab, tmp_path: Path) -> None:
    with lab.run(subject("Bananas"), 1) as run:
        command = ["sh", "-c", "echo no such thing >&2; exit 3"]
        with (
            WorkerProcess(command, dict(os.environ), tmp_path / "log") as worker,
            pytest.raises(SubjectFailed, match="no such thing"),
        ):
            run.wait_for(1, worker, 20)


def test_second_starts_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.subjects import common

    path = str(tmp_path / "tally")
    cells = make_cells(path, 3)
    monkeypatch.setenv("BENCH_TALLY", path)
    monkeypatch.setattr(common, "_cells", None)
    for number in (0, 2, 2):
        common.started(number)
    assert [bool(cell) for cell in cells[1:]] == [True, False, True]
    assert cells[0] == 1.0


def test_options_survive_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.subjects.common import options

    given = Options(url="redis://x", results=True, blob=7, keys=3, defaults=False)
    for name, value in given.environment().items():
        monkeypatch.setenv(name, value)
    assert options() == given


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_says_what_it_is_and_is_short(name: str) -> None:
    path = ROOT / "benchmarks" / "peers" / f"{name}.py"
    said = literals(path)
    assert set(said) == {"NAME", "PACKAGES", "SETTINGS", "RELIABLE"}
    assert len(path.read_text("utf-8").splitlines()) <= 120


@pytest.mark.parametrize("profile", [QUICK, FULL], ids=lambda profile: profile.name)
def test_within_a_measure_the_subjects_take_turns(profile: Profile) -> None:
    ours = our_subjects()
    order = [s.subject for s in steps(profile, ours) if s.measure == "flow"]
    assert order == [subject.name for subject in ours] * profile.rounds


def sample(subject: str, round: int, drain: float, **more: float) -> Sample:
    cpu = {"worker_cpu_us": 2.0, "server_cpu_us": 1.0, "bulk_cpu_us": 1.0, "bulk_server_cpu_us": 1}
    figures = {"drain": drain, "bulk": drain, **cpu, **more}
    return Sample(measure="flow", subject=subject, round=round, figures=figures)


def report_of(samples: list[Sample]) -> Report:
    return summarise(samples, {}, [])


def test_ratios_are_medians_of_each_round_s_own_pair() -> None:
    loop = [sample("simple loop", n, rate) for n, rate in enumerate((100.0, 200.0, 400.0))]
    ours = [sample("Bananas", n, rate) for n, rate in enumerate((50.0, 400.0, 400.0))]
    drain = next(m for m in report_of(loop + ours).measures if m.id == "drain")
    row = next(r for r in drain.rows if r.subject == "Bananas")
    assert (row.value, row.low, row.high, row.rounds) == (400.0, 50.0, 400.0, 3)
    assert row.to_simple == 1.0
    assert row.to_tight is None


def point(x: float | str, round: int, drain: float, measure: str, subject: str = BANANAS) -> Sample:
    figures = {"drain": drain, "worker_cpu_us": 2.0, "server_cpu_us": 1.0}
    return Sample(measure=measure, subject=subject, round=round, x=x, figures=figures)


def test_shares_are_medians_of_each_rounds_own() -> None:
    rates = {1: (100.0, 10.0, 200.0), 1000: (80.0, 9.0, 100.0)}
    samples = [point(x, n, r, "keys") for x, rs in rates.items() for n, r in enumerate(rs)]
    first, last = report_of(samples).curves[0].points
    assert (first.share, last.share) == (1.0, 0.8)
    assert (last.least, last.client_cpu_us, last.server_cpu_us) == (0.7, 2.0, 1.0)


def test_flat_means_beside_the_highest() -> None:
    rates = {1_000: 70.0, 10_000: 100.0, 100_000: 90.0}
    (line,) = report_of([point(x, 0, r, "depth") for x, r in rates.items()]).curves
    assert line.base == "highest"
    assert [p.share for p in line.points] == [0.7, 1.0, 0.9]
    assert {p.least for p in line.points} == {0.8}


def test_targets_are_for_the_places_that_they_name() -> None:
    points = report_of([point(way, 0, 10.0, "ways") for way in WAYS]).curves[0].points
    assert [p.least for p in points] == [None, 0.6, 0.4, None, None]
    loop = report_of([point(1_000, 0, 1.0, "depth", "simple loop")]).curves[0].points
    assert loop[0].least is None


@pytest.mark.parametrize("profile", [QUICK, FULL], ids=lambda profile: profile.name)
def test_each_target_has_its_measure(profile: Profile) -> None:
    found = list(steps(profile, our_subjects()))
    for id, target in TARGETS.items():
        mine = [s for s in found if s.measure == id and s.subject == BANANAS]
        assert len(mine) >= 3 * len({s.x for s in mine}), "three rounds, for a median"
        if isinstance(target.least, dict):
            assert set(target.least) <= {s.x for s in mine}
    ends = {
        "keys": (1, 1_000),
        "priorities": (1, 101),
        "processes": (1, 4),
        "payload": (100, 10**5),
    }
    ends["depth"] = (1_000, 1_000_000 if profile is FULL else 100_000)
    for id, (low, high) in ends.items():
        xs = [s.x for s in found if s.measure == id]
        assert (min(xs), max(xs)) == (low, high)


def test_what_spoils_a_figure_is_said_beside_it() -> None:
    report = report_of([sample("x", 0, 1.0, twice=2, short=3)])
    drain = next(m for m in report.measures if m.id == "drain")
    assert "2 jobs ran twice" in drain.rows[0].note
    assert "up to 3 jobs were left" in drain.rows[0].note


def test_a_failed_step_is_listed_and_spoils_no_other() -> None:
    failed = Sample(measure="flow", subject="x", round=0, failed="no server")
    report = report_of([failed, sample("y", 0, 1.0)])
    assert report.failures == ["x, flow: no server"]
    assert [row.subject for row in report.measures[0].rows] == ["y"]
