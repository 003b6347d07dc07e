"""Limits on what starts; see ``limiter.py``."""

from bananas_core.limits.book import (
    Answer,
    Ask,
    Config,
    Turn,
    Want,
    held_by,
    key_token,
    latest,
    turn_of,
)
from bananas_core.limits.limiter import Limiter, Release
from bananas_core.limits.rules import Quota, Rate, Rule, Slots, parse_rule, text_of
from bananas_core.limits.slots import Waiter

__all__ = [
    "Answer",
    "Ask",
    "Config",
    "Limiter",
    "Quota",
    "Rate",
    "Release",
    "Rule",
    "Slots",
    "Turn",
    "Waiter",
    "Want",
    "held_by",
    "key_token",
    "latest",
    "parse_rule",
    "text_of",
    "turn_of",
]
