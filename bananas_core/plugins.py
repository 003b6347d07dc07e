"""Plugins: found, ordered and validated by pluggy; awaited, timed and guarded only here."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol, cast, runtime_checkable

import pluggy

from bananas_core import hooks
from bananas_core.codec import Codecs
from bananas_core.errors import ConfigurationError
from bananas_core.hooks import Decision
from bananas_core.job import Outcome, OutcomeKind

if TYPE_CHECKING:
    from bananas_core.app import Bananas
    from bananas_core.context import JobContext
    from bananas_core.job import Claim, PutAnswer, Session
    from bananas_core.options import Submission

log = logging.getLogger("bananas.plugins")

GROUP: Final = "bananas.plugins"
PUT_OFF: Final = 5.0
"""Seconds that a job waits when a plugin could not say whether it may start."""


class Plugin:
    """Base class of plugins: some hooks (``hooks.py``) and what happens when one goes wrong."""

    name: ClassVar[str] = ""
    """Unique in an app."""
    on_error: ClassVar[Literal["fail", "log"]] = "log"
    """When a hook raises or takes too long: ``fail`` the call or job that it belongs to (what
    must not be left out, like encryption), or ``log`` it and go on (what only watches)."""
    time_limit: ClassVar[float] = 5.0
    """Seconds that one call of an async hook may take."""


@runtime_checkable
class Feature(Protocol):
    """An option of a task that a plugin gives its meaning, like ``unique=Unique(…)``. The task
    only holds it; the app registers the plugin when it meets the first such option."""

    def plugin(self) -> Plugin:
        """A plugin that knows what to do with options of this kind. An app that has one of the
        same name keeps that."""
        ...

    def check(self, task: Any) -> None:
        """Whether the task can have it. Raises ConfigurationError, which refuses the task."""
        ...


class PluginManager:
    """The plugins of one app."""

    def __init__(self, plugins: Iterable[Plugin] = ()) -> None:
        self._pluggy = pluggy.PluginManager(hooks.PROJECT)
        self._pluggy.add_hookspecs(hooks)
        self._calls: dict[str, tuple[tuple[Plugin, Callable[..., Any]], ...]] = {}
        self.submits = False
        """Whether any plugin is asked or told about submitted jobs."""
        for plugin in plugins:
            self.register(plugin)

    @property
    def names(self) -> tuple[str, ...]:
        """Registered plugins, in the order given."""
        return tuple(name for name, _ in self._pluggy.list_name_plugin())

    @property
    def hooks(self) -> tuple[str, ...]:
        """Hooks that some plugin has, by name."""
        return tuple(sorted(self._calls))

    def register(self, plugin: Plugin) -> None:
        """Add a plugin.

        Raises:
            ConfigurationError: no name, a name twice, or a hook that doesn't exist.
        """
        given: object = plugin
        if not (isinstance(given, Plugin) and given.name):
            raise ConfigurationError(f"{plugin!r} is not a bananas.Plugin with a name")
        try:
            self._pluggy.register(plugin, plugin.name)
            self._pluggy.check_pending()
        except (ValueError, pluggy.PluginValidationError) as error:
            raise ConfigurationError(f"plugin {plugin.name!r}: {error}") from error
        self._calls = {
            name: tuple(
                (cast(Plugin, impl.plugin), _narrowed(impl.function, impl.argnames))
                for impl in reversed(caller.get_hookimpls())
            )
            for name, caller in vars(self._pluggy.hook).items()
            if isinstance(caller, pluggy.HookCaller) and caller.get_hookimpls()
        }
        self.submits = self.has("before_submit") or self.has("after_submit")

    def use(self, feature: Feature) -> None:
        """Have the plugin of a task's option, once. Raises ConfigurationError."""
        plugin = feature.plugin()
        if plugin.name not in self.names:
            self.register(plugin)

    def has(self, hook: str) -> bool:
        """Whether any plugin has this hook; what has none costs nothing."""
        return hook in self._calls

    def codecs(self) -> Codecs:
        """All codecs, first plugin first. Raises ConfigurationError for equal names."""
        found: list[Any] = []
        for _, call in reversed(self._calls.get("codecs", ())):
            found.extend(call())
        return Codecs(found)

    def task_registered(self, task: Any) -> None:
        """Tell of a task. What a plugin raises goes through."""
        for _, call in self._calls.get("task_registered", ()):
            call(task=task)

    async def before_submit(self, jobs: list[Submission]) -> list[Submission | Exception]:
        """The batch as the plugins want it; an exception stands for a refused job."""
        result: list[Submission | Exception] = list(jobs)
        for plugin, call in self._calls.get("before_submit", ()):
            places = [i for i, job in enumerate(result) if not isinstance(job, Exception)]
            batch = [result[i] for i in places]
            try:
                answer = await _within(plugin, call(jobs=batch))
                if answer is not None and len(answer) != len(batch):
                    raise ValueError(f"{len(answer)} answers for {len(batch)} jobs")
            except Exception as error:
                answer = [error] * len(batch) if plugin.on_error == "fail" else None
                log.exception("plugin %s failed in before_submit", plugin.name)
            for i, changed in zip(places, answer or batch, strict=True):
                result[i] = changed
        return result

    async def after_submit(self, jobs: list[Submission], answers: list[PutAnswer]) -> None:
        """Tell of a recorded batch. Errors are logged: the jobs are accepted already."""
        for plugin, call in self._calls.get("after_submit", ()):
            try:
                await _within(plugin, call(jobs=jobs, answers=answers))
            except Exception:
                log.exception("plugin %s failed in after_submit", plugin.name)

    async def before_execute(self, app: Bananas, claims: list[Claim]) -> list[Decision | None]:
        """What is to be done with each claim; None: start it. When a plugin of policy ``fail``
        goes wrong, the claims wait a while."""
        result: list[Decision | None] = [None] * len(claims)
        for plugin, call in self._calls.get("before_execute", ()):
            places = [i for i, found in enumerate(result) if found is None]
            batch = [claims[i] for i in places]
            if not batch:
                break
            answer: Sequence[Decision | None] | None
            try:
                answer = await _within(plugin, call(app=app, claims=batch))
                if answer is not None and len(answer) != len(batch):
                    raise ValueError(f"{len(answer)} answers for {len(batch)} claims")
            except Exception as error:
                log.exception("plugin %s failed in before_execute", plugin.name)
                answer = None
                if plugin.on_error == "fail":
                    answer = [_put_off(claim, plugin, error) for claim in batch]
            for i, decision in zip(places, answer or [None] * len(batch), strict=True):
                result[i] = decision
        return result

    async def after_finish(self, app: Bananas, outcomes: list[Outcome]) -> None:
        """Tell of recorded outcomes. Errors are logged: they are recorded already."""
        for plugin, call in self._calls.get("after_finish", ()):
            try:
                await _within(plugin, call(app=app, outcomes=outcomes))
            except Exception:
                log.exception("plugin %s failed in after_finish", plugin.name)

    def around_execute(
        self, claim: Claim, context: JobContext
    ) -> AbstractAsyncContextManager[None]:
        """All plugins' contexts, one inside the other."""
        return self._around(self._calls.get("around_execute", ()), claim, context)

    @asynccontextmanager
    async def _around(
        self,
        calls: Sequence[tuple[Plugin, Callable[..., Any]]],
        claim: Claim,
        context: JobContext,
    ) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for plugin, call in calls:
                guarded = _Guarded(plugin)
                await guarded.enter(call, claim, context)
                stack.push_async_exit(guarded.leave)
            yield

    async def after_execute(self, claim: Claim, outcome: Outcome) -> None:
        """Tell of an outcome. Raises RuntimeError if a plugin of policy ``fail`` did."""
        await self._tell("after_execute", claim=claim, outcome=outcome)

    async def worker_started(self, session: Session) -> None:
        """Raises RuntimeError if a plugin of policy ``fail`` did."""
        await self._tell("worker_started", session=session)

    async def worker_stopping(self, session: Session) -> None:
        """Raises RuntimeError if a plugin of policy ``fail`` did."""
        await self._tell("worker_stopping", session=session)

    async def _tell(self, hook: str, **arguments: Any) -> None:
        for plugin, call in self._calls.get(hook, ()):
            try:
                await _within(plugin, call(**arguments))
            except Exception as error:
                if plugin.on_error == "fail":
                    raise RuntimeError(f"plugin {plugin.name} failed in {hook}: {error}") from error
                log.exception("plugin %s failed in %s", plugin.name, hook)


