"""What every plugin must keep to. An author writes

class TestMyPlugin(PluginConformance):
    @pytest.fixture
    def plugin(self):
        return MyPlugin()
"""

from __future__ import annotations

import os

import msgspec
import pytest

from bananas_core.app import Bananas
from bananas_core.codec import CodecContext
from bananas_core.errors import ConfigurationError, InvalidPayload, JobFailed
from bananas_core.job import JobState
from bananas_core.plugins import Plugin, PluginManager
from bananas_core.testing.helpers import drain, memory_app

LARGE = 1 << 20


class PluginConformance:
    """Jobs mean the same with the plugin as without it."""

    @pytest.fixture
    def plugin(self) -> Plugin:
        """The plugin under test; each test gets a new one."""
        raise pytest.UsageError("override the `plugin` fixture")

    def test_it_says_who_it_is_and_what_happens_on_errors(self, plugin: Plugin) -> None:
        assert plugin.name
        assert plugin.on_error in ("fail", "log")
        assert plugin.time_limit > 0
        assert PluginManager([plugin]).names == (plugin.name,)

    def test_it_is_registered_once(self, plugin: Plugin) -> None:
        manager = PluginManager([plugin])
        with pytest.raises(ConfigurationError):
            manager.register(plugin)

    def test_it_has_at_least_one_hook(self, plugin: Plugin) -> None:
        manager = PluginManager([plugin])
        assert manager.hooks, f"{plugin.name} has no method marked with @bananas.hookimpl"

    async def test_values_come_back_unchanged(self, plugin: Plugin) -> None:
        async with _echo_app(plugin) as app:
            texts = ["", "x", "ü" * 5_000, "0" * 400_000, os.urandom(400_000).hex()]
            jobs = [await app.submit_job("echo", {"value": text}) for text in texts]
            await drain(app)
            for job, text in zip(jobs, texts, strict=True):
                assert await job.result(timeout=10) == text
                assert (await job.record()).payload == {"value": text}

    async def test_failures_stay_failures(self, plugin: Plugin) -> None:
        async with _echo_app(plugin) as app:
            job = await app.submit_job("fail", {})
            await drain(app)
            with pytest.raises(JobFailed) as failed:
                await job.result(timeout=10)
            assert failed.value.error_type == "ValueError"
            assert (await job.record()).attempt == 1

    async def test_cancelled_jobs_do_not_run(self, plugin: Plugin) -> None:
        async with _echo_app(plugin) as app:
            job = await app.submit_job("echo", {"value": "x"})
            assert await job.cancel()
            await drain(app)
            assert await job.status() is JobState.CANCELLED

    def test_codecs_undo_themselves_and_refuse_damage(self, plugin: Plugin) -> None:
        context = CodecContext(job_id="j", name="task", kind="payload")
        manager = PluginManager([plugin])
        codecs = manager.codecs()
        plain = msgspec.json.encode({"text": "abc" * 10_000})
        encoded = codecs.encode(plain, context)
        assert codecs.decode(encoded, context, LARGE) == plain
        if encoded.encoding:
            damaged = type(encoded)(encoding=encoded.encoding, data=encoded.data[:-5])
            with pytest.raises(InvalidPayload):
                codecs.decode(damaged, context, LARGE)
            with pytest.raises(InvalidPayload):
                codecs.decode(encoded, context, 1000)


def _echo_app(plugin: Plugin) -> Bananas:
    app = memory_app(plugins=[plugin])

    @app.task
    async def echo(value: str) -> str:
        return value

    @app.task(max_attempts=1)
    def fail() -> None:
        raise ValueError("as it should")

    return app
