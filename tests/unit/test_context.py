"""What a running task can say and learn about its own job."""

from __future__ import annotations

import contextvars
import threading

import pytest

from bananas_core.context import JobContext, current_job
from bananas_core.errors import BananasError


class Told:
    def __init__(self, id: str = "a") -> None:
        self.progress: list[tuple[float, str | None]] = []
        self.lines: list[str] = []
        self.stop = False
        self.context = JobContext(
            id=id,
            name="work",
            attempt=2,
            on_progress=lambda value, text: self.progress.append((value, text)),
            on_log=self.lines.append,
            is_cancelled=lambda: self.stop,
        )


def test_it_is_there_inside_and_gone_outside() -> None:
    told = Told()
    with told.context:
        assert current_job() is told.context
        assert (current_job().id, current_job().name, current_job().attempt) == ("a", "work", 2)
    with pytest.raises(BananasError, match="outside"):
        current_job()


def test_it_can_be_nested() -> None:
    outer, inner = Told("a"), Told("b")
    with outer.context:
        with inner.context:
            assert current_job().id == "b"
        assert current_job().id == "a"


def test_what_it_is_told_is_passed_on() -> None:
    told = Told()
    told.context.progress(0)
    told.context.progress(1, "done")
    told.context.log("line")
    assert told.progress == [(0.0, None), (1.0, "done")]
    assert told.lines == ["line"]
    assert not told.context.cancelled
    told.stop = True
    assert told.context.cancelled


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), 50])
def test_progress_is_a_share(value: float) -> None:
    told = Told()
    with pytest.raises(ValueError, match="0 to 1"):
        told.context.progress(value)
    assert told.progress == []


def test_a_thread_with_a_copied_context_knows_its_job() -> None:
    told = Told()
    seen: list[str] = []
    with told.context:
        context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: context.run(lambda: seen.append(current_job().id)))
    thread.start()
    thread.join()
    assert seen == ["a"]
