"""Signals that ask a command to end, made into one exception, so that it can tidy up first."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dagster_dbtcloud.cli.commands import Leave

_NAMES = ("SIGTERM", "SIGHUP")


@contextmanager
def deaf() -> Iterator[None]:
    """Let no further signal interrupt what is done now, which must be short.

    People press Ctrl-C twice. Outside the main thread it does nothing.
    """
    before = {}
    try:
        for name in ("SIGINT", *_NAMES):
            number = getattr(signal, name, None)
            if number is not None:
                before[number] = signal.signal(number, signal.SIG_IGN)
    except ValueError:
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_end() -> Iterator[None]:
    """Raise ``Leave`` at SIGTERM and SIGHUP, as Python raises KeyboardInterrupt at Ctrl-C.

    Outside the main thread, where Python gives nobody signals, it does nothing.
    """

    def leave(number: int, _: FrameType | None) -> None:
        raise Leave(number)

    before = {}
    try:
        for name in _NAMES:
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, leave)
    except ValueError:
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
