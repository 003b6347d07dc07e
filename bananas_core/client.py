"""Clients for programs that know tasks by name only: one with ``await``, one that blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Unpack

from bananas_core.app import Bananas
from bananas_core.connection import pinned
from bananas_core.errors import ConfigurationError
from bananas_core.handle import Job
from bananas_core.keys import key_of, scoped
from bananas_core.options import JobOptions
from bananas_core.plugins import Plugin
from bananas_core.portal import Portal
from bananas_core.record import JobRecord
from bananas_core.unique_rule import OnConflict, UniqueKey, rule_from


class AsyncClient:
    """Submits jobs by name and follows them by id. Connects at the first call.

    Takes the same URLs, plugins and settings as ``Bananas``.
    """

    def __init__(
        self,
        broker_url: str | None = None,
        result_backend_url: str | None = None,
        namespace: str | None = None,
        plugins: Iterable[Plugin | str] = (),
        **settings: Any,
    ) -> None:
        self._app = Bananas(broker_url, result_backend_url, namespace, plugins, **settings)

    async def __aenter__(self) -> AsyncClient:
        await self._app.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def submit_job(
        self,
        name: str,
        payload: Mapping[str, Any] | None = None,
        *,
        tx: Any = None,
        **options: Unpack[JobOptions],
    ) -> str:
        """Accept a job and return its id. With a ``job_id`` of your own it is safe to repeat.
        ``tx``: see ``JobSpec.submit``.

        Raises:
            InvalidPayload, PayloadTooLarge: nothing was sent.
            TransportError, ResultBackendError: the outcome is unknown.
        """
        await self._app.open()
        return (await self._app.submit_job(name, payload, tx=tx, **options)).id

    async def submit_unique_job(
        self,
        name: str,
        payload: Mapping[str, Any] | None = None,
        *,
        unique_key: str | None = None,
        unique_args: Sequence[str] | None = None,
        until: str | None = None,
        period: timedelta | float | None = None,
        on_conflict: str = "existing",
        max_wait: timedelta | float | None = None,
        **options: Unpack[JobOptions],
    ) -> str:
        """Accept a job unless another one of its task holds its key; the id of the job that there
        is now. The words mean what they mean in ``Unique``.

        Args:
            unique_key: the key; or
            unique_args: names in the payload whose values make it. Neither: the whole payload.
            until, period, on_conflict, max_wait: see ``UniqueRule``. ``reschedule`` needs the
                option ``delay``.

        Raises:
            DuplicateJob: with ``on_conflict="raise"``.
            ConfigurationError: the arguments don't go together.
            InvalidPayload, PayloadTooLarge, TransportError, ResultBackendError: as ``submit_job``.
        """
        if unique_key is not None and unique_args is not None:
            raise ConfigurationError("give unique_key or unique_args, not both")
        rule = rule_from(until, period, on_conflict, max_wait)
        if rule.on_conflict is OnConflict.RESCHEDULE and options.get("delay") is None:
            raise ConfigurationError('on_conflict="reschedule" needs a delay')
        if unique_key is None:
            unique_key = key_of(name, payload or {}, unique_args)
        options["unique"] = UniqueKey(key=scoped(name, unique_key), rule=rule)
        return await self.submit_job(name, payload, **options)

    async def submit_many(
        self,
        name: str,
        payloads: Sequence[Mapping[str, Any]],
        **options: Unpack[JobOptions],
    ) -> list[str]:
        """One job for each payload, in batches; ids in order. Raises as ``submit_job``."""
        await self._app.open()
        jobs = await self._app.submit_specs(self._app.specs(name, payloads, options))
        return [job.id for job in jobs]

    async def get_job(self, job_id: str) -> JobRecord:
        """Everything known of a job. Raises JobNotFound."""
        return await (await self._job(job_id)).record()

    async def cancel(self, job_id: str, reason: str | None = None) -> bool:
        """True if it won't run, or its worker is told to stop it. Raises JobNotFound."""
        return await (await self._job(job_id)).cancel(reason)

    async def wait_for_result(self, job_id: str, timeout: timedelta | float | None = None) -> Any:
        """The task's value as plain JSON; raises as ``Job.result``."""
        return await (await self._job(job_id)).result(timeout)

    async def close(self) -> None:
        """Disconnect. Safe to repeat; the next call connects again."""
        await self._app.close()

    async def _job(self, job_id: str) -> Job[Any]:
        await self._app.open()
        return Job(job_id, self._app)


class Client:
    """``AsyncClient`` for code without an event loop. Usable from several threads; after a fork
    the child connects anew."""

    def __init__(
        self,
        broker_url: str | None = None,
        result_backend_url: str | None = None,
        namespace: str | None = None,
        plugins: Iterable[Plugin | str] = (),
        **settings: Any,
    ) -> None:
        self._client = AsyncClient(broker_url, result_backend_url, namespace, plugins, **settings)
        self._portal = Portal()

    def __enter__(self) -> Client:
        self._portal.call(self._client.__aenter__)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def submit_job(
        self,
        name: str,
        payload: Mapping[str, Any] | None = None,
        *,
        tx: Any = None,
        **options: Unpack[JobOptions],
    ) -> str:
        """See ``AsyncClient.submit_job``."""
        tx = pinned(tx)
        return self._portal.call(lambda: self._client.submit_job(name, payload, tx=tx, **options))

    def submit_unique_job(
        self,
        name: str,
        payload: Mapping[str, Any] | None = None,
        *,
        unique_key: str | None = None,
        unique_args: Sequence[str] | None = None,
        until: str | None = None,
        period: timedelta | float | None = None,
        on_conflict: str = "existing",
        max_wait: timedelta | float | None = None,
        **options: Unpack[JobOptions],
    ) -> str:
        """See ``AsyncClient.submit_unique_job``."""
        return self._portal.call(
            lambda: self._client.submit_unique_job(
                name,
                payload,
                unique_key=unique_key,
                unique_args=unique_args,
                until=until,
                period=period,
                on_conflict=on_conflict,
                max_wait=max_wait,
                **options,
            )
        )

    def submit_many(
        self,
        name: str,
        payloads: Sequence[Mapping[str, Any]],
        **options: Unpack[JobOptions],
    ) -> list[str]:
        """See ``AsyncClient.submit_many``."""
        return self._portal.call(lambda: self._client.submit_many(name, payloads, **options))

    def get_job(self, job_id: str) -> JobRecord:
        """See ``AsyncClient.get_job``."""
        return self._portal.call(lambda: self._client.get_job(job_id))

    def cancel(self, job_id: str, reason: str | None = None) -> bool:
        """See ``AsyncClient.cancel``."""
        return self._portal.call(lambda: self._client.cancel(job_id, reason))

    def wait_for_result(self, job_id: str, timeout: timedelta | float | None = None) -> Any:
        """See ``AsyncClient.wait_for_result``."""
        return self._portal.call(lambda: self._client.wait_for_result(job_id, timeout))

    def close(self) -> None:
        """Disconnect and stop the background loop. Safe to repeat."""
        if self._portal.running:
            self._portal.call(self._client.close)
            self._portal.close()
