"""Run commands as processes of their own: in pipes, or on a pseudo-terminal that is theirs.

One process imports what commands need and forks for each of them, which takes a twentieth of a new
Python; what the command gets is its own: streams, terminal, signals, variables, folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from dagster_dbtcloud.cli import SECTIONS, main
from dagster_dbtcloud_tests.stage import until

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
_HEAVY = ("dagster", "rich.live", "dagster_dbtcloud.cloud.client", "dagster_dbtcloud.specs")


@dataclass(frozen=True)
class Ended:
    """What a command printed, and the number it ended with. A terminal has one stream: ``out``."""

    code: int
    out: str
    err: str

    @property
    def plain(self) -> str:
        """All that was printed, without colours and moves of the cursor."""
        return _CONTROL.sub("", self.out + self.err)


class Running:
    """A command that goes on: to be read, typed at, signalled, and waited for."""

    def __init__(self, pid: int, keyboard: int, screens: tuple[int, ...], done: Ending) -> None:
        self.pid = pid
        self._keyboard = keyboard
        self._done = done
        self._seen = [bytearray() for _ in screens]
        self._readers = [
            threading.Thread(target=_drain, args=(screen, seen), daemon=True)
            for screen, seen in zip(screens, self._seen, strict=True)
        ]
        for reader in self._readers:
            reader.start()

    @property
    def shown(self) -> str:
        return _CONTROL.sub("", "".join(seen.decode(errors="replace") for seen in self._seen))

    def see(self, text: str) -> Running:
        """Wait until it has printed a text."""
        until(lambda: text in self.shown or self._done.code is not None)
        assert text in self.shown, self.shown
        return self

    def type(self, text: str) -> None:
        os.write(self._keyboard, text.encode())

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 60) -> Ended:
        try:
            until(lambda: self._done.code is not None, seconds=seconds)
        finally:
            if self._done.code is None:
                with suppress(ProcessLookupError, AssertionError):
                    self.signal(signal.SIGTERM)  # so that it ends what it has started
                    until(lambda: self._done.code is not None, seconds=20)
                with suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
        for reader in self._readers:
            reader.join(10)
        with suppress(OSError):
            os.close(self._keyboard)
        out, err = [seen.decode() for seen in (*self._seen, bytearray())][:2]
        return Ended(self._done.code or 0, out, err)


class Ending:
    """How a command ended; None while it goes on."""

    code: int | None = None


class Shell:
    """Starts commands with the variables of ``Shell`` and of each call; a context manager."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = {**_kept(), **variables}
        self._ours, theirs = socket.socketpair()
        code = f"from {__name__} import serve; serve({theirs.fileno()})"
        self._parent = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=[theirs.fileno()],
            env={**_kept(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        theirs.close()

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self._parent.wait(30)

    def __call__(
        self,
        *words: object,
        folder: Path,
        terminal: bool = False,
        typed: str = "",
        **variables: str,
    ) -> Ended:
        """Run a command to its end; ``typed`` waits at its keyboard, or in its pipe."""
        running = self.start(*words, folder=folder, terminal=terminal, typed=typed, **variables)
        return running.wait()

    def start(
        self,
        *words: object,
        folder: Path,
        terminal: bool = False,
        typed: str = "",
        **variables: str,
    ) -> Running:
        """Start a command; one at a time. A variable that is given empty is not set.

        The terminal is as wide as the variable ``COLUMNS`` says, which the command does not see.
        """
        given = {"TERM": "xterm-256color", **self._variables, **variables}
        columns = int(given.pop("COLUMNS", "100"))
        screens: tuple[int, ...]
        if terminal:
            main_side, side = pty.openpty()
            fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            theirs, keyboard, screens = [side] * 3, main_side, (main_side,)
        else:
            stdin, keyboard = os.pipe()
            out, their_out = os.pipe()
            err, their_err = os.pipe()
            theirs, screens = [stdin, their_out, their_err], (out, err)
        os.write(keyboard, typed.encode())
        order = {
            "words": [str(word) for word in words],
            "variables": {name: value for name, value in given.items() if value},
            "folder": str(folder),
            "terminal": terminal,
        }
        socket.send_fds(self._ours, [json.dumps(order).encode()], theirs)
        for handle in {*theirs}:
            os.close(handle)
        if not terminal:
            os.close(keyboard)
        pid = int(self._ours.recv(16))
        done = Ending()
        threading.Thread(target=self._await, args=(done,), daemon=True).start()
        return Running(pid, keyboard, screens, done)

    def _await(self, done: Ending) -> None:
        with suppress(OSError, ValueError):
            done.code = int(self._ours.recv(16))


def _kept() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}


def _drain(handle: int, seen: bytearray) -> None:
    while True:
        try:
            chunk = os.read(handle, 65536)
        except OSError:  # a terminal whose other side is closed
            return
        if not chunk:
            os.close(handle)
            return
        seen.extend(chunk)


# --- in the process that forks -------------------------------------------------------------------


def serve(handle: int) -> None:
    """Fork for each order that comes over the socket; tell its pid, and then how it ended."""
    for entries in SECTIONS.values():
        for entry in entries.values():
            import_module(f"dagster_dbtcloud.cli.{entry.room}")
    for name in _HEAVY:
        import_module(name)
    orders = socket.socket(fileno=handle)
    while True:
        text, handles, _, _ = socket.recv_fds(orders, 65536, 3)
        if not text:
            return
        pid = os.fork()
        if pid == 0:
            orders.close()
            _become(json.loads(text), handles)
        for each in handles:
            os.close(each)
        orders.send(str(pid).ljust(16).encode())
        _, status = os.waitpid(pid, 0)
        orders.send(str(os.waitstatus_to_exitcode(status)).ljust(16).encode())


def _become(order: Mapping[str, object], handles: list[int]) -> None:
    """Be the command: never return."""
    os.setsid()
    if order["terminal"]:
        fcntl.ioctl(handles[0], termios.TIOCSCTTY, 0)
    for target, handle in enumerate(handles):
        os.dup2(handle, target)
    for handle in handles:
        os.close(handle)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", 1)
    os.chdir(str(order["folder"]))
    os.environ.clear()
    os.environ.update(dict(order["variables"]))  # type: ignore[call-overload]  # from JSON
    sys.argv = ["dagster-dbtcloud", *list(order["words"])]  # type: ignore[call-overload]
    code = 1
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001 - shown as Python shows it
        sys.excepthook(*sys.exc_info())
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
