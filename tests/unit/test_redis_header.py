"""A record on Redis is read as it was written; needs no server."""

from __future__ import annotations

import random
import re
from importlib import resources

import pytest
from msgspec.structs import replace

from bananas_brokers.redis import header
from bananas_brokers.redis.scripts import NAMES, Script
from bananas_core import state
from bananas_core.job import (
    ErrorInfo,
    Hint,
    Job,
    JobPut,
    JobState,
    Outcome,
    OutcomeKind,
    Progress,
    Signal,
    SignalKind,
)

ERROR = ErrorInfo(type="E", message="no", traceback="t")


def a_put(rng: random.Random, now: float) -> JobPut:
    def maybe(value: object) -> object:
        return value if rng.random() < 0.3 else None

    return JobPut(
        id="j1",
        name=rng.choice(["a", "a.task/größe"]),
        message=b"{}",
        routing_key=rng.choice(["default", "other"]),
        priority=rng.randrange(101),
        max_attempts=rng.choice([1, 3, 1_000_000]),
        delay=maybe(rng.random() * 10),  # type: ignore[arg-type]
        expires_at=maybe(now + rng.random() * 50),  # type: ignore[arg-type]
        queue_timeout=maybe(5.0),  # type: ignore[arg-type]
        tags=rng.choice([(), ("a", "b")]),
        waiting=rng.random() < 0.1,
        workflow=maybe("w"),  # type: ignore[arg-type]
        scope=rng.random() < 0.1,
        unique=maybe("k"),  # type: ignore[arg-type]
        quarantine=ERROR if rng.random() < 0.05 else None,
    )


def step(rng: random.Random, job: Job, now: float, *, guard: bool) -> Job | None:
    """Anything that may happen to a record."""
    what = rng.randrange(6)
    if what == 0 or job.state is JobState.PENDING:
        fence = int(now * 1e6)
        return state.claim(job, Hint(id=job.id, gen=job.gen), rng.choice("st"), fence, now)[1]
    if what == 1:
        return state.look(job, now, guard=guard)[1]
    if what == 2:
        kind = rng.choice(list(SignalKind))
        wish = Signal(id=job.id, kind=kind, by="me", state=JobState.FAILED, error=ERROR, priority=7)
        return state.signal(job, wish, now, guard=guard)[1]
    if what == 3:
        return state.lapse(job, now, guard=guard)
    if what == 4 and job.state is JobState.PROCESSING:
        return replace(job, progress=Progress(value=0.5, text="half"))
    outcome = Outcome(
        id=job.id,
        fence=job.fence,
        kind=rng.choice(list(OutcomeKind)),
        result=b"1",
        error=ERROR,
        delay=rng.choice([0.0, 3.0]),
        held_by="limit",
        ran=rng.choice([None, 0.0, rng.random()]),
    )
    return state.finish(job, outcome, now, guard=guard)[1]


@pytest.mark.parametrize("guard", [True, False])
@pytest.mark.parametrize("seed", range(200))
def test_any_record_is_read_as_it_was_written(seed: int, guard: bool) -> None:
    rng = random.Random(seed)
    now = 1_800_000_000.0 + rng.random()
    job = state.create(a_put(rng, now), now, guard=guard, keep_for=rng.choice([0.0, 0.0, 60.0]))
    for changes in range(30):
        stored = header.encode(job, changes, guard=guard)
        again = header.decode(job.id, stored.head, stored.extras, job.message, job.result)
        assert again == job
        assert header.changes_of(stored.head) == changes
        assert header.kind_of(stored.head) == ("Z" if guard else "L")
        assert (stored.extras is not None) is (stored.head[59:60] != header.NO)
        now += rng.random() * 5
        job = step(rng, job, now, guard=guard) or job


def test_a_plain_job_has_the_header_that_the_script_writes() -> None:
    put = JobPut(id="j", name="n", message=b"", routing_key="q", priority=70, max_attempts=9)
    assert header.is_plain(put)
    stored = header.encode(state.create(put, 1.8e9, guard=False), 0, guard=False)
    assert stored.extras is None
    assert stored.head[50:64] == header.middle_of(70, guard=False)
    assert stored.head[80:] == header.shape_of("n", "q", 9)


def test_a_session_may_have_any_length() -> None:
    put = JobPut(id="j", name="n", message=b"")
    job = state.create(put, 1.8e9, guard=False)
    _, claimed = state.claim(job, Hint(id="j", gen=1), "s" * 300, 7, 1.8e9)
    assert claimed is not None
    stored = header.encode(claimed, 1, guard=False)
    assert header.decode("j", stored.head, stored.extras).worker == "s" * 300


@pytest.mark.parametrize("name", NAMES)
def test_a_script_says_what_it_takes_and_returns(name: str) -> None:
    """The head of each file names keys, arguments and answer; no key is used that it doesn't."""
    text = resources.files("bananas_brokers.redis").joinpath("lua", f"{name}.lua").read_text()
    assert text.startswith("#!lua")
    for part in ("apply", "cas"):
        if re.search(rf"^-- USES: .*\b{part}\b", text, re.MULTILINE):
            folder = resources.files("bananas_brokers.redis").joinpath("lua")
            text += folder.joinpath(f"_{part}.lua").read_text()
    for word in ("KEYS", "ARGV", "RETURNS"):
        assert re.search(rf"^-- {word}\b", text, re.MULTILINE), f"{name}.lua lacks {word}"
    head = re.search(r"^-- KEYS: ((?:.*\n-- {3}.*)|.*)", text, re.MULTILINE)
    assert head is not None
    named = len(re.sub(r"\n-- +", " ", head[1]).split())
    used = [int(n) for n in re.findall(r"KEYS\[(\d+)\]", Script(name).text)]
    assert max(used, default=0) <= named


@pytest.mark.parametrize("name", NAMES)
def test_only_new_jobs_are_refused_by_a_full_server(name: str) -> None:
    first = Script(name).text.partition("\n")[0]
    takes_new = name in ("put", "put_one", "create", "send", "cas_new")
    assert ("allow-oom" in first or "no-writes" in first) is not takes_new
