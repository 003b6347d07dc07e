"""A task's signature as data: binds a call to names, checks it, and reads it back from JSON.

One msgspec Struct is compiled per task from the annotations, when it is first needed, so that
annotations may name classes that are defined below the task.
"""

from __future__ import annotations

import inspect
import re
import sys
import typing
from collections.abc import Callable, Container, Mapping
from functools import partial
from inspect import Parameter
from types import NoneType
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType, convert
from msgspec.structs import asdict

from bananas_core.errors import ConfigurationError, InvalidPayload
from bananas_core.message import encode_if_simple, encode_payload

_SCALARS: Final = frozenset({str, int, float, bool, bytes, NoneType})
"""Types whose values are proved good by ``convert`` alone."""


class Later:
    """Base of what stands in arguments for a value that is known only when the job runs."""

    __slots__ = ()


class Unsent(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of a job that was not sent yet."""

    payload: bytes
    lacks: tuple[str, ...] = ()
    """Required arguments that are not given."""
    later: tuple[tuple[tuple[str | int, ...], Later], ...] = ()
    """What is known later, null in ``payload``, and where it belongs."""


class Arguments:
    """Binding, validation and decoding for one function."""

    def __init__(
        self, fn: Callable[..., Any], task: str, names: Mapping[str, Any] | None = None
    ) -> None:
        """``names``: what annotations may name besides the function's globals."""
        self._fn = fn
        self._task = task
        self._names = names
        self._signature = signature_of(fn, task)
        parameters = self._signature.parameters.values()
        self._positions = tuple(
            p.name for p in parameters if p.kind is Parameter.POSITIONAL_OR_KEYWORD
        )
        self._named = dict.fromkeys(
            p.name for p in parameters if p.kind is not Parameter.VAR_KEYWORD
        )
        self._required = tuple(
            p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD
        )
        self._optional = tuple(n for n in self._named if n not in self._required)
        self._extra = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)
        self._model: type[Any] | None = None
        self._some_model: type[Any] | None = None
        self._extra_type: Any = Any
        self._decoder: msgspec.json.Decoder[Any] | None = None
        self.result_type: Any = None
        """The return annotation; None when there is none."""

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], max_bytes: int) -> bytes:
        """A call's arguments, bound to names, as a JSON object. Defaults are left to the worker.

        Raises:
            InvalidPayload: an argument is missing, unknown, of the wrong type, or has no JSON
                form. The text names it.
            PayloadTooLarge: over ``max_bytes``.
        """
        if self._extra is not None:
            bound = self._bind(args, kwargs)
            self._check(bound)
            self._validate(bound)
            return self._encode(bound, max_bytes)
        if not args and type(kwargs) is dict:
            bound = kwargs
        elif not kwargs and len(args) <= len(self._positions):
            bound = dict(zip(self._positions, args, strict=False))
        else:
            bound = self._bind(args, kwargs)
        try:
            # This alone would do: it finds what is missing, unknown or of a wrong type.
            convert(bound, self._model or self.compile(), dec_hook=_read)
        except msgspec.ValidationError as error:
            check_named(bound, self._task)
            self._check(self._bind((), bound))
            raise self._invalid(error) from error
        if _SCALARS.issuperset(map(type, bound.values())):
            raw = encode_if_simple(bound)
            if raw is not None and len(raw) <= max_bytes:
                return raw
        return self._encode(bound, max_bytes)

    def encode_named(self, payload: Mapping[str, Any], max_bytes: int) -> bytes:
        """``encode`` of arguments that are named already."""
        if type(payload) is not dict or self._extra is not None:
            check_named(payload, self._task)
            payload = dict(payload)
        return self.encode((), payload, max_bytes)

    def unsent(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], max_bytes: int) -> Unsent:
        """The same for a job that may become part of a workflow: arguments may be missing, or be
        known only later. What is given is checked. Raises as ``encode``."""
        bound = self._bind(args, kwargs)
        lacks = tuple(name for name in self._required if name not in bound)
        later: list[tuple[tuple[str | int, ...], Later]] = []
        known = {}
        for name, value in bound.items():
            if type(value) not in _SCALARS:
                before = len(later)
                bound[name] = _without_later(value, (name,), later)
                if len(later) > before:
                    continue
            known[name] = value
        if not lacks and not later:
            self._validate(bound)
            return Unsent(payload=self._encode(bound, max_bytes))
        self._validate(known, self._some())
        raw = encode_value(bound, f"arguments of {self._task}", max_bytes)
        return Unsent(payload=raw, lacks=lacks, later=tuple(later))

    def free(self, given: Container[str]) -> list[str]:
        """The arguments that are not given, the required ones first."""
        required = [name for name in self._required if name not in given]
        return required + [n for n in self._named if n not in given and n not in required]

    def _encode(self, bound: dict[str, Any], max_bytes: int) -> bytes:
        raw = encode_value(bound, f"arguments of {self._task}", max_bytes)
        if not _SCALARS.issuperset(map(type, bound.values())):
            # An object may pass `convert` as it is and yet hold what can't be read back.
            self.decode(raw)
        return raw

    def decode(self, payload: bytes) -> dict[str, Any]:
        """The arguments to call the function with, converted to their annotations.

        Raises:
            InvalidPayload: an argument is missing, unknown or of the wrong type.
        """
        model = self._model or self.compile()
        try:
            if self._extra is None:
                assert self._decoder is not None
                given = asdict(self._decoder.decode(payload))
                for name in self._optional:
                    if given[name] is UNSET:
                        del given[name]
                return given
            plain = msgspec.json.decode(payload, type=dict[str, Any])
            named = {n: v for n, v in plain.items() if n in self._named}
            values = msgspec.convert(named, model, builtin_types=(), str_keys=True, dec_hook=_read)
            found = {n: v for n in self._named if (v := getattr(values, n)) is not UNSET}
            for name, value in plain.items():
                if name not in self._named:
                    found[name] = self._convert_extra(name, value, from_json=True)
            return found
        except msgspec.ValidationError as error:
            raise self._invalid(error) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidPayload(f"payload of {self._task} is not JSON: {error}") from error

    def compile(self) -> type[Any]:
        """The Struct of this signature.

        Raises:
            ConfigurationError: an annotation can't be resolved, or can't be read from JSON.
        """
        if self._model is not None:
            return self._model
        hints = self._hints()
        fields: list[tuple[str, Any, Any] | tuple[str, Any]] = []
        for parameter in self._signature.parameters.values():
            hint = hints.get(parameter.name, Any)
            if parameter.kind is Parameter.VAR_KEYWORD:
                self._extra_type = hint
            elif parameter.default is Parameter.empty:
                fields.append((parameter.name, hint))
            else:
                if parameter.default is None:
                    hint = typing.Optional[hint]  # noqa: UP045
                fields.append((parameter.name, typing.Union[hint, UnsetType], UNSET))  # noqa: UP007
        try:
            model = msgspec.defstruct(
                "Arguments", fields, kw_only=True, forbid_unknown_fields=True, gc=False
            )
            self._decoder = msgspec.json.Decoder(model, dec_hook=_read)
            msgspec.json.Decoder(self._extra_type, dec_hook=_read)
        except (TypeError, NameError) as error:
            raise ConfigurationError(
                f"the arguments of task {self._task!r} can't be read from JSON: {error}"
            ) from error
        self.result_type = hints.get("return")
        self._model = model
        return model

    def _hints(self) -> dict[str, Any]:
        try:
            return typing.get_type_hints(
                _annotated(self._fn), localns=self._names, include_extras=True
            )
        except NameError as error:
            raise ConfigurationError(
                f"an annotation of task {self._task!r} can't be resolved: {error}; "
                "import the name at the top of the task's module, outside TYPE_CHECKING"
            ) from error

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        if len(args) > len(self._positions):
            raise InvalidPayload(
                f"{self._task} takes {len(self._positions)} positional arguments, got {len(args)}"
            )
        bound = dict(zip(self._positions, args, strict=False))
        for name, value in kwargs.items():
            if name in bound:
                raise InvalidPayload(f"{self._task} got argument {name!r} twice")
            if name not in self._named and self._extra is None:
                raise InvalidPayload(f"{self._task} has no argument {name!r}")
            bound[name] = value
        return bound

    def _check(self, bound: dict[str, Any]) -> None:
        for name in self._required:
            if name not in bound:
                raise InvalidPayload(f"{self._task} needs argument {name!r}")

    def _some(self) -> type[Any]:
        """The Struct of this signature with nothing required."""
        if self._some_model is None:
            fields = [
                (f.name, typing.Union[f.type, UnsetType], UNSET)  # noqa: UP007
                for f in msgspec.structs.fields(self.compile())
            ]
            self._some_model = msgspec.defstruct("Arguments", fields, kw_only=True, gc=False)
        return self._some_model

    def _validate(self, bound: dict[str, Any], model: type[Any] | None = None) -> None:
        model = model or self.compile()
        try:
            if self._extra is None:
                msgspec.convert(bound, model, dec_hook=_read)
                return
            named = {n: v for n, v in bound.items() if n in self._named}
            msgspec.convert(named, model, dec_hook=_read)
            for name, value in bound.items():
                if name not in self._named:
                    self._convert_extra(name, value, from_json=False)
        except msgspec.ValidationError as error:
            raise self._invalid(error) from error

    def _convert_extra(self, name: str, value: Any, *, from_json: bool) -> Any:
        types: tuple[type, ...] | None = () if from_json else None
        try:
            return msgspec.convert(
                value, self._extra_type, builtin_types=types, str_keys=from_json, dec_hook=_read
            )
        except msgspec.ValidationError as error:
            raise InvalidPayload(f"argument {name!r} of {self._task}: {error}") from error

    def _invalid(self, error: msgspec.ValidationError) -> InvalidPayload:
        what, _, where = str(error).partition(" - at `$.")
        if where:
            found = re.match(r"(\w+)\.?(.*)`", where, re.DOTALL)
            name, inside = found.groups() if found else (where, "")
            place = f" (at {inside})" if inside else ""
            return InvalidPayload(f"argument {name!r} of {self._task}: {what}{place}")
        return InvalidPayload(f"arguments of {self._task}: {what}")


