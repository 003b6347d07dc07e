"""Clients for programs that know tasks by name only: one with ``await``, one that blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Unpack

from bananas_core.app import Bananas
from bananas_core.handle import Job
from bananas_core.options import JobOptions
from bananas_core.plugins import Plugin
from bananas_core.portal import Portal
from bananas_core.record import JobRecord


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
        **options: Unpack[JobOptions],
    ) -> str:
        """Accept a job and return its id. With a ``job_id`` of your own it is safe to repeat.

        Raises:
            InvalidPayload, PayloadTooLarge: nothing was sent.
            TransportError, ResultBackendError: the outcome is unknown.
        """
        await self._app.open()
        return (await self._app.submit_job(name, payload, **options)).id

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
        **options: Unpack[JobOptions],
    ) -> str:
        """See ``AsyncClient.submit_job``."""
        return self._portal.call(lambda: self._client.submit_job(name, payload, **options))

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
