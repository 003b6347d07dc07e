"""The version of the suite: rises when a test is added or a promise changes."""

from typing import Final

VERSION: Final = "2"