def _without_later(
    value: Any, path: tuple[str | int, ...], found: list[tuple[tuple[str | int, ...], Later]]
) -> Any:
    """``value`` with null for what is known later, which is added to ``found``."""
    if isinstance(value, Later):
        found.append((path, value))
        return None
    if type(value) is dict:
        return {k: _without_later(v, (*path, str(k)), found) for k, v in value.items()}
    if type(value) in (list, tuple):
        return [_without_later(v, (*path, i), found) for i, v in enumerate(value)]
    return value


def signature_of(fn: Callable[..., Any], task: str) -> inspect.Signature:
    """The signature of a function that can be a task.

    Raises:
        ConfigurationError: it has ``*args`` or positional-only parameters, which have no name
            to be sent under, or a name that JSON arguments can't have.
    """
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"task {task!r} has no readable signature: {error}") from error
    for parameter in signature.parameters.values():
        if parameter.kind is Parameter.VAR_POSITIONAL:
            raise ConfigurationError(
                f"task {task!r} takes *{parameter.name}; arguments are sent by name, so take a "
                "list instead"
            )
        if parameter.kind is Parameter.POSITIONAL_ONLY:
            raise ConfigurationError(
                f"task {task!r}: {parameter.name!r} is positional-only; arguments are sent by name"
            )
        if parameter.name.startswith("__"):
            raise ConfigurationError(
                f"task {task!r}: an argument can't be named {parameter.name!r}"
            )
    return signature


