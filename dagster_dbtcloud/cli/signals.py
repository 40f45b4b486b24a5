"""Signals that ask a command to end, made into one exception, so that it can tidy up first."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

from dagster_dbtcloud.cli.commands import Leave

_NAMES = ("SIGTERM", "SIGHUP")


def signals_end() -> AbstractContextManager[None]:
    """Raise ``Leave`` at SIGTERM and SIGHUP, as Python raises KeyboardInterrupt at Ctrl-C."""

    def leave(number: int, _: FrameType | None) -> None:
        raise Leave(number)

    return _handled(_NAMES, leave)


def deaf() -> AbstractContextManager[None]:
    """Let no further signal interrupt what is done now, which must be short.

    People press Ctrl-C twice.
    """
    return _handled(("SIGINT", *_NAMES), signal.SIG_IGN)


@contextmanager
def _handled(
    names: tuple[str, ...], handler: Callable[[int, FrameType | None], None] | signal.Handlers
) -> Iterator[None]:
    """Handle signals so; those that are ignored stay ignored.

    Outside the main thread, where Python gives nobody signals, it does nothing.
    """
    before = {}
    try:
        for name in names:
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    except ValueError:
        pass
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
