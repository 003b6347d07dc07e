"""A task: a registered function with its options and its signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, Unpack, overload

import msgspec

from bananas_core.arguments import (
    Arguments,
    Later,
    Unsent,
    encode_value,
    local_names,
)
from bananas_core.clock import seconds
from bananas_core.errors import ConfigurationError, InvalidPayload
from bananas_core.handle import Job, Office
from bananas_core.message import Backoff, check_name, encode_if_simple
from bananas_core.options import JobOptions, check_options
from bananas_core.plugins import Feature
from bananas_core.retry import RetryPolicy
from bananas_core.template import Template, Templates
from bananas_core.workflow.spec import Host as WorkflowHost
from bananas_core.workflow.spec import Piece

P = ParamSpec("P")
R = TypeVar("R")


class Host(WorkflowHost, Office, Protocol):
    """What a task needs of its app."""

    async def submit_specs(
        self, specs: Sequence[JobSpec[Any]], *, tx: Any = None
    ) -> list[Job[Any]]:
        """Submit in order."""
        ...

    def submit_specs_blocking(
        self, specs: Sequence[JobSpec[Any]], *, tx: Any = None
    ) -> list[Job[Any]]:
        """The same for code without an event loop."""
        ...

    def submit_alike(
        self, template: Template, payloads: Sequence[bytes]
    ) -> Coroutine[Any, Any, list[str]]:
        """Submit jobs of one kind; ids in order."""
        ...

    def submit_alike_blocking(self, template: Template, payloads: Sequence[bytes]) -> list[str]:
        """The same for code without an event loop."""
        ...


class JobSpec(Piece, Generic[R]):
    """A job that was not sent yet: a task, encoded arguments, and options. Never changes. ``|``
    makes a chain of it and what comes next."""

    __slots__ = (
        "_arguments",
        "_unsent",
        "annotation",
        "host",
        "name",
        "options_given",
        "template",
    )

    def __init__(
        self,
        host: Host,
        name: str,
        unsent: Unsent,
        options: JobOptions,
        annotation: Any = None,
        arguments: Arguments | None = None,
        template: Template | None = None,
    ) -> None:
        """``template``: of ``name`` and ``options``, if it is there already."""
        self.host = host
        self.name = name
        self.options_given = options
        self.annotation = annotation
        self.template = template
        self._unsent = unsent
        self._arguments = arguments

    def __repr__(self) -> str:
        return f"<JobSpec {self.name} {self.payload.decode():.80}>"

    @property
    def payload(self) -> bytes:
        """The arguments that are known, as JSON."""
        return self._unsent.payload

    @property
    def lacks(self) -> tuple[str, ...]:
        """Required arguments that are missing: an earlier part of a workflow must give them."""
        return self._unsent.lacks

    @property
    def later(self) -> tuple[tuple[tuple[str | int, ...], Later], ...]:
        """Where in the arguments results of earlier parts of a workflow belong."""
        return self._unsent.later

    def free(self) -> list[str] | None:
        """Arguments that are not given, the required ones first; None: the task is not known."""
        if self._arguments is None:
            return None
        return self._arguments.free(msgspec.json.decode(self.payload, type=dict[str, msgspec.Raw]))

    def options(self, **options: Unpack[JobOptions]) -> JobSpec[R]:
        """A copy with these options set over earlier ones.

        Raises:
            InvalidPayload: an unknown option or an impossible value.
        """
        merged = merge(self.options_given, options)
        check_options(merged)
        return JobSpec(self.host, self.name, self._unsent, merged, self.annotation, self._arguments)

    async def submit(self, *, tx: Any = None) -> Job[R]:
        """Submit it; see ``Task.submit``. Submitting a spec twice makes two jobs, unless it has
        a ``job_id``.

        Args:
            tx: a connection with a transaction of yours in the ledger's database: the job exists
                if and only if that commits. Which kinds it may be is for the ledger to say.

        Raises:
            UnsupportedCapability: the ledger can't do that, or the job has a unique key.
            ResultBackendError: nothing was put, and the transaction has to be rolled back.
        """
        return (await self.host.submit_specs([self], tx=tx))[0]

    def submit_blocking(self, *, tx: Any = None) -> Job[R]:
        """``submit`` for code without an event loop."""
        return self.host.submit_specs_blocking([self], tx=tx)[0]


class Task(Generic[P, R]):
    """A function that can be submitted; made by ``@app.task``. ``R`` is what a job results in.

    Calling it runs the function here and now, without any job.
    """

    is_async: bool

    def __init__(
        self,
        fn: Callable[..., Any],
        host: Host,
        *,
        name: str,
        routing_key: str = "default",
        priority: int = 50,
        max_attempts: int = 3,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        result: bool = True,
        retry: RetryPolicy | None = None,
        unique: Feature | None = None,
        limits: Sequence[Feature] = (),
    ) -> None:
        self.name = name
        self.fn = fn
        self.routing_key = routing_key
        self.priority = priority
        self.max_attempts = max_attempts
        self.timeout = timeout
        self.queue_timeout = queue_timeout
        self.result = result
        self.retry = retry or RetryPolicy()
        self.unique = unique
        self.limits = tuple(limits)
        self._host = host
        self._result_of = f"result of {name}"
        self._arguments = Arguments(fn, name, local_names(fn))
        self._templates = Templates()
        self.__doc__ = fn.__doc__
        self.__module__ = getattr(fn, "__module__", "")
        self.__name__ = getattr(fn, "__name__", name)
        self.__qualname__ = getattr(fn, "__qualname__", name)
        self.__wrapped__ = fn

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    async def submit(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Accept a job with these arguments. When this returns, the job is recorded and sent.

        Raises:
            InvalidPayload, PayloadTooLarge: the arguments; nothing was sent.
            TransportError, ResultBackendError: the outcome is unknown. To try again safely,
                choose the id: ``task.job(…).options(job_id=…).submit()``.
        """
        host, arguments = self._host, self._arguments
        payload = arguments.encode(args, kwargs, host.max_payload)
        (id,) = await host.submit_alike(self._template, (payload,))
        return Job(id, host, arguments.result_type)

    async def submit_many(
        self,
        arguments: Sequence[Mapping[str, Any]],
        *,
        tx: Any = None,
        **options: Unpack[JobOptions],
    ) -> list[Job[R]]:
        """Submit one job for each mapping of named arguments, in batches; handles in order.
        ``tx``: see ``JobSpec.submit``.

        Raises:
            InvalidPayload: one of them is not valid; nothing was sent.
            TransportError, ResultBackendError: it is unknown which of them were accepted.
        """
        if tx is not None:
            return await self._host.submit_specs(self.specs(arguments, options), tx=tx)
        template, payloads = self._many(arguments, options)
        return self._handles(await self._host.submit_alike(template, payloads))

    @overload
    def job(self) -> JobSpec[R]: ...
    @overload
    def job(self, *args: P.args, **kwargs: P.kwargs) -> JobSpec[R]: ...
    def job(self, *args: Any, **kwargs: Any) -> JobSpec[R]:
        """The job that ``submit`` would send, unsent. In a workflow, arguments may be missing
        that earlier parts give, or be their results; type checkers take all or none, ``step``
        takes some.

        Raises:
            InvalidPayload: what is given doesn't fit the signature, or has no JSON form.
        """
        unsent = self._arguments.unsent(args, kwargs, self._host.max_payload)
        return self._spec(unsent, self._template)

    def step(self, *args: Any, **kwargs: Any) -> JobSpec[R]:
        """``job`` for type checkers that are not to miss arguments: a step of a workflow which
        gets the others from earlier steps."""
        return self.job(*args, **kwargs)

    def submit_blocking(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """``submit`` for code without an event loop."""
        payload = self._arguments.encode(args, kwargs, self._host.max_payload)
        ids = self._host.submit_alike_blocking(self._template, (payload,))
        return self._handles(ids)[0]

    def submit_many_blocking(
        self,
        arguments: Sequence[Mapping[str, Any]],
        *,
        tx: Any = None,
        **options: Unpack[JobOptions],
    ) -> list[Job[R]]:
        """``submit_many`` for code without an event loop."""
        if tx is not None:
            return self._host.submit_specs_blocking(self.specs(arguments, options), tx=tx)
        template, payloads = self._many(arguments, options)
        return self._handles(self._host.submit_alike_blocking(template, payloads))

    @property
    def features(self) -> tuple[Feature, ...]:
        """Options that plugins give their meaning."""
        return self.limits if self.unique is None else (self.unique, *self.limits)

    @property
    def result_type(self) -> Any:
        """The return annotation; None when there is none."""
        self._arguments.compile()
        return self._arguments.result_type

    def decode_arguments(self, payload: bytes) -> dict[str, Any]:
        """Plain JSON to the arguments of a call, converted as annotated. Raises InvalidPayload."""
        return self._arguments.decode(payload)

    def encode_result(self, value: object) -> bytes:
        """A return value as plain JSON.

        Raises:
            InvalidPayload: it has no JSON form, or is NaN or infinite.
            PayloadTooLarge: over the app's ``max_payload``.
        """
        raw, most = encode_if_simple(value), self._host.max_payload
        if raw is not None and len(raw) <= most:
            return raw
        return encode_value(value, self._result_of, most)

    def specs(
        self, arguments: Sequence[Mapping[str, Any]], options: JobOptions
    ) -> list[JobSpec[R]]:
        """Unsent jobs, one for each mapping of named arguments. Raises InvalidPayload."""
        template, payloads = self._many(arguments, options)
        return [self._spec(Unsent(payload=payload), template) for payload in payloads]

    def _many(
        self, arguments: Sequence[Mapping[str, Any]], options: JobOptions
    ) -> tuple[Template, list[bytes]]:
        """What the jobs have in common, and the arguments of each. Raises InvalidPayload."""
        template = self._template
        if options:
            merged = merge(self._defaults(), options)
            check_options(merged)
            check_one_id(merged, len(arguments))
            template = self._templates.get(self.name, merged)
        encode, most = self._arguments.encode_named, self._host.max_payload
        return template, [encode(mapping, most) for mapping in arguments]

    def _handles(self, ids: Sequence[str]) -> list[Job[R]]:
        host, annotation = self._host, self._arguments.result_type
        return [Job(id, host, annotation) for id in ids]

    def _spec(self, unsent: Unsent, template: Template) -> JobSpec[R]:
        arguments = self._arguments
        return JobSpec(
            self._host,
            self.name,
            unsent,
            template.options,
            arguments.result_type,
            arguments,
            template,
        )

    @cached_property
    def _template(self) -> Template:
        """Of its jobs without options of their own."""
        return self._templates.get(self.name, self._defaults())

    def _defaults(self) -> JobOptions:
        options = JobOptions(
            routing_key=self.routing_key, priority=self.priority, max_attempts=self.max_attempts
        )
        if self.timeout is not None:
            options["timeout"] = self.timeout
        if self.queue_timeout is not None:
            options["queue_timeout"] = self.queue_timeout
        return options


class AsyncTask(Task[P, R]):
    """A task whose function is ``async def``."""

    is_async = True

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here."""
        return await self.fn(*args, **kwargs)  # type: ignore[no-any-return]


class SyncTask(Task[P, R]):
    """A task whose function is ``def``; workers run it on a thread or in a process."""

    is_async = False

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here."""
        return self.fn(*args, **kwargs)  # type: ignore[no-any-return]


def make_task(
    fn: Callable[..., Any],
    host: Host,
    *,
    name: str | None,
    retry: RetryPolicy | Backoff | None,
    result: bool,
    options: JobOptions,
    unique: Feature | None = None,
    limits: Feature | Sequence[Feature] | None = None,
) -> Task[Any, Any]:
    """Check a function and its options, and build the task.

    Raises:
        ConfigurationError: the function can't be a task, or an option is impossible.
    """
    name = name or str(getattr(fn, "__name__", ""))
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise ConfigurationError(f"task {name!r} is a generator; return a value instead")
    given: object = fn
    if inspect.isclass(given) or isinstance(given, Task) or not callable(given):
        raise ConfigurationError(f"a task is a function, not {fn!r}")
    if isinstance(retry, Backoff):
        retry = RetryPolicy(backoff=retry)
    if retry is not None and not isinstance(retry, RetryPolicy):
        raise ConfigurationError(f"retry of task {name!r} is a RetryPolicy or a Backoff")
    limits = (limits,) if isinstance(limits, Feature) else tuple(limits or ())
    for feature in (*(() if unique is None else (unique,)), *limits):
        if not isinstance(feature, Feature):
            raise ConfigurationError(
                f"task {name!r}: {feature!r} is nothing that a plugin knows, like Unique(…)"
            )
    options = merge(options, {})
    try:
        check_name("name", name)
        check_options(options)
    except InvalidPayload as error:
        raise ConfigurationError(f"task {name!r}: {error}") from error
    timeout, queue_timeout = options.get("timeout"), options.get("queue_timeout")
    is_async = inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__)
    kind = AsyncTask if is_async else SyncTask
    task: Task[Any, Any] = kind(
        fn,
        host,
        name=name,
        routing_key=options.get("routing_key", "default"),
        priority=int(options.get("priority", 50)),
        max_attempts=options.get("max_attempts", 3),
        timeout=None if timeout is None else seconds(timeout),
        queue_timeout=None if queue_timeout is None else seconds(queue_timeout),
        result=result,
        retry=retry,
        unique=unique,
        limits=limits,
    )
    for feature in task.features:
        feature.check(task)
    return task


def check_complete(spec: JobSpec[Any]) -> None:
    """Raises InvalidPayload when a job can't be sent alone."""
    if spec.lacks:
        raise InvalidPayload(f"{spec.name} needs argument {spec.lacks[0]!r}")
    if spec.later:
        _, later = spec.later[0]
        raise InvalidPayload(f"{spec.name}: {later!r} is known only inside a workflow")


def check_one_id(options: JobOptions, jobs: int) -> None:
    """Raises InvalidPayload when several jobs would get the same id."""
    if "job_id" in options and jobs > 1:
        raise InvalidPayload("job_id names one job; leave it out for several")


def merge(options: JobOptions, over: JobOptions) -> JobOptions:
    """Both, the second going first; None means not given."""
    merged = {**options, **over}
    return {k: v for k, v in merged.items() if v is not None}  # type: ignore[return-value]
