"""What is new in a log that is read again and again while it grows.

dbt Cloud shows only the last 1,000 lines or 0.5 MB of a running step's log, so the text that is
read may lose its beginning while it grows; the whole text comes when the step is complete. This
module finds the new lines; it does not understand them (``logs.py`` does).
"""

from __future__ import annotations

_ANCHOR_LINES = 64
"""How many of the lines already seen are remembered to find the place again."""


class LogTail:
    """Hand out each complete line of a growing text once, in order.

    A line repeated in the text is not lost; when the window slid past everything that was seen,
    a line says so (`GAP`).
    """

    GAP = "[... some log lines were not shown by dbt Cloud while the step ran ...]"

    def __init__(self) -> None:
        self._whole = ""  # complete lines seen, while the text has only grown
        self._anchor: list[str] = []

    def feed(self, text: str, *, final: bool = False) -> list[str]:
        """Return the lines of ``text`` that were not handed out before.

        ``final`` says that the text will not grow: its last line counts though no newline ends it.
        """
        if final and text and not text.endswith("\n"):
            text += "\n"
        complete = text[: text.rfind("\n") + 1]
        if complete.startswith(self._whole):
            new = complete[len(self._whole) :].split("\n")[:-1]
        else:
            new = self._after_anchor(complete.split("\n")[:-1])
        if complete:
            self._whole = complete
        self._anchor = [*self._anchor, *new][-_ANCHOR_LINES:]
        return new

    def _after_anchor(self, lines: list[str]) -> list[str]:
        """Find the longest run of remembered lines in ``lines``; return what follows it."""
        size = len(self._anchor)
        while size:
            tail = self._anchor[-size:]
            for start in range(len(lines) - size, -1, -1):
                if lines[start] == tail[0] and lines[start : start + size] == tail:
                    return lines[start + size :]
            size //= 2
        return [self.GAP, *lines] if self._anchor and lines else lines