class _Guarded:
    """One plugin's context manager under its policy for errors and time."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self._manager: AbstractAsyncContextManager[None] | None = None

    async def enter(self, call: Callable[..., Any], claim: Claim, context: JobContext) -> None:
        try:
            manager = call(claim=claim, context=context)
            await _within(self._plugin, manager.__aenter__())
        except Exception as error:
            self._failed(error)
        else:
            self._manager = manager

    async def leave(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: Any
    ) -> bool:
        """Never swallows the body's exception: only the task's own code decides on that."""
        if self._manager is None:
            return False
        try:
            await _within(self._plugin, self._manager.__aexit__(kind, error, trace))
        except Exception as raised:
            if raised is not error:
                self._failed(raised)
        return False

    def _failed(self, error: Exception) -> None:
        if self._plugin.on_error == "fail":
            raise RuntimeError(
                f"plugin {self._plugin.name} failed in around_execute: {error}"
            ) from error
        log.error("plugin %s failed in around_execute", self._plugin.name, exc_info=error)


def find_plugins(names: Iterable[str]) -> list[Plugin]:
    """Plugins by the names of their entry points.

    Raises:
        ConfigurationError: none of that name is installed, or it can't be imported.
    """
    wanted, plugins = list(names), []
    if not wanted:
        return []
    from bananas_core.pair import installed

    found = installed(GROUP)
    for name in wanted:
        if name not in found:
            known = ", ".join(sorted(found)) or "none"
            raise ConfigurationError(f"no plugin named {name!r} is installed; known: {known}")
        try:
            plugins.append(found[name].load()())
        except ImportError as error:
            raise ConfigurationError(f"plugin {name!r} can't be imported: {error}") from error
    return plugins


def _put_off(claim: Claim, plugin: Plugin, error: Exception) -> Decision:
    return Decision(
        outcome=Outcome(
            id=claim.id,
            fence=claim.fence,
            kind=OutcomeKind.SNOOZE,
            delay=PUT_OFF,
            held_by=f"plugin {plugin.name}: {type(error).__name__}: {error!s:.200}",
        )
    )


async def _within(plugin: Plugin, result: Any) -> Any:
    """The result of a hook, awaited if need be, within the plugin's time limit."""
    if not inspect.isawaitable(result):
        return result
    from asyncio import timeout  # not at `import bananas`

    async with timeout(plugin.time_limit):
        return await result


def _narrowed(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """``function`` called with those arguments only that it asks for."""
    wanted = tuple(names)

    def call(**arguments: Any) -> Any:
        return function(**{name: arguments[name] for name in wanted})

    return call
