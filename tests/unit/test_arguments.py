"""Arguments are bound, checked and encoded at submit, and converted when the task runs."""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pydantic
import pytest

from bananas_core.app import Bananas
from bananas_core.arguments import convert_result
from bananas_core.errors import ConfigurationError, InvalidPayload, PayloadTooLarge
from bananas_core.task import Task
from bananas_core.testing.helpers import memory_app


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: float = 0.0


class Order(msgspec.Struct):
    id: int
    placed: datetime


class Address(pydantic.BaseModel):
    street: str
    number: int = 1


def task_of(fn: Any, **options: Any) -> Task[Any, Any]:
    return Bananas("memory://unopened").task(**options)(fn)  # type: ignore[no-any-return]


def test_a_call_is_bound_to_names_and_defaults_are_left_to_the_worker() -> None:
    def thumbnail(path: str, size: int = 128) -> None: ...

    task = task_of(thumbnail)
    assert task.job("a.jpg", size=64).payload == b'{"path":"a.jpg","size":64}'
    assert task.job("a.jpg").payload == b'{"path":"a.jpg"}'
    assert task.decode_arguments(b'{"path":"a.jpg"}') == {"path": "a.jpg"}


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (str, "ü"),
        (int, 3),
        (float, 2),
        (bool, True),
        (bytes, b"\x00\xff"),
        (Colour, Colour.RED),
        (Point, Point(1, 2.5)),
        (Order, Order(id=1, placed=datetime(2026, 1, 2, tzinfo=UTC))),
        (Address, Address(street="Main")),
        (list[Address], [Address(street="Main", number=3)]),
        (datetime, datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
        (date, date(2026, 1, 2)),
        (timedelta, timedelta(seconds=90.5)),
        (uuid.UUID, uuid.UUID(int=5)),
        (Decimal, Decimal("1.10")),
        (int | None, None),
        (dict[int, list[Point]], {1: [Point(2)]}),
        (tuple[int, str], (1, "a")),
        (set[str], {"a"}),
        (Any, {"a": [1, None, "x"]}),
    ],
    ids=str,
)
def test_a_value_arrives_as_its_annotation(annotation: Any, value: Any) -> None:
    def work(x):  # type: ignore[no-untyped-def]
        ...

    def loose(**rest):  # type: ignore[no-untyped-def]
        ...

    work.__annotations__ = {"x": annotation}
    loose.__annotations__ = {"rest": annotation}
    for task in (task_of(work), task_of(loose)):
        arrived = task.decode_arguments(task.job(x=value).payload)
        assert arrived == {"x": value}
        assert type(arrived["x"]) is (float if annotation is float else type(value))


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, "1"),
        (int, 1.5),
        (int, True),
        (str, 1),
        (str, b"x"),
        (float, "1"),
        (Colour, "green"),
        (Point, {"x": "one"}),
        (Point, Point("one")),  # type: ignore[arg-type]
        (Address, {"street": 1}),
        (list[int], [1, "2"]),
        (datetime, "yesterday"),
        (uuid.UUID, "no"),
        (int, None),
        (float, float("nan")),
        (Any, float("inf")),
        (Any, {"deep": [float("-inf")]}),
        pytest.param(Any, object(), id="an object"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_naming_the_argument(annotation: Any, value: Any) -> None:
    def work(volume):  # type: ignore[no-untyped-def]
        ...

    work.__annotations__ = {"volume": annotation}
    with pytest.raises(InvalidPayload, match=r"volume|arguments of work"):
        task_of(work).job(value)


def test_what_is_wrong_inside_an_argument_is_told() -> None:
    def work(points: list[Point]) -> None: ...

    with pytest.raises(InvalidPayload, match=r"argument 'points' of work: .*`str` \(at \[0\]\.x\)"):
        task_of(work).job([{"x": "one"}])


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((1, 2, 3), {}, "takes 2 positional"),
        ((1,), {"a": 2}, "'a' twice"),
        ((1,), {"c": 2}, "no argument 'c'"),
    ],
)
def test_a_call_that_does_not_fit_is_refused(args: Any, kwargs: Any, text: str) -> None:
    def work(a: int, b: int = 0) -> None: ...

    with pytest.raises(InvalidPayload, match=text):
        task_of(work).job(*args, **kwargs)


