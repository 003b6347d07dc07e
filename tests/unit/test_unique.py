"""The face of unique jobs: keys from arguments, what is refused, and what submitting answers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bananas_core.app import Bananas
from bananas_core.client import AsyncClient, Client
from bananas_core.errors import ConfigurationError, DuplicateJob, InvalidPayload
from bananas_core.job import JobState, Query
from bananas_core.keys import JobView, KeyMaker, TaskArguments, scoped
from bananas_core.testing.clock import ManualClock
from bananas_core.testing.helpers import drain, memory_app
from bananas_plugins.unique import Unique


def example(user_id: int, kind: str = "full", tags: list[str] | None = None) -> None: ...


def key_of(source: Any, **payload: Any) -> str:
    maker = KeyMaker(source, TaskArguments(example, "example"))
    return maker.make(JobView(name="example", payload=payload))


def test_keys_are_made_of_arguments_with_their_defaults() -> None:
    assert key_of(("user_id", "kind"), user_id=1) == '[1,"full"]'
    assert key_of(("user_id", "kind"), user_id=1, kind="full") == '[1,"full"]'
    assert key_of("{user_id}:{kind}", user_id=7, kind="x") == "7:x"
    assert key_of(lambda job: job.payload["kind"], user_id=7) == "full"
    assert key_of(None, user_id=1) == key_of(None, tags=None, kind="full", user_id=1)
    assert key_of((), user_id=1) == key_of((), user_id=2)


def test_values_can_not_pass_for_the_text_of_a_template() -> None:
    assert key_of("{user_id}:{kind}", user_id="1:a", kind="b") != key_of(
        "{user_id}:{kind}", user_id="1", kind="a:b"
    )
    assert key_of(("user_id", "kind"), user_id="1", kind="a") != key_of(
        ("user_id", "kind"), user_id=1, kind="a"
    )


def test_a_template_reaches_into_objects_and_lists() -> None:
    assert key_of("{tags.1}-{user_id.name}", user_id={"name": "ann"}, tags=["a", "b"]) == "b-ann"
    with pytest.raises(InvalidPayload, match=r"tags\.4"):
        key_of("{tags.4}", user_id=1, tags=["a"])


def test_full_keys_are_short_printable_and_scoped() -> None:
    assert scoped("task", "7") == "task 7"
    assert scoped(None, "7") == " 7"
    for text in ("x" * 500, "ünïcode", "a\nb", "\ud800"):
        key = scoped("task", text)
        assert key.isascii()
        assert key.isprintable()
        assert len(key) <= 200
        assert key != scoped("task", text + "!")


@pytest.mark.parametrize(
    "source", ["{user_id", "{}", "{0}", "{user_id!r}", "{user_id:>3}", "{nobody}", "", ("nobody",)]
)
def test_a_key_that_can_not_be_made_is_refused_at_registration(source: Any) -> None:
    app = memory_app()
    options = {"key": source} if isinstance(source, str) else {"args": source}
    with pytest.raises(ConfigurationError):
        app.task(unique=Unique(**options))(example)
    assert app.tasks == {}


@pytest.mark.parametrize(
    "options",
    [
        {"args": "user_id"},
        {"args": ("a",), "key": "{a}"},
        {"until": "period"},
        {"period": 5, "until": "finished"},
        {"period": 0},
        {"until": "never"},
        {"on_conflict": "shrug"},
        {"on_conflict": "reschedule"},
        {"delay": 5},
        {"max_wait": 5},
        {"on_conflict": "keep_last", "until": "started"},
        {"scope": "world"},
    ],
)
def test_parts_that_do_not_go_together_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Unique(**options)


def test_only_what_a_plugin_knows_is_an_option() -> None:
    with pytest.raises(ConfigurationError, match="Unique"):
        memory_app().task(unique="user_id")(example)  # type: ignore[arg-type]


async def test_a_second_submit_gives_the_first_ones_handle() -> None:
    app, runs = memory_app(), []

    @app.task(unique=Unique(args=("user_id",)))
    async def sync(user_id: int, full: bool = False) -> int:
        runs.append(user_id)
        return user_id

    async with app:
        first = await sync.submit(1)
        assert await sync.submit(1, full=True) == first
        assert await sync.submit(2) != first
        many = await sync.submit_many([{"user_id": n % 3} for n in range(9)])
        assert len(set(many)) == 3
        assert many[1] == first
        await drain(app)
        assert sorted(runs) == [0, 1, 2]
        assert await first.result(timeout=5) == 1
        assert await sync.submit(1) != first
        assert app.plugins.names.count("unique") == 1


async def test_raise_refuses_one_and_accepts_the_others() -> None:
    app = memory_app()

    @app.task(unique=Unique(args=("n",), on_conflict="raise"))
    async def once(n: int) -> None: ...

    async with app:
        first = await once.submit(1)
        with pytest.raises(DuplicateJob) as caught:
            await once.submit_many([{"n": 1}, {"n": 2}])
        assert caught.value.job_id == first.id
        page = await app.backend.query(Query(name="once"))
        assert len(page.jobs) == 2


async def test_a_key_function_that_fails_refuses_the_job() -> None:
    app = memory_app()

    @app.task(unique=Unique(key=lambda job: job.payload["nothing"]))
    async def once(n: int) -> None: ...

    async with app:
        with pytest.raises(InvalidPayload, match="KeyError"):
            await once.submit(1)
        assert (await app.backend.query(Query())).jobs == ()


async def test_one_job_may_have_a_rule_of_its_own() -> None:
    app = memory_app()

    @app.task
    async def plain(n: int) -> None: ...

    async with app:
        spec = plain.job(1).options(unique=Unique(args=("n",)))
        assert await spec.submit() == await spec.submit()
        assert await plain.submit(1) != await plain.submit(1)
        with pytest.raises(InvalidPayload):
            plain.job(1).options(unique="n")


async def test_a_global_key_is_shared_between_tasks() -> None:
    app, shared = memory_app(), Unique(args=("n",), scope="global")

    @app.task(unique=shared)
    async def one(n: int) -> None: ...

    @app.task(unique=shared)
    async def two(n: int) -> None: ...

    async with app:
        assert await one.submit(1) == await two.submit(1)


async def test_a_debounced_job_starts_a_delay_after_the_last_submit() -> None:
    clock, seen = ManualClock(), []
    app = memory_app(clock=clock)

    @app.task(unique=Unique(args=(), on_conflict="reschedule", delay=10, max_wait=25))
    async def index(n: int) -> None:
        seen.append(n)

    async with app:
        first = await index.submit(0)
        for n in range(1, 4):
            clock.advance(8)
            await drain(app)
            assert await index.submit(n) == first
        assert seen == []  # without the limit it would be due 34 s after the first
        clock.advance(2)
        await drain(app)
        assert seen == [3]


async def test_large_and_replaced_payloads_reach_the_job() -> None:
    app, seen = memory_app(), []

    @app.task(unique=Unique(args=(), on_conflict="replace"))
    async def store(text: str) -> None:
        seen.append(len(text))

    async with app:
        first = await store.submit("a" * 300_000)
        assert await store.submit("b" * 400_000) == first
        await drain(app)
        assert seen == [400_000]


async def test_a_cancelled_job_frees_its_key_and_its_document() -> None:
    app = memory_app()

    @app.task(unique=Unique())
    async def once(n: int) -> None: ...

    async with app:
        first = await once.job(1).options(delay=60).submit()
        assert await first.status() == JobState.SCHEDULED
        await first.cancel()
        assert await app.backend.docs("unique/") == []
        assert await once.submit(1) != first


async def test_a_client_submits_unique_jobs_by_name(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    app = Bananas(url)

    @app.task(unique=Unique(key="{user_id}"))
    async def sync(user_id: int) -> None: ...

    async with AsyncClient(url) as client, app:
        first = await client.submit_unique_job("sync", {"user_id": 7}, unique_key="7")
        assert (await sync.submit(7)).id == first
        by_args = [
            await client.submit_unique_job("other", {"a": 1, "n": n}, unique_args=["a"])
            for n in range(3)
        ]
        assert len(set(by_args)) == 1
        with pytest.raises(DuplicateJob):
            await client.submit_unique_job(
                "other", {"a": 1, "n": 9}, unique_args=["a"], on_conflict="raise"
            )
        for wrong in (
            {"unique_key": "a", "unique_args": ["a"]},
            {"unique_key": "a", "on_conflict": "reschedule"},
        ):
            with pytest.raises(ConfigurationError):
                await client.submit_unique_job("other", {"a": 1}, **wrong)  # type: ignore[arg-type]


def test_a_blocking_client_does_too(tmp_path: Path) -> None:
    with Client(f"sqlite:///{tmp_path / 'jobs.db'}") as client:
        ids = {client.submit_unique_job("task", {"n": 1}) for _ in range(3)}
        assert len(ids) == 1


async def test_concurrent_submits_of_one_process_are_one_job() -> None:
    app = memory_app()

    @app.task(unique=Unique())
    async def once(n: int) -> None: ...

    async with app:
        jobs = await asyncio.gather(*(once.submit(1) for _ in range(50)))
        assert len(set(jobs)) == 1
