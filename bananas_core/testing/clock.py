"""A clock that stands still until a test moves it."""

from __future__ import annotations


class ManualClock:
    """Implements ``bananas_core.clock.Clock``. ``start`` is in unix seconds."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._start = start
        self._passed = 0.0

    def now(self) -> float:
        return self._start + self._passed

    def monotonic(self) -> float:
        return self._passed

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            ValueError: negative seconds; time does not go back.
        """
        if seconds < 0:
            raise ValueError(f"can't advance by {seconds} s: time does not go back")
        self._passed += seconds