def encode_named(payload: Mapping[str, Any], task: str, max_bytes: int) -> bytes:
    """JSON of named arguments for a task that is not registered here.

    Raises:
        InvalidPayload: not a mapping with strings as names, or a value has no JSON form.
        PayloadTooLarge: over ``max_bytes``.
    """
    check_named(payload, task)
    return encode_value(dict(payload), f"payload of {task}", max_bytes)


def local_names(fn: Callable[..., Any]) -> Mapping[str, Any] | None:
    """The caller's local names, for a function defined inside another one (in a test, say) whose
    annotations are text; None for other functions. The caller is the first frame outside
    ``bananas_core``."""
    if "<locals>" not in getattr(fn, "__qualname__", ""):
        return None
    if not any(isinstance(hint, str) for hint in getattr(fn, "__annotations__", {}).values()):
        return None
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("bananas_core."):
        frame = frame.f_back
    return dict(frame.f_locals)


def _annotated(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function that carries the annotations of a callable."""
    fn = inspect.unwrap(fn)
    while isinstance(fn, partial):
        fn = inspect.unwrap(fn.func)
    return fn if inspect.isroutine(fn) else type(fn).__call__


def check_named(payload: object, task: str) -> None:
    """Raises InvalidPayload unless it is a mapping with strings as names."""
    if not isinstance(payload, Mapping) or not all(isinstance(name, str) for name in payload):
        raise InvalidPayload(f"payload of {task} is named arguments, not {repr(payload)[:80]}")


def encode_value(value: object, what: str, max_bytes: int) -> bytes:
    """JSON of a value that may hold pydantic models.

    Raises:
        InvalidPayload: no JSON form; PayloadTooLarge: over ``max_bytes``.
    """
    try:
        if "pydantic" in sys.modules:
            try:
                return encode_payload(value, max_bytes=max_bytes)
            except InvalidPayload as error:
                if not isinstance(error.__cause__, TypeError):
                    raise
                value = msgspec.to_builtins(value, enc_hook=_write)
        return encode_payload(value, max_bytes=max_bytes)
    except InvalidPayload as error:
        raise type(error)(f"{what}: {error}") from error
    except TypeError as error:
        raise InvalidPayload(f"{what} can't be encoded as JSON: {error}") from error


def convert_result(value: Any, annotation: Any) -> Any:
    """A result read from JSON as its task's return annotation says; as it is, if it can't be."""
    try:
        return msgspec.convert(value, annotation, builtin_types=(), str_keys=True, dec_hook=_read)
    except (msgspec.ValidationError, TypeError):
        return value


def _base_model() -> type[Any] | None:
    """pydantic's BaseModel, if anybody has imported it."""
    module = sys.modules.get("pydantic")
    return getattr(module, "BaseModel", None)


def _read(annotation: Any, value: Any) -> Any:
    """msgspec's hook for types that it doesn't know."""
    if isinstance(annotation, type) and isinstance(value, annotation):
        return value
    base = _base_model()
    if base is not None and isinstance(annotation, type) and issubclass(annotation, base):
        model: Any = annotation
        try:
            return model.model_validate(value)
        except ValueError as error:
            raise ValueError(_brief(error)) from error
    raise ValueError(f"Expected `{annotation!r}`, got `{type(value).__name__}`")


def _write(value: Any) -> Any:
    """msgspec's hook for objects that it doesn't know."""
    base = _base_model()
    if base is not None and isinstance(value, base):
        return value.model_dump(mode="json")
    raise TypeError(f"objects of type {type(value).__qualname__} have no JSON form")


def _brief(error: ValueError) -> str:
    """A pydantic error in one line."""
    details = getattr(error, "errors", None)
    if details is None:
        return str(error)
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in details()
    )
