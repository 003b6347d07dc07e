"""What a running task can say and learn about its own job."""

from __future__ import annotations

import contextvars
import threading

import pytest

from bananas_core.context import Expander, JobContext, Run, current_job, enter
from bananas_core.errors import BananasError


class Told:
    """A run that keeps what it is told."""

    def __init__(self, id: str = "a") -> None:
        self.progress: list[tuple[float, str | None]] = []
        self.lines: list[str] = []
        self.stopping = False
        self.context = JobContext(self, id=id, name="work", attempt=2)

    def tell(self, value: float, text: str | None) -> None:
        self.progress.append((value, text))

    def log(self, text: str) -> None:
        self.lines.append(text)

    def expander(self) -> Expander | None:
        return None


def entered(run: Run) -> contextvars.Context:
    """A context in which the run has begun."""
    context = contextvars.copy_context()
    context.run(enter, run)
    return context


def test_it_is_there_inside_and_gone_outside() -> None:
    told = Told()

    def body() -> tuple[str, str, int]:
        assert current_job() is told.context
        return current_job().id, current_job().name, current_job().attempt

    assert entered(told).run(body) == ("a", "work", 2)
    with pytest.raises(BananasError, match="outside"):
        current_job()


def test_each_context_has_its_own() -> None:
    outer, inner = entered(Told("a")), entered(Told("b"))
    assert inner.run(lambda: current_job().id) == "b"
    assert outer.run(lambda: current_job().id) == "a"


def test_what_it_is_told_is_passed_on() -> None:
    told = Told()
    told.context.progress(0)
    told.context.progress(1, "done")
    told.context.log("line")
    assert told.progress == [(0.0, None), (1.0, "done")]
    assert told.lines == ["line"]
    assert not told.context.cancelled
    told.stopping = True
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
    context = entered(told).run(contextvars.copy_context)
    thread = threading.Thread(target=lambda: context.run(lambda: seen.append(current_job().id)))
    thread.start()
    thread.join()
    assert seen == ["a"]
