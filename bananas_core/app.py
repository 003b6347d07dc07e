"""The app: a registry of tasks, and the door to one broker and ledger."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, Unpack, overload

from bananas_core.arguments import Unsent, encode_named
from bananas_core.clock import Clock, SystemClock, new_ids
from bananas_core.codec import Codecs
from bananas_core.connection import Connection, Connections, pinned
from bananas_core.errors import ConfigurationError, JobNotFound, UnknownTask
from bananas_core.handle import Desk, Job
from bananas_core.job import Ready
from bananas_core.message import Backoff, check_name
from bananas_core.options import JobOptions, Submission, check_options, submission
from bananas_core.plugins import Feature, Plugin, PluginManager, find_plugins
from bananas_core.retry import RetryPolicy
from bananas_core.task import (
    AsyncTask,
    JobSpec,
    SyncTask,
    Task,
    check_complete,
    check_one_id,
    make_task,
    merge,
)
from bananas_core.template import Template, Templates
from bananas_core.workflow.handle import Workflow, get_workflow
from bananas_core.workflow.spec import Piece

if TYPE_CHECKING:
    from bananas_core.pair import Pair
    from bananas_core.results import ResultBackend
    from bananas_core.settings import Loaded, Settings
    from bananas_core.transport import Transport

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class TaskDecorator(Protocol):
    """What ``app.task(…)`` with options returns."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> SyncTask[P, R]: ...


