"""Run a command as a shell would see it: in pipes, or on a pseudo-terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from dagster_dbtcloud.cli import cli
from dagster_dbtcloud.cli.connection import Tools
from dagster_dbtcloud.clock import Clock

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


@dataclass(frozen=True)
class Ended:
    """What a command printed, and the number it ended with. A terminal has one stream: ``out``."""

    code: int
    out: str
    err: str = ""

    @property
    def plain(self) -> str:
        """What was printed, without colours and moves of the cursor."""
        return _CONTROL.sub("", self.out)


class Console:
    """Runs commands with variables of its own, in this process: over TCP, without a new Python.

    A variable that is given empty is not set.
    """

    def __init__(
        self, patch: pytest.MonkeyPatch, variables: Mapping[str, str], clock: Clock
    ) -> None:
        self._patch = patch
        self._variables = dict(variables)
        self._clock = clock

    def __call__(self, *words: object, stdin: str = "", **variables: str) -> Ended:
        """Run a command with its streams in pipes."""
        out, err = _text(io.BytesIO()), _text(io.BytesIO())
        code = self._run(words, _text(io.BytesIO(stdin.encode())), out, err, variables)
        return Ended(code, _written(out), _written(err))

    def on_terminal(self, *words: object, typed: str = "", **variables: str) -> Ended:
        """Run a command on a pseudo-terminal of 100 columns; ``typed`` waits at its keyboard."""
        main, side = pty.openpty()
        seen = bytearray()

        def drain() -> None:
            while True:
                try:
                    chunk = os.read(main, 65536)
                except OSError:  # the other side is closed
                    return
                seen.extend(chunk)

        reader = threading.Thread(target=drain)
        reader.start()
        os.write(main, typed.encode())
        given = {"TERM": "xterm-256color", "COLUMNS": "100", **variables}
        with (
            os.fdopen(side, "r", encoding="utf-8", closefd=False) as stdin,
            os.fdopen(side, "w", encoding="utf-8", closefd=False) as out,
        ):
            code = self._run(words, stdin, out, out, given)
        os.close(side)
        reader.join()
        os.close(main)
        return Ended(code, seen.decode())

    def _run(
        self,
        words: tuple[object, ...],
        stdin: object,
        out: object,
        err: object,
        variables: Mapping[str, str],
    ) -> int:
        with self._patch.context() as patch:
            for name in [*os.environ]:
                if name.startswith("DBT_CLOUD_") or name in ("NO_COLOR", "FORCE_COLOR"):
                    patch.delenv(name)
            for name, value in {**self._variables, **variables}.items():
                if value:
                    patch.setenv(name, value)
                else:
                    patch.delenv(name, raising=False)
            patch.setattr(sys, "stdin", stdin)
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            with pytest.raises(SystemExit) as ended:
                cli([str(word) for word in words], obj=Tools(self._clock))
        code = ended.value.code
        assert isinstance(code, int)
        return code


def _text(raw: io.BytesIO) -> io.TextIOWrapper:
    return io.TextIOWrapper(raw, encoding="utf-8", write_through=True)


def _written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    raw = stream.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue().decode()
