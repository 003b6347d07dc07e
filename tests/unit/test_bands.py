"""Bands of priority, and in which order they are asked."""

from __future__ import annotations

from collections import Counter

import pytest

from bananas_core.bands import FAIR, band_of, band_order


def test_a_higher_priority_is_never_in_a_lower_band() -> None:
    for levels in (1, 3, 4, 101):
        bands = [band_of(priority, levels) for priority in range(101)]
        assert bands == sorted(bands)
        assert (bands[0], bands[-1]) == (0, levels - 1)
        assert max(Counter(bands).values()) - min(Counter(bands).values()) <= 1
        assert band_of(0, levels, head=True) == levels - 1


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 101])
def test_every_band_is_asked_in_each_fetch(levels: int) -> None:
    for turn in range(1, 200):
        assert sorted(band_order(turn, levels)) == list(range(levels))


def test_the_highest_is_first_but_for_each_sixteenth_fetch() -> None:
    orders = [band_order(turn, 4) for turn in range(1, 4 * FAIR)]
    assert orders[: FAIR - 1] == [(3, 2, 1, 0)] * (FAIR - 1)
    fair = [band_order(turn, 4) for turn in range(FAIR, 4 * FAIR, FAIR)]
    assert fair == [(2, 1, 0, 3), (1, 0, 3, 2), (0, 3, 2, 1)]
    assert sum(order[0] != 3 for order in orders) == 3
