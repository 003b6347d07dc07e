"""Helpers for tests of programs that use Bananas."""

from bananas_core.testing.helpers import ManualClock, assert_submitted, drain, memory_app

__all__ = ["ManualClock", "assert_submitted", "drain", "memory_app"]
