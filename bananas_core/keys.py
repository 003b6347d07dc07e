"""Keys made from a job's arguments: by their names, by a template or by a function.

Unique jobs and limits count by them. A key is what the *payload* says: arguments as plain JSON,
with the defaults of the signature for those that were left out.
"""

from __future__ import annotations

import hashlib
import inspect
import string
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any, Final
from urllib.parse import quote

import msgspec

from bananas_core.errors import ConfigurationError, InvalidPayload

LONGEST: Final = 200
"""Characters of a key; a longer one is replaced by its digest."""
_SAFE: Final = "@+=,!*'()$&;"
"""Stay as they are in the value of a template's field, besides letters, digits and ``_.-~``."""


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """What a function that makes keys is told of a job."""

    name: str
    payload: dict[str, Any]
    """Named arguments as plain JSON, defaults included."""
    routing_key: str = "default"
    priority: int = 50


KeySource = str | Sequence[str] | Callable[[JobView], object] | None
"""``"{user_id}:{kind}"``, names of arguments, a function, or None for all arguments."""


class KeyMaker:
    """Makes keys for the jobs of one task; without ``arguments``, of a task not known here.

    Raises:
        ConfigurationError: the template is malformed, or names an argument that isn't there.
    """

    def __init__(self, source: KeySource, arguments: TaskArguments | None = None) -> None:
        self._arguments = arguments
        self._call = source if callable(source) else None
        self._all = source is None
        self._parts: list[tuple[str, tuple[str, ...]]] = []
        self._names: tuple[str, ...] = ()
        if isinstance(source, str):
            self._parts = _parse(source)
            self._know(path[0] for _, path in self._parts if path)
        elif source is not None and not callable(source):
            self._names = _names(source)
            self._know(self._names)

    def make(self, view: JobView) -> str:
        """The key of a job, not yet scoped or shortened.

        Raises:
            InvalidPayload: it has no such argument, or the function failed.
        """
        payload = view.payload
        if self._arguments is not None and self._arguments.defaults:
            payload = {**self._arguments.defaults, **payload}
        if self._call is not None:
            return self._called(msgspec.structs.replace(view, payload=payload))
        if self._all:
            return _plain(payload)
        if self._parts:
            return "".join(
                text + (_quoted(_at(payload, path, view.name)) if path else "")
                for text, path in self._parts
            )
        return _plain([_at(payload, (name,), view.name) for name in self._names])

    def _called(self, view: JobView) -> str:
        assert self._call is not None
        try:
            value = self._call(view)
        except Exception as error:
            raise InvalidPayload(
                f"the key of {view.name} can't be made: {type(error).__name__}: {error}"
            ) from error
        if value is None or inspect.isawaitable(value):
            raise InvalidPayload(f"the key function of {view.name} returned {value!r}")
        return value if isinstance(value, str) else _plain(value)

    def _know(self, names: Any) -> None:
        if self._arguments is not None:
            for name in names:
                self._arguments.check(name)


class TaskArguments:
    """The names and the default values of a task's arguments."""

    def __init__(self, fn: Callable[..., Any], task: str) -> None:
        parameters = inspect.signature(fn).parameters.values()
        self._task = task
        self._open = any(p.kind is Parameter.VAR_KEYWORD for p in parameters)
        self._names = [p.name for p in parameters if p.kind is not Parameter.VAR_KEYWORD]
        self.defaults: dict[str, Any] = {}
        """As plain JSON; those that have no such form are left out."""
        for parameter in parameters:
            if parameter.default is not Parameter.empty:
                try:
                    plain = msgspec.json.decode(msgspec.json.encode(parameter.default))
                except (TypeError, ValueError, msgspec.MsgspecError):
                    continue
                self.defaults[parameter.name] = plain

    def check(self, name: str) -> None:
        """Raises ConfigurationError if the task has no argument of this name."""
        if name not in self._names and not self._open:
            known = ", ".join(self._names) or "none"
            raise ConfigurationError(
                f"task {self._task!r} has no argument {name!r} to make a key of; it has: {known}"
            )


def scoped(task: str | None, text: str) -> str:
    """The full key, for one task alone or (None) for all: printable and not long. Names of tasks
    have no white space, so that keys of two scopes are never the same."""
    key = f"{task or ''} {text}"
    if len(key) <= LONGEST and key.isascii() and key.isprintable():
        return key
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    start = task if task is not None and task.isascii() and len(task) <= 100 else ""
    return f"{start} #{digest}"


def key_of(name: str, payload: Mapping[str, Any], arguments: Sequence[str] | None) -> str:
    """The key that arguments make, of a task that is not known here; not yet scoped.

    Raises:
        InvalidPayload: one of them is not in the payload, or has no JSON form.
    """
    plain = msgspec.json.decode(_plain(dict(payload)))
    return KeyMaker(arguments).make(JobView(name=name, payload=plain))


def view_of(name: str, payload: bytes, routing_key: str, priority: int) -> JobView:
    """A job as key functions see it. ``payload``: a JSON object."""
    return JobView(
        name=name,
        payload=msgspec.json.decode(payload, type=dict[str, Any]),
        routing_key=routing_key,
        priority=priority,
    )


def _parse(template: str) -> list[tuple[str, tuple[str, ...]]]:
    """Literal text, each with the path of the field after it (empty at the end)."""
    parts: list[tuple[str, tuple[str, ...]]] = []
    try:
        for text, field, spec, conversion in string.Formatter().parse(template):
            if field is None:
                parts.append((text, ()))
                continue
            path = tuple(field.split("."))
            if (
                spec
                or conversion
                or not all(step.isidentifier() or step.isdigit() for step in path)
            ):
                raise ValueError(f"{{{field}}} is not a name, or names joined by dots")
            parts.append((text, path))
    except ValueError as error:
        raise ConfigurationError(f"key template {template!r}: {error}") from error
    if not parts:
        raise ConfigurationError("a key template is not empty")
    return parts


def _names(source: Sequence[str]) -> tuple[str, ...]:
    names: tuple[object, ...] = tuple(source)
    if not all(isinstance(name, str) and name for name in names):
        raise ConfigurationError(f"a key is made of names of arguments, not of {source!r}")
    return tuple(source)


def _at(payload: Any, path: tuple[str, ...], task: str) -> Any:
    value = payload
    for step in path:
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, TypeError, ValueError):
            raise InvalidPayload(
                f"{task} got no argument {'.'.join(path)!r}, which its key is made of"
            ) from None
    return value


def _quoted(value: Any) -> str:
    """A field's text. What could be mistaken for the template's own text is escaped."""
    return quote(value if isinstance(value, str) else _plain(value), safe=_SAFE)


def _plain(value: Any) -> str:
    """Equal values as equal text, whatever the order of an object's names was."""
    try:
        return msgspec.json.encode(value, order="deterministic").decode()
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise InvalidPayload(f"a key can't be made of {value!r:.80}: {error}") from error