async def test_a_missing_argument_is_refused_when_the_job_is_sent() -> None:
    app = memory_app()

    @app.task
    async def work(a: int, b: int = 0) -> None: ...

    assert work.job().lacks == ("a",)
    async with app:
        with pytest.raises(InvalidPayload, match="needs argument 'a'"):
            await work.job().submit()
        with pytest.raises(InvalidPayload, match="needs argument 'a'"):
            await work.submit()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "payload",
    [
        b"{}",
        b'{"a":"x"}',
        b'{"a":1,"z":2}',
        b"[]",
        b"{",
        b'{"a":"\xff"}',
        b'{"a":1e999}',
        b'{"a":NaN}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":' + b"[" * 100_000,
    ],
)
def test_foreign_payloads_are_checked_when_the_task_runs(payload: bytes) -> None:
    def work(a: int) -> None: ...

    def loose(a: int, **rest: int) -> None: ...

    with pytest.raises(InvalidPayload):
        task_of(work).decode_arguments(payload)
    if b"z" not in payload:
        with pytest.raises(InvalidPayload):
            task_of(loose).decode_arguments(payload)


def test_keyword_arguments_of_any_name_are_checked_too() -> None:
    def work(a: int, **rest: int) -> None: ...

    task = task_of(work)
    assert task.decode_arguments(task.job(1, b=2).payload) == {"a": 1, "b": 2}
    with pytest.raises(InvalidPayload, match="'b'"):
        task.job(1, b="x")


def test_a_default_of_none_allows_none() -> None:
    def work(size: int = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013

    assert task_of(work).job(None).payload == b'{"size":null}'


def test_functions_that_can_not_take_named_arguments_are_refused() -> None:
    def stars(*paths: str) -> None: ...

    def positional(a: int, /) -> None: ...

    def generator() -> Any:
        yield 1

    for function in (stars, positional, generator, int, 3):
        with pytest.raises(ConfigurationError):
            task_of(function)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "has space"},
        {"routing_key": "a/b"},
        {"priority": 101},
        {"max_attempts": 0},
        {"timeout": -1},
        {"retry": {"delay": 1}},
    ],
)
def test_impossible_options_are_refused_at_registration(options: dict[str, Any]) -> None:
    def work() -> None: ...

    with pytest.raises(ConfigurationError, match=r"work|has space"):
        task_of(work, **options)


def test_annotations_that_can_not_be_read_from_json_are_refused() -> None:
    def work(either: Point | Order) -> None: ...

    with pytest.raises(ConfigurationError, match="work"):
        task_of(work).job(Point(1))


def test_results_are_encoded_or_refused() -> None:
    def work() -> None: ...

    task = task_of(work)
    assert task.encode_result(Point(1)) == b'{"x":1,"y":0.0}'
    assert task.encode_result([Address(street="a")]) == b'[{"street":"a","number":1}]'
    for value in (float("nan"), object(), lambda: 1):
        with pytest.raises(InvalidPayload, match="result of work"):
            task.encode_result(value)


def test_payloads_and_results_have_a_largest_size() -> None:
    app = Bananas("memory://unopened", max_payload=2000)

    @app.task
    def work(text: str) -> None: ...

    assert len(work.job("x" * 1900).payload) < 2000
    with pytest.raises(PayloadTooLarge):
        work.job("x" * 2000)
    with pytest.raises(PayloadTooLarge):
        work.encode_result("x" * 2000)


def test_a_result_is_converted_if_it_fits_its_annotation() -> None:
    assert convert_result({"x": 1}, Point) == Point(1)
    assert convert_result("2026-01-02", date) == date(2026, 1, 2)
    assert convert_result({"street": "a"}, Address) == Address(street="a")
    assert convert_result("plain", Point) == "plain"
