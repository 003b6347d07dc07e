"""What fault scenarios conclude from what bodies wrote."""

from __future__ import annotations

from collections.abc import Iterator

from integration.faults.brokers import BACK_WITHIN, full_after
from integration.faults.inject import Kill
from integration.faults.oracle import Run
from integration.faults.stage import SLOTS


def runs(pid: int, at: float, count: int) -> Iterator[Run]:
    """So many runs at once, which end soon."""
    for what, later in (("start", 0.0), ("end", 0.05)):
        for number in range(count):
            yield Run(id=f"{pid}-{at}-{number}", attempt=1, pid=pid, what=what, at=at + later)


def test_full_concurrency_is_that_of_the_slowest_process_which_lived_on() -> None:
    before = [run for pid in (1, 2, 3) for run in runs(pid, 0.0, SLOTS)]
    kills = [Kill(3, 11.0), Kill(9, 5.0)]
    after = [*runs(1, 11.0, SLOTS), *runs(2, 12.0, SLOTS - 1), *runs(2, 14.0, SLOTS)]
    later = [*runs(4, 30.0, 1)]  # one that was started since does not count
    assert full_after([*before, *after, *later], 10.0, kills) == 4.0
    assert full_after([*before, *after], 13.0, kills) is None, "1 never had as many again"
    assert full_after([*before, *runs(1, 11.0, SLOTS)], 10.0, kills) is None, "2 never had"
    killed_late = [*kills, Kill(2, 10.0 + BACK_WITHIN + 1.0)]
    assert full_after([*before, *runs(1, 11.0, SLOTS)], 10.0, killed_late) is None
    assert full_after(before, 10.0, [Kill(pid, 11.0) for pid in (1, 2, 3)]) is None, (
        "nobody is left"
    )


def test_jobs_that_outlive_an_outage_do_not_hide_full_concurrency() -> None:
    """A short outage: what ran when the broker died ends after it is back."""
    outliving = runs(1, 9.98, SLOTS)
    assert full_after([*outliving, *runs(1, 11.0, SLOTS)], 10.0, []) == 1.0
    assert full_after([*runs(1, 9.98, SLOTS), *runs(1, 11.0, 1)], 10.0, []) is None


def test_a_process_for_one_job_is_not_waited_for() -> None:
    """A job that has killed its process is run alone, in a process that ends with it."""
    before = [*runs(1, 0.0, SLOTS), *runs(2, 5.0, 1)]
    assert full_after([*before, *runs(1, 11.0, SLOTS)], 10.0, []) == 1.0


def test_where_none_lived_on_their_successors_count() -> None:
    """A long outage, in which all workers were killed."""
    before, kills = [*runs(1, 0.0, SLOTS), *runs(2, 0.0, SLOTS)], [Kill(1, 8.0), Kill(2, 11.0)]
    assert full_after([*before, *runs(3, 12.0, 1), *runs(4, 14.0, SLOTS)], 10.0, kills) == 4.0
    assert full_after([*before, *runs(3, 12.0, SLOTS - 1)], 10.0, kills) is None
