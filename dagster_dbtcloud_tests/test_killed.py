"""The sensor under kill -9: whatever is killed when, each result is in the event log once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from dagster_dbtcloud.clock import SystemClock
from dagster_dbtcloud.sandbox import Sandbox
from dagster_dbtcloud_tests.kill_daemon import POSTGRESQL, campaign, dagster_home
from dagster_dbtcloud_tests.observing import TINY, backlog, held, project, stale, utc_now

NEEDS_POSTGRESQL = pytest.param(
    "postgresql",
    marks=pytest.mark.skipif(not POSTGRESQL, reason="Debian's package postgresql is not installed"),
)


class Ticker:
    """The ticking process, seen from outside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert self._read() == "ready"

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def live(self, points: int | None = None, *, longer: float = 0.0) -> int:
        """Let a child tick, and kill it so many seconds after so many points of its life.

        A point is where it is about to store an event, or the cursor. Returns how it ended.
        """
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        child = int(self._read())
        passed = 0
        while True:
            if passed == points:
                SystemClock().sleep(longer)
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            line = self._read()
            if line != ".":
                return int(line)
            passed += 1


@contextmanager
def ticking(home: Path, sandbox: Sandbox, manifest: Path, **env: str) -> Iterator[Ticker]:
    command = [sys.executable, "-m", "dagster_dbtcloud_tests.ticking", str(manifest)]
    with subprocess.Popen(
        [*command, str(home / "cursor")],
        env={**os.environ, **sandbox.env, **env, "DAGSTER_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Ticker(process)
        finally:
            process.kill()


def kill_often(home: Path, *, kills: int, runs: int, models: int, between: int, **env: str) -> None:
    """Kill the ticking process at random points of a backlog, then let it end; compare."""
    raw = project(models, models // 2)
    manifest = home / "manifest.json"
    manifest.write_text(json.dumps(raw))
    chance = random.Random(int(os.environ.get("SEED", "1")))  # noqa: S311 - repeatable on purpose
    with Sandbox(project_dir=TINY, warm=False) as sandbox:
        apart = timedelta(seconds=0 if chance.random() < 0.5 else 40)
        truth = backlog(sandbox, raw, runs, ends=utc_now(), apart=apart)
        with ticking(home, sandbox, manifest, **env) as ticker:
            killed = 0
            while killed < kills:
                longer = chance.uniform(0.0, 0.02)
                ended = ticker.live(chance.randint(1, between), longer=longer)
                if ended == 0:
                    break
                assert ended == -signal.SIGKILL
                killed += 1
            assert ticker.live() == 0
            assert ticker.live() == 0
        with dg.DagsterInstance.from_config(str(home)) as instance:
            found, behind = held(instance, raw), stale(instance, raw)
    assert behind == [], "another materialization is shown as the newest"
    assert found - truth == {}, "told twice, or wrong"
    assert truth - found == {}, "lost"
    assert killed == kills, f"the backlog was done after {killed} kills: make it longer"


def test_killed_at_ten_points_on_sqlite(tmp_path: Path) -> None:
    """Between two stored events, before the cursor is saved, in the middle of a fetch."""
    with dagster_home(tmp_path, "sqlite") as home:
        kill_often(home, kills=10, runs=10, models=5, between=7, EVENTS_PER_TICK="20")


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_fifty_points_on_sqlite(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same in a backlog of a hundred runs of fifty nodes."""
    monkeypatch.setenv("SEED", str(seed))
    with dagster_home(tmp_path, "sqlite") as home:
        kill_often(home, kills=50, runs=100, models=34, between=150, EVENTS_PER_TICK="400")


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.skipif(not POSTGRESQL, reason="Debian's package postgresql is not installed")
def test_killed_at_fifty_points_on_postgresql(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL stores an event, and then what the asset's page shows."""
    monkeypatch.setenv("SEED", str(seed))
    with dagster_home(tmp_path, "postgresql") as home:
        kill_often(home, kills=50, runs=100, models=34, between=150, EVENTS_PER_TICK="400")


@pytest.mark.nightly
@pytest.mark.parametrize("database", ["sqlite", NEEDS_POSTGRESQL])
def test_dagsters_own_daemon_killed(tmp_path: Path, database: str) -> None:
    """Killed in the middle of its work and started again; `make kill-daemon` does more of it."""
    with dagster_home(tmp_path, database) as home:
        outcome = campaign(home, kills=5, runs=20, models=10, tests=5, seed=1, database=database)
    assert outcome.kills == 5
    assert outcome.is_good, outcome
