"""How many requests all processes of a machine send to one account together, kept in a small file.

dbt Cloud allows an account 5,000 requests a minute, and answers 429 for five minutes after that
(fact 21 of docs/dbt-cloud-api.md). It neither sends nor waits; the client does. A file that cannot
be used is no reason to send nothing: then each process counts for itself alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: two processes there may count one request as none, a small error
    fcntl = None  # type: ignore[assignment]

WINDOW = 10.0
PER_WINDOW = 600
"""Requests in so many seconds. Any minute, wherever it starts, touches seven windows: 4,200
requests. The rest of dbt Cloud's 5,000 is left to people, and to other machines."""
_LONGEST = 300.0
"""Seconds; a clock that was set back must not close the door for longer."""


@dataclass(frozen=True)
class _Counted:
    window: int = 0
    sent: int = 0
    closed_until: float = 0.0


class SharedBudget:
    """The count of one account's requests, in the file ``path``, which is made when needed."""

    def __init__(self, path: Path, *, per_window: int = PER_WINDOW) -> None:
        self._path = path
        self._per_window = per_window
        self._known = _Counted()

    def take(self, now: datetime) -> float:
        """Count one request, and return 0; or the seconds after which to ask again."""
        time = now.timestamp()
        with self._changing() as held:
            known = held[0]
            if time < known.closed_until <= time + _LONGEST:
                return known.closed_until - time
            window = int(time // WINDOW)
            sent = known.sent if known.window == window else 0
            if sent >= self._per_window:
                return WINDOW - time % WINDOW
            held[0] = _Counted(window, sent + 1)
        return 0.0

    def close(self, now: datetime, seconds: float) -> None:
        """Let nobody send for some seconds: dbt Cloud said that it were too many."""
        with self._changing() as held:
            known, time = held[0], now.timestamp()
            until = time + min(seconds, _LONGEST)
            if known.closed_until <= time + _LONGEST:  # somebody was told to wait longer
                until = max(until, known.closed_until)
            held[0] = _Counted(known.window, known.sent, until)

    @contextmanager
    def _changing(self) -> Iterator[list[_Counted]]:
        """Hold what is known, alone; what it is changed to is kept."""
        with ExitStack() as opened:
            file = None
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                found = opened.enter_context(self._path.open("a+b", buffering=0))
                if fcntl is not None:
                    fcntl.flock(found, fcntl.LOCK_EX)  # closing it gives the lock back
                found.seek(0)
                self._known = _read(found.read()) or self._known
                file = found
            except OSError:  # no such place, or a file system without locks
                pass
            before = self._known
            held = [before]
            yield held
            self._known = held[0]
            if file is not None and held[0] != before:
                with suppress(OSError):  # the disk is full
                    file.truncate(0)
                    file.write(json.dumps(vars(held[0])).encode())


def _read(text: bytes) -> _Counted | None:
    try:
        raw: Any = json.loads(text)
        return _Counted(int(raw["window"]), int(raw["sent"]), float(raw["closed_until"]))
    except (ValueError, KeyError, TypeError, OverflowError):
        return None  # new, or damaged
