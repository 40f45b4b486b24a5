"""What a plain `pip install dagster-dbtcloud` gives: no dbt, no web server, and a cheap import.

Run it with the Python of such an install, in any directory but the source tree's package.
It installs nothing.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

RUNS = 7
LIMIT = 0.15
"""Seconds that our import may cost on top of Dagster's, on a machine with nothing else to do."""
SHARE = 0.2
"""The same as a share of Dagster's own import, for a machine that is busy."""

EXTRAS_ONLY = ("dbt-core", "dbt-duckdb", "duckdb", "dagster-webserver", "starlette", "uvicorn")

# The cycle collector rests: when it runs is chance, and what it walks is Dagster's.
TIMED = """
import gc
from time import perf_counter
gc.disable()
start = perf_counter()
import dagster
dagster_done = perf_counter()
import dagster_dbtcloud
import_done = perf_counter()
for name in dagster_dbtcloud.__all__:
    getattr(dagster_dbtcloud, name)
print(dagster_done - start, import_done - dagster_done, perf_counter() - dagster_done)
"""


def _distributions() -> set[str]:
    return {found.metadata["Name"].lower().replace("_", "-") for found in metadata.distributions()}


def _timed() -> tuple[float, float, float]:
    """Return seconds for Dagster; on top of it for our import; and with every public name used."""
    answer = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-I", "-c", TIMED], capture_output=True, text=True, check=True
    )
    dagster, ours, all_names = map(float, answer.stdout.split())
    return dagster, ours, all_names


def main() -> str | None:
    """Return what is wrong, or None."""
    unwanted = sorted(_distributions() & set(EXTRAS_ONLY))
    if unwanted:
        return f"The plain install brought {', '.join(unwanted)}."
    # The best of some runs: noise only ever adds.
    runs = [_timed() for _ in range(RUNS)]
    dagster, ours, all_names = (min(column) for column in zip(*runs, strict=True))
    allowed = max(LIMIT, SHARE * dagster)
    print(  # noqa: T201 - a script's answer
        f"import dagster {dagster:.2f} s; on top of it import dagster_dbtcloud {ours:.3f} s, with "
        f"all public names {all_names:.3f} s (allowed: {allowed:.2f} s)"
    )
    return f"Our import costs {all_names:.3f} s." if all_names > allowed else None


if __name__ == "__main__":
    sys.exit(main())
