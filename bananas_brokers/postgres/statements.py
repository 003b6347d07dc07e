"""The statements of ``sql/``, by name, with the schema's name in them."""

from __future__ import annotations

import re
from importlib import resources
from typing import Final

_PART: Final = re.compile(r"\{(_\w+)\}")
_COMMENT: Final = re.compile(r"^\s*--.*\n", re.MULTILINE)


class Statements:
    """``sql/NAME.sql`` by its name. In a file, ``{_part}`` stands for the text of ``_part.sql``,
    and ``{schema}`` for the schema. A statement is read when it is first wanted."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self._texts: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        text = self._texts.get(name)
        if text is None:
            text = self._texts[name] = self.fill(_read(name))
        return text

    def fill(self, text: str) -> str:
        """A text with the schema's name in it."""
        return text.replace("{schema}", self.schema)


def _read(name: str) -> str:
    folder = resources.files("bananas_brokers.postgres").joinpath("sql")
    text = folder.joinpath(f"{name}.sql").read_text("utf-8")
    text = _PART.sub(lambda found: _read(found[1]), text)
    return _COMMENT.sub("", text).strip()