class Bananas:
    """An app. Making one reads no settings and connects to nothing; ``open`` does.

    Args:
        broker_url, result_backend_url, namespace, **settings: settings that go before all other
            sources (``sources.py``).
        plugins: plugins, or names of installed ones.
        clock: the producer's clock, for tests.
        make_pair: builds transport and ledger, for tests; default: by the URLs.
    """

    def __init__(
        self,
        broker_url: str | None = None,
        result_backend_url: str | None = None,
        namespace: str | None = None,
        plugins: Iterable[Plugin | str] = (),
        *,
        clock: Clock | None = None,
        make_pair: Callable[[Settings], Pair] | None = None,
        **settings: Any,
    ) -> None:
        self._given = {
            "broker_url": broker_url,
            "result_backend_url": result_backend_url,
            "namespace": namespace,
            **settings,
        }
        plugins = list(plugins)
        self.plugins = PluginManager(p for p in plugins if not isinstance(p, str))
        self._plugin_names = [p for p in plugins if isinstance(p, str)]
        self.clock = clock or SystemClock()
        self._make_pair = make_pair
        self.tasks: dict[str, Task[Any, Any]] = {}
        self._templates = Templates()
        self._told = 0
        self._loaded: Loaded | None = None
        self._max_payload: int | None = None
        self._codecs: Codecs | None = None
        self.connections = Connections(self._connect)

    def __repr__(self) -> str:
        return f"<Bananas {len(self.tasks)} tasks>"

    # -- tasks ---------------------------------------------------------------------------------

    @overload
    def task(  # type: ignore[overload-overlap]
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def task(self, fn: Callable[P, R], /) -> SyncTask[P, R]: ...
    @overload
    def task(
        self,
        /,
        *,
        name: str | None = None,
        routing_key: str = "default",
        priority: int = 50,
        max_attempts: int = 3,
        timeout: timedelta | float | None = None,
        queue_timeout: timedelta | float | None = None,
        result: bool = True,
        retry: RetryPolicy | Backoff | None = None,
        unique: Feature | None = None,
        limits: Feature | Sequence[Feature] | None = None,
    ) -> TaskDecorator: ...
    def task(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        routing_key: str = "default",
        priority: int = 50,
        max_attempts: int = 3,
        timeout: timedelta | float | None = None,
        queue_timeout: timedelta | float | None = None,
        result: bool = True,
        retry: RetryPolicy | Backoff | None = None,
        unique: Feature | None = None,
        limits: Feature | Sequence[Feature] | None = None,
    ) -> Any:
        """Register a function: ``@app.task`` or ``@app.task(…)``.

        Args:
            name: what jobs call it; default: the function's own name.
            routing_key, priority, max_attempts, timeout, queue_timeout: defaults of its jobs.
            result: False keeps no value of a success.
            retry: which exceptions lead to another attempt, and when.
            unique: which of its jobs are the same job, and what becomes of the second.
            limits: how many of its jobs run, in a time or at once.

        Raises:
            ConfigurationError: the function can't be a task, an option is impossible, or the
                name is taken.
        """

        options: Any = {
            "routing_key": routing_key,
            "priority": priority,
            "max_attempts": max_attempts,
            "timeout": timeout,
            "queue_timeout": queue_timeout,
        }

        def register(function: Callable[..., Any]) -> Task[Any, Any]:
            task = make_task(
                function,
                self,
                name=name,
                retry=retry,
                result=result,
                options=options,
                unique=unique,
                limits=limits,
            )
            if task.name in self.tasks:
                raise ConfigurationError(
                    f"a task named {task.name!r} exists already; give one of them another name="
                )
            for feature in task.features:
                self.plugins.use(feature)
            self.tasks[task.name] = task
            if self._codecs is not None:
                self._tell_plugins()
            return task

        return register if fn is None else register(fn)

    def get_task(self, name: str) -> Task[Any, Any]:
        """Raises UnknownTask."""
        try:
            return self.tasks[name]
        except KeyError:
            raise UnknownTask(f"no task named {name!r} is registered in this app") from None

    # -- settings ------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """All settings. Raises ConfigurationError when one of them is not valid."""
        return self._load().settings

    @property
    def sources(self) -> dict[str, str]:
        """Where each setting came from."""
        return self._load().sources

    @property
    def max_payload(self) -> int:
        """Largest payload or result, bytes of JSON."""
        if self._max_payload is None:
            self._max_payload = self.settings.max_payload
        return self._max_payload

    def _load(self) -> Loaded:
        if self._loaded is None:
            from bananas_core.sources import load_settings

            self._loaded = load_settings(self._given)
        return self._loaded

    def use_settings(self, loaded: Loaded) -> None:
        """Have settings that another process has read from the same sources; what this app was
        given goes before them. Raises ConfigurationError when that is not valid."""
        from bananas_core.settings import overlay

        if self._loaded is None:
            self._loaded = overlay(loaded, self._given)

    # -- opening and closing -------------------------------------------------------------------

    async def open(self) -> None:
        """Connect to broker and ledger on the running event loop. Safe to repeat.

        Raises:
            ConfigurationError: a setting, URL or plugin is wrong.
            TransportUnavailable, ResultBackendUnavailable: can't be reached.
        """
        await self.connections.open()

    async def close(self) -> None:
        """Finish what was submitted, and disconnect. Safe to repeat."""
        await self.connections.close()

    async def __aenter__(self) -> Bananas:
        await self.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def close_blocking(self) -> None:
        """Disconnect what blocking calls opened. Safe to repeat."""
        self.connections.close_blocking()

    @property
    def pair(self) -> Pair | None:
        """Transport and ledger while the app is open, else None."""
        own = self.connections.own
        return None if own is None else own.pair

    @property
    def backend(self) -> ResultBackend:
        """The ledger. Raises ConfigurationError unless the app is open."""
        return self.connections.here().pair.backend

    @property
    def transport(self) -> Transport:
        """The transport. Raises ConfigurationError unless the app is open."""
        return self.connections.here().pair.transport

    @property
    def codecs(self) -> Codecs:
        """Encodings of payloads and results that the plugins bring."""
        if self._codecs is None:
            for plugin in find_plugins((*self._plugin_names, *self.settings.plugins)):
                if plugin.name not in self.plugins.names:
                    self.plugins.register(plugin)
            self._codecs = self.plugins.codecs()
            self._tell_plugins()
        return self._codecs

    def _tell_plugins(self) -> None:
        """Each task once."""
        for task in list(self.tasks.values())[self._told :]:
            self._told += 1
            self.plugins.task_registered(task)

    def _connect(self) -> Connection:
        """A new connection for the running loop, not open yet."""
        from bananas_core.pair import load_pair
        from bananas_core.settings import make_default_folder

        settings = self.settings
        if self._make_pair is not None:
            pair = self._make_pair(settings)
        else:
            make_default_folder(settings.broker_url)
            pair = load_pair(settings.broker_url, settings.result_backend_url, settings.namespace)
        return Connection(
            pair, self.plugins, self.codecs, clock=self.clock, max_payload=settings.max_payload
        )

    # -- jobs ----------------------------------------------------------------------------------

    async def submit_job(
        self,
        name: str,
        payload: Mapping[str, Any] | None = None,
        *,
        tx: Any = None,
        **options: Unpack[JobOptions],
    ) -> Job[Any]:
        """Submit a job by its task's name. If the task is registered here, its options and
        annotations apply; else the payload goes as it is, and the worker checks it. ``tx``: see
        ``JobSpec.submit``.

        Raises:
            InvalidPayload, PayloadTooLarge: nothing was sent.
            TransportError, ResultBackendError: the outcome is unknown; see ``Task.submit``.
        """
        return (await self.submit_specs(self.specs(name, [payload or {}], options), tx=tx))[0]

    def specs(
        self, name: str, payloads: Sequence[Mapping[str, Any]], options: JobOptions
    ) -> list[JobSpec[Any]]:
        """Unsent jobs of one task by its name. Raises InvalidPayload."""
        task = self.tasks.get(name)
        if task is not None:
            return task.specs(payloads, options)
        options = merge(options, {})
        check_name("name", name)
        check_options(options)
        check_one_id(options, len(payloads))
        template, most = self._templates.get(name, options), self.max_payload
        return [
            JobSpec(
                self,
                name,
                Unsent(payload=encode_named(payload, name, most)),
                options,
                template=template,
            )
            for payload in payloads
        ]

    async def get_job(self, job_id: str) -> Job[Any]:
        """A handle from an id. Raises JobNotFound."""
        (job,) = await self.backend.get([job_id])
        if job is None:
            raise JobNotFound(f"there is no job {job_id}")
        return self._handle(job_id, self.tasks.get(job.name))

    async def submit_specs(
        self, specs: Sequence[JobSpec[Any]], *, tx: Any = None
    ) -> list[Job[Any]]:
        """Submit unsent jobs; handles in order. Raises as ``Task.submit`` does. ``tx``: see
        ``JobSpec.submit``."""
        ids = await self._sender(specs, tx)(self.connections.here())
        return [Job(id, self, spec.annotation) for id, spec in zip(ids, specs, strict=True)]

    def submit_specs_blocking(
        self, specs: Sequence[JobSpec[Any]], *, tx: Any = None
    ) -> list[Job[Any]]:
        """``submit_specs`` for code without an event loop."""
        ids = self.connections.elsewhere(self._sender(specs, tx))
        return [Job(id, self, spec.annotation) for id, spec in zip(ids, specs, strict=True)]

    def submit_alike(
        self, template: Template, payloads: Sequence[bytes]
    ) -> Coroutine[Any, Any, list[str]]:
        """Submit jobs of one kind; ids in order. Raises as ``Task.submit`` does."""
        if not template.simple:
            self.use_options(template.options)
        return self.connections.here().submitter.submit_alike(template, payloads)

    def submit_alike_blocking(self, template: Template, payloads: Sequence[bytes]) -> list[str]:
        """``submit_alike`` for code without an event loop."""
        if not template.simple:
            self.use_options(template.options)
        return self.connections.elsewhere(
            lambda connection: connection.submitter.submit_alike(template, payloads)
        )

    def _sender(
        self, specs: Sequence[JobSpec[Any]], tx: Any
    ) -> Callable[[Connection], Coroutine[Any, Any, list[str]]]:
        """How to send them. Raises InvalidPayload, ConfigurationError."""
        template = specs[0].template if specs and tx is None else None
        if template is None or any(spec.template is not template for spec in specs):
            jobs, tx = self._submissions(specs), pinned(tx)
            return lambda connection: connection.submit(jobs, tx=tx)
        for spec in specs:
            check_complete(spec)
        self.use_options(template.options)
        payloads = [spec.payload for spec in specs]
        return lambda connection: connection.submitter.submit_alike(template, payloads)

    def _submissions(self, specs: Sequence[JobSpec[Any]]) -> list[Submission]:
        for spec in specs:
            check_complete(spec)
            self.use_options(spec.options_given)
        now = self.clock.now()
        return [
            submission(id, spec.name, spec.payload, spec.options_given, now=now)
            for id, spec in zip(new_ids(len(specs)), specs, strict=True)
        ]

    def use_options(self, options: JobOptions) -> None:
        """Have the plugins that options of a job need. Raises ConfigurationError."""
        unique = options.get("unique")
        # Asking a protocol costs as much as all the rest of a submission.
        if unique is not None and isinstance(unique, Feature):
            self.plugins.use(unique)

    def _handle(self, id: str, task: Task[Any, Any] | None) -> Job[Any]:
        return Job(id, self, None if task is None else task.result_type)

    async def send_ready(self, ready: Sequence[Ready]) -> None:
        """Send what a signal made pending."""
        await self.connections.here().send_ready(ready)

    # -- workflows -----------------------------------------------------------------------------

    async def submit_workflow(
        self,
        piece: Piece,
        *,
        workflow_id: str | None = None,
        deadline: timedelta | float | None = None,
    ) -> Workflow:
        """Submit a chain, group, chord or dag of this app's tasks; see its own ``submit``."""
        send, handle = self._workflow(piece, workflow_id, deadline)
        await send(self.connections.here())
        return handle

    def submit_workflow_blocking(
        self,
        piece: Piece,
        *,
        workflow_id: str | None = None,
        deadline: timedelta | float | None = None,
    ) -> Workflow:
        """``submit_workflow`` for code without an event loop."""
        send, handle = self._workflow(piece, workflow_id, deadline)
        self.connections.elsewhere(send)
        return handle

    async def get_workflow(self, workflow_id: str) -> Workflow:
        """A handle from an id. Raises JobNotFound, or InvalidWorkflow if it is a job's."""
        await get_workflow(self, workflow_id)
        return Workflow(workflow_id, self)

    def _workflow(
        self, piece: Piece, id: str | None, deadline: timedelta | float | None
    ) -> tuple[Callable[[Connection], Coroutine[Any, Any, None]], Workflow]:
        """How to send it, and its handle. Raises InvalidWorkflow."""
        from bananas_core.workflow.compile import annotation_of, compile_workflow
        from bananas_core.workflow.submit import submit_compiled  # most programs have none

        compiled = compile_workflow(
            piece,
            new_ids(1)[0] if id is None else check_name("job_id", id),
            deadline=deadline,
            tasks=self.tasks or None,
            use=self.use_options,
            host=self,
        )
        handle = Workflow(compiled.workflow, self, annotation_of(piece))
        now = self.clock.now()
        return lambda door: submit_compiled(door, compiled, now=now), handle

    # -- blocking calls ------------------------------------------------------------------------

    def run_blocking(self, function: Callable[[Desk], Coroutine[Any, Any, T]]) -> T:
        """Run ``function`` on another thread's event loop, with a connection that is open there.

        Raises:
            BananasError: called on a thread that runs an event loop.
        """
        return self.connections.elsewhere(function)
