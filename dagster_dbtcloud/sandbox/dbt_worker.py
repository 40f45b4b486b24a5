"""The process that runs dbt: stays warm, takes one request a line, answers one line each.

It is started as a script and imports nothing of this package, so that it costs only what dbt
costs. It does not know what a run is. When its parent dies, its input ends, and so does it.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # A script's own directory comes first in sys.path; ours holds names like "state".
    sys.path.pop(0)

import contextlib
import json
import os
import queue
import threading
from typing import Any


def main() -> None:
    # Our two channels move away: whatever dbt or a Python model prints must not be an answer,
    # and nothing may read our requests.
    requests_in = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)

    waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        for line in requests_in:
            waiting.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    import dbt.cli.main
    from dbt_common.events.functions import reset_metadata_vars

    with contextlib.suppress(ImportError):
        import dbt.adapters.duckdb

    answer(ready=True)
    while True:
        request = waiting.get()
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        # dbt reads the metadata variables once per process.
        reset_metadata_vars()
        with _console(request["console"], null):
            result = dbt.cli.main.dbtRunner().invoke(request["args"])
            if type(result.exception).__name__ == "DbtUsageException":
                # The command line prints this one; the runner only returns it.
                print(f"Usage Error\n  {result.exception}")  # noqa: T201 -- dbt's own output
        _close_warehouse()
        answer(success=result.success, exception=str(result.exception or ""))


@contextlib.contextmanager
def _console(path: str, null: int) -> Any:
    """Let stdout and stderr be the console log of a step, whole lines at a time."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    before = sys.stdout, sys.stderr
    stream = os.fdopen(1, "w", encoding="utf-8", buffering=1, closefd=False)
    sys.stdout = sys.stderr = stream
    try:
        yield
    finally:
        stream.flush()
        sys.stdout, sys.stderr = before
        os.dup2(null, 1)
        os.dup2(null, 2)


def _close_warehouse() -> None:
    """dbt-duckdb keeps its file open, hence locked, for the next command; others want it too."""
    module = sys.modules.get("dbt.adapters.duckdb.connections")
    manager = getattr(module, "DuckDBConnectionManager", None)
    if manager is not None and manager._ENV is not None:
        manager._ENV.close()
        manager._ENV = None


if __name__ == "__main__":
    main()
