"""What the supervisor knows by numbers is what the child knows by keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bananas_core.held import ClaimKey, ClaimTable, NumberedClaims, Numbering, pack

DEADLINES = st.sampled_from([None, None, 5.0, 7.0])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), st.integers(0, 12)),
        st.tuples(st.just("start"), st.lists(st.tuples(st.integers(0, 40), DEADLINES))),
        st.tuples(st.just("drop"), st.lists(st.integers(0, 40))),
        st.tuples(st.just("lose"), st.lists(st.integers(0, 40))),
        st.tuples(st.just("look"), st.none()),
    ),
    max_size=40,
)


def key_of(number: int) -> ClaimKey:
    return (f"job-{number % 30}", number)


@given(STEPS)
def test_numbers_and_keys_tell_the_same(steps: list[tuple[str, object]]) -> None:
    table, numbering, numbered = ClaimTable(), Numbering(), NumberedClaims()
    made = 0
    begun: set[int] = set()

    def check() -> None:
        assert numbered.claims() == table.claims()
        assert numbered.running() == table.running()
        for now in (4.9, 5.0, 7.0):
            assert numbered.overdue(now) == table.overdue(now)

    for what, how in steps:
        if what == "hold":
            assert isinstance(how, int)
            keys = [key_of(number) for number in range(made, made + how)]
            made += how
            table.hold(keys)
            numbered.hold(numbering.hold(keys), len(keys), pack(keys))
        elif what == "look":
            check()
        else:
            assert isinstance(how, list)
            if what == "start":
                fresh = {number: deadline for number, deadline in how if number not in begun}
                begun |= {number for number in fresh if number < made}
                starts = [(*key_of(number), deadline) for number, deadline in fresh.items()]
                table.started(starts)
                for run in numbering.started(starts):
                    numbered.started(*run)
            elif what == "drop":
                keys = [key_of(number) for number in how]
                table.drop(keys)
                for first, count in numbering.drop(keys):
                    numbered.dropped(first, count)
            else:  # the ledger says so to the supervisor; the child hears of it later
                keys = [key_of(number) for number in how]
                table.drop(keys)
                numbered.drop(keys)
    check()
    numbered.drop(numbered.claims())
    assert not numbered.claims()
    assert not numbered._batches, "what is over is forgotten"
    assert not numbered._deadlines


def test_jobs_that_end_in_order_are_told_of_as_one_run() -> None:
    numbering = Numbering()
    keys = [key_of(number) for number in range(100)]
    assert numbering.hold(keys) == 0
    assert numbering.started([(*key, None) for key in keys]) == [(0, 100, None)]
    assert numbering.started([("unknown", 1, None)]) == []
    assert numbering.drop([*keys[:50], *keys[60:]]) == [(0, 50), (60, 40)]
    assert numbering.drop(keys) == [(50, 10)]
    assert numbering.hold([("again", 1)]) == 100
