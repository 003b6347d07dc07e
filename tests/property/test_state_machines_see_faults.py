"""The state machines are tested too: on a driver with a planted fault they must fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from msgspec.structs import replace
from test_state_machine_ledger import LedgerMachine
from test_state_machine_transport import TransportMachine

from bananas_brokers.memory.queues import Queues
from bananas_brokers.memory.records import Records
from bananas_brokers.memory.upkeep import Upkeep
from bananas_core import state
from bananas_core.job import FINAL, Job, JobState, ReadyKind

ENOUGH = settings(
    max_examples=400,
    stateful_step_count=50,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    print_blob=False,
)


def a_running_job_can_be_claimed(patch: pytest.MonkeyPatch) -> None:
    original = state.claim

    def claim(job: Any, *rest: Any) -> Any:
        if job is not None and job.state is JobState.PROCESSING:
            job = replace(job, state=JobState.PENDING)
        return original(job, *rest)

    patch.setattr(state, "claim", claim)


def fences_repeat(patch: pytest.MonkeyPatch) -> None:
    original = state.claim
    patch.setattr(state, "claim", lambda j, h, s, fence, now: original(j, h, s, 1, now))


def a_repeated_finish_is_refused(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(state, "_finished_before", lambda *_: False)


def due_is_early(patch: pytest.MonkeyPatch) -> None:
    original = Upkeep.due
    patch.setattr(
        Upkeep, "due", lambda self, n, lost, now, **o: original(self, n, lost, now + 9, **o)
    )


def nothing_is_sent_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Records, "take_ready", lambda *_, **__: [])


def an_end_is_not_followed_up(patch: pytest.MonkeyPatch) -> None:
    original = state.look

    def look(job: Job, now: float, *, guard: bool) -> Any:
        kind, new = original(job, now, guard=guard)
        return (None if kind is ReadyKind.FOLLOW else kind), new

    patch.setattr(state, "look", look)
    calls = state.calls_for

    def calls_for(old: Any, new: Job, *, guard: bool) -> Any:
        kind = calls(old, new, guard=guard)
        return None if kind is ReadyKind.FOLLOW else kind

    patch.setattr(state, "calls_for", calls_for)


def a_send_settles_the_follow_up(patch: pytest.MonkeyPatch) -> None:
    original = state.settle
    patch.setattr(
        state, "settle", lambda job, item: original(job, replace(item, followed=job.state in FINAL))
    )


def a_scope_is_started_again(patch: pytest.MonkeyPatch) -> None:
    original = state._release

    def release(job: Job, now: float, *, guard: bool) -> Job:
        return original(replace(job, started_at=None) if job.scope else job, now, guard=guard)

    patch.setattr(state, "_release", release)


def a_running_node_is_reset(patch: pytest.MonkeyPatch) -> None:
    original = state._reset

    def reset(job: Job, now: float) -> Any:
        running = job.state is JobState.PROCESSING
        return original(replace(job, state=JobState.FAILED) if running else job, now)

    patch.setattr(state, "_reset", reset)


def ack_keeps_the_message(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Queues, "ack", lambda *_: True)


def a_lease_never_ends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Queues, "_expire", lambda *_: None)


def purge_takes_leased_messages(patch: pytest.MonkeyPatch) -> None:
    original = Queues.purge

    def purge(self: Queues, queue: str, now: float) -> int:
        gone = original(self, queue, now)
        for number in self._queues[queue].leased if queue in self._queues else ():
            self._leases.discard(number)
        return gone

    patch.setattr(Queues, "purge", purge)


@pytest.mark.parametrize(
    ("machine", "plant"),
    [
        (LedgerMachine, a_running_job_can_be_claimed),
        (LedgerMachine, fences_repeat),
        (LedgerMachine, a_repeated_finish_is_refused),
        (LedgerMachine, due_is_early),
        (LedgerMachine, nothing_is_sent_again),
        (LedgerMachine, an_end_is_not_followed_up),
        (LedgerMachine, a_send_settles_the_follow_up),
        (LedgerMachine, a_scope_is_started_again),
        (LedgerMachine, a_running_node_is_reset),
        (TransportMachine, ack_keeps_the_message),
        (TransportMachine, a_lease_never_ends),
        (TransportMachine, purge_takes_leased_messages),
    ],
)
def test_a_machine_sees_a_fault(
    machine: Any, plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=ENOUGH)
