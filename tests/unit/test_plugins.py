"""Plugins: which hooks are called when, and what happens when one goes wrong."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Literal

import pytest
from msgspec.structs import replace

from bananas_core import hooks
from bananas_core.context import JobContext
from bananas_core.errors import ConfigurationError, InvalidPayload, JobFailed
from bananas_core.hooks import hookimpl
from bananas_core.job import Claim, Outcome, PutAnswer
from bananas_core.options import Submission
from bananas_core.plugins import Plugin, PluginManager, find_plugins
from bananas_core.testing.conformance.plugin import PluginConformance
from bananas_core.testing.helpers import drain, memory_app
from bananas_plugins.compression import Compression
from bananas_plugins.job_log import JobLog


class Recorder(Plugin):
    """Notes all moments."""

    name = "recorder"

    def __init__(self) -> None:
        self.seen: list[str] = []

    @hookimpl
    def task_registered(self, task: Any) -> None:
        self.seen.append(f"registered {task.name}")

    @hookimpl
    async def before_submit(self, jobs: list[Submission]) -> None:
        self.seen.append(f"before {len(jobs)}")

    @hookimpl
    async def after_submit(self, answers: list[PutAnswer]) -> None:
        self.seen.append(f"after {len(answers)}")

    @hookimpl
    @asynccontextmanager
    async def around_execute(self, context: JobContext) -> AsyncIterator[None]:
        self.seen.append(f"enter {context.name}")
        try:
            yield
        except ValueError:
            self.seen.append("saw the error")
            raise
        self.seen.append(f"leave {context.name}")

    @hookimpl
    def after_execute(self, claim: Claim, outcome: Outcome) -> None:
        self.seen.append(f"{claim.name} {outcome.kind}")

    @hookimpl
    async def worker_started(self) -> None:
        self.seen.append("started")

    @hookimpl
    async def worker_stopping(self) -> None:
        self.seen.append("stopping")


async def test_moments_come_in_order() -> None:
    recorder = Recorder()
    app = memory_app(plugins=[recorder])

    @app.task
    async def good() -> None: ...

    async with app:

        @app.task(max_attempts=1)
        async def bad() -> None:
            raise ValueError

        await good.submit()
        await drain(app)
        await bad.submit()
        await drain(app)
    before = ["registered good", "registered bad", "before 1", "after 1"]
    run = ["started", "enter good", "leave good", "good completed", "stopping"]
    failed = ["started", "enter bad", "saw the error", "bad failed", "stopping"]
    assert recorder.seen == [*before, *run, "before 1", "after 1", *failed]


async def test_what_no_plugin_watches_is_not_called() -> None:
    manager = PluginManager([JobLog()])
    assert manager.hooks == ("after_execute",)
    assert manager.has("after_execute")
    assert not manager.has("around_execute")
    assert not PluginManager().hooks


async def test_before_submit_may_change_and_refuse_single_jobs() -> None:
    class Bouncer(Plugin):
        name = "bouncer"

        @hookimpl
        def before_submit(self, jobs: list[Submission]) -> list[Submission | Exception]:
            answer: list[Submission | Exception] = []
            for job in jobs:
                if job.message.name == "banned":
                    answer.append(InvalidPayload("not in here"))
                else:
                    answer.append(replace(job, message=replace(job.message, priority=1)))
            return answer

    async with memory_app(plugins=[Bouncer()]) as app:
        refused, accepted = await asyncio.gather(
            app.submit_job("banned", {}), app.submit_job("fine", {}), return_exceptions=True
        )
        assert isinstance(refused, InvalidPayload)
        assert not isinstance(accepted, BaseException)
        assert (await accepted.record()).priority == 1


class Broken(Plugin):
    """Goes wrong in one way at one moment."""

    name = "broken"
    time_limit: ClassVar[float] = 0.05

    def __init__(self, hook: str, how: str, policy: Literal["fail", "log"]) -> None:
        self.hook = hook
        self.how = how
        self.on_error = policy  # type: ignore[misc]

    async def _break(self, hook: str) -> None:
        if hook == self.hook:
            if self.how == "raises":
                raise LookupError("plugin is broken")
            await asyncio.sleep(3600)

    @hookimpl
    async def before_submit(self) -> None:
        await self._break("before_submit")

    @hookimpl
    @asynccontextmanager
    async def around_execute(self) -> AsyncIterator[None]:
        await self._break("around_execute")
        yield
        await self._break("leaving")

    @hookimpl
    async def after_execute(self) -> None:
        await self._break("after_execute")


@pytest.mark.parametrize("how", ["raises", "hangs"])
@pytest.mark.parametrize("hook", ["before_submit", "around_execute", "leaving", "after_execute"])
async def test_a_plugin_that_only_watches_spoils_nothing(hook: str, how: str) -> None:
    app = memory_app(plugins=[Broken(hook, how, "log")])

    @app.task(max_attempts=1)
    async def work() -> str:
        return "done"

    async with app:
        job = await work.submit()
        await drain(app)
        assert await job.result(timeout=5) == "done"


@pytest.mark.parametrize("how", ["raises", "hangs"])
@pytest.mark.parametrize("hook", ["before_submit", "around_execute", "leaving", "after_execute"])
async def test_a_plugin_that_must_not_be_left_out_fails_the_job(hook: str, how: str) -> None:
    app = memory_app(plugins=[Broken(hook, how, "fail")])

    @app.task(max_attempts=1)
    async def work() -> str:
        return "done"

    async with app:
        if hook == "before_submit":
            with pytest.raises((LookupError, TimeoutError)):
                await work.submit()
            assert await app.backend.count(["state"]) == []
            return
        job = await work.submit()
        await drain(app)
        with pytest.raises(JobFailed, match="broken"):
            await job.result(timeout=5)


async def test_a_plugin_can_not_hide_the_bodys_error() -> None:
    class Swallow(Plugin):
        name = "swallow"

        @hookimpl
        @asynccontextmanager
        async def around_execute(self) -> AsyncIterator[None]:
            try:
                yield
            except ValueError:
                pass

    app = memory_app(plugins=[Swallow()])

    @app.task(max_attempts=1)
    async def work() -> None:
        raise ValueError("seen")

    async with app:
        job = await work.submit()
        await drain(app)
        with pytest.raises(JobFailed, match="seen"):
            await job.result(timeout=5)


def test_wrong_plugins_are_refused() -> None:
    class Nameless(Plugin): ...

    class Typo(Plugin):
        name = "typo"

        @hookimpl
        def before_sumbit(self) -> None: ...

    class Argument(Plugin):
        name = "argument"

        @hookimpl
        def before_submit(self, job: object) -> None: ...

    for plugin in (Nameless(), Typo(), Argument(), object()):
        with pytest.raises(ConfigurationError):
            PluginManager([plugin])  # type: ignore[list-item]


async def test_plugins_are_found_by_name_and_off_unless_named() -> None:
    assert [p.name for p in find_plugins(["compression", "job_log"])] == ["compression", "job_log"]
    async with memory_app() as app:
        assert app.plugins.names == ()
    async with memory_app(plugins=["job_log", Compression()]) as app:
        assert set(app.plugins.names) == {"job_log", "compression"}
        assert app.codecs
    with pytest.raises(ConfigurationError, match="compression"):
        find_plugins(["no_such_plugin"])


def test_every_hook_says_when_it_is_called() -> None:
    specs = [v for v in vars(hooks).values() if hasattr(v, "bananas_spec")]
    assert len(specs) == 10
    assert all(spec.__doc__ for spec in specs)


async def test_the_job_log_writes_one_json_line_a_run(caplog: pytest.LogCaptureFixture) -> None:
    app = memory_app(plugins=[JobLog()])

    @app.task
    async def good() -> None: ...

    @app.task(max_attempts=1)
    async def bad() -> None:
        raise ValueError

    with caplog.at_level(logging.INFO, logger="bananas.jobs"):
        async with app:
            jobs = [await good.submit(), await bad.submit()]
            await drain(app)
    records = [r for r in caplog.records if r.name == "bananas.jobs"]
    lines = {line["job_name"]: line for line in (json.loads(r.getMessage()) for r in records)}
    assert len(records) == 2
    assert lines["good"]["job_id"] == jobs[0].id
    assert (lines["good"]["status"], lines["good"]["attempt"]) == ("completed", 1)
    assert lines["good"]["duration_ms"] >= 0
    assert (lines["bad"]["status"], lines["bad"]["error_type"]) == ("failed", "ValueError")
    assert {r.levelno for r in records} == {logging.INFO, logging.WARNING}


class TestCompression(PluginConformance):
    @pytest.fixture
    def plugin(self) -> Plugin:
        return Compression(threshold=100)


class TestJobLog(PluginConformance):
    @pytest.fixture
    def plugin(self) -> Plugin:
        return JobLog()


class _Truncating(Plugin):
    """A codec that loses the end of what it encodes."""

    name = "truncating"

    @hookimpl
    def codecs(self) -> Sequence[Any]:
        class Codec:
            name = "cut"

            def encode(self, data: bytes, context: object) -> bytes:
                return data[:-1]

            def decode(self, data: bytes, context: object, max_size: int) -> bytes:
                return data

        return [Codec()]


async def test_the_suite_notices_a_codec_that_loses_data() -> None:
    suite = PluginConformance()
    with pytest.raises(AssertionError):
        suite.test_codecs_undo_themselves_and_refuse_damage(_Truncating())
    with pytest.raises((AssertionError, JobFailed)):
        await suite.test_values_come_back_unchanged(_Truncating())
