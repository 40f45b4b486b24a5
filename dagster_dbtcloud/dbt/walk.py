"""Read a large JSON object member by member, so that no more than one is in memory at a time.

It tells no error from another: for a message to people the whole is read by ``artifact.read_json``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any


class Broken(Exception):
    """This is not the JSON of an object, or not such as can be kept packed. Never for users."""


class Walk:
    """A place in the text of a JSON object, which moves as members and values are read.

    Members of an object in it are walked by a loop in the loop.
    """

    def __init__(self, data: bytes) -> None:
        # A character for each byte: decoded as UTF-8, one emoji would make it four times as large.
        # All signs of JSON are ASCII; a value that is not is read from its bytes.
        self._text = data.decode("latin-1")
        self._data = None if data.isascii() else data
        self._at = self._past_blanks(len(_BOM) if data.startswith(_BOM) else 0)

    def members(self) -> Iterator[str]:
        """Yield the names in the object here; before the next one, its value must be read.

        Raises: Broken.
        """
        if not self.at_object():
            raise Broken
        self._at = self._past_blanks(self._at + 1)
        if self._next() == "}":
            self._at += 1
            return
        while True:
            name = self.value()
            if not isinstance(name, str):
                raise Broken
            self._take(":")
            yield name
            if self._next() == "}":
                self._at = self._past_blanks(self._at + 1)
                return
            self._take(",")

    def at_object(self) -> bool:
        return self._next() == "{"

    def value(self) -> Any:
        """Read the value here, whole. Raises: Broken."""
        try:
            value, end = _scan(self._text, self._at)
            if self._data is not None and not (part := self._data[self._at : end]).isascii():
                value = json.loads(part.decode("utf-8"))
        except (ValueError, RecursionError) as bad:  # no JSON, no UTF-8, a number without end
            raise Broken from bad
        self._at = self._past_blanks(end)
        return value

    def end(self) -> None:
        """Expect nothing more. Raises: Broken."""
        if self._at != len(self._text):
            raise Broken

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, sign: str) -> None:
        if self._next() != sign:
            raise Broken
        self._at = self._past_blanks(self._at + 1)

    def _past_blanks(self, at: int) -> int:
        found = _BLANKS.match(self._text, at)
        return found.end() if found else at


_BOM = b"\xef\xbb\xbf"
_BLANKS = re.compile(r"[ \t\n\r]*")
_scan = json.JSONDecoder().raw_decode
