"""A warm dbt process and its life: started early, killed on demand, started again.

It does not know what runs; it passes requests and tells how they ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SCRIPT = Path(__file__).with_name("dbt_worker.py")


@dataclass(frozen=True)
class Finished:
    """dbt came back. ``died``: the process ended before it did."""

    success: bool
    exception: str = ""
    died: bool = False


class DbtWorker:
    """One dbt process for one environment; one command at a time."""

    def __init__(self, log_path: Path) -> None:
        self._log_path = log_path
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._on_end: Callable[[Finished], None] | None = None

    @property
    def pid(self) -> int | None:
        process = self._process
        return None if process is None else process.pid

    def start(self) -> None:
        """Start the process unless it is there; returns at once, dbt is imported meanwhile."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return
            with self._log_path.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603 -- our own script
                    [sys.executable, str(_SCRIPT)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    encoding="utf-8",
                    # Its own group: a kill takes what dbt started, Ctrl-C does not reach it.
                    start_new_session=True,
                )
            self._reader = threading.Thread(
                target=self._read, args=(self._process,), name="dbt-worker-reader", daemon=True
            )
            self._reader.start()

    def invoke(
        self,
        args: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        console: Path,
        on_end: Callable[[Finished], None],
    ) -> None:
        """Send a command; ``on_end`` is called once, from another thread, however it ends."""
        self.start()
        request = {"args": list(args), "env": dict(env), "cwd": str(cwd), "console": str(console)}
        with self._lock:
            self._on_end = on_end
            process = self._process
        if process is None or process.stdin is None:
            self._end(Finished(success=False, died=True))
            return
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        except (OSError, ValueError):
            self._end(Finished(success=False, died=True))

    def kill(self) -> None:
        """End the process and all it started, now. DuckDB recovers from its log by itself."""
        with self._lock:
            process, reader = self._process, self._reader
            self._process = self._reader = None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if reader is not None and reader is not threading.current_thread():
            reader.join()

    def _read(self, process: subprocess.Popen[str]) -> None:
        if process.stdout is None or process.stdin is None:
            return
        with process.stdout, contextlib.suppress(ValueError):
            for line in process.stdout:
                answer = json.loads(line)
                if "success" in answer:
                    self._end(Finished(answer["success"], answer["exception"]))
        with contextlib.suppress(OSError):
            process.stdin.close()
        process.wait()
        self._end(Finished(success=False, died=True))

    def _end(self, finished: Finished) -> None:
        with self._lock:
            on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(finished)
