"""The sensor under kill -9: whatever is killed when, each result is in the event log once."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
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
from dagster_dbtcloud_tests.observing import TINY, backlog, held, project, utc_now
from dagster_dbtcloud_tests.stage import until

DAGSTER_YAML = "telemetry: {enabled: false}\nnux: {enabled: false}\n"


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
            found = held(instance, raw)
    assert found - truth == {}, "told twice, or wrong"
    assert truth - found == {}, "lost"
    assert killed == kills, f"the backlog was done after {killed} kills: make it longer"


def test_killed_at_ten_points_on_sqlite(tmp_path: Path) -> None:
    """Between two stored events, before the cursor is saved, in the middle of a fetch."""
    (tmp_path / "dagster.yaml").write_text(DAGSTER_YAML)
    kill_often(tmp_path, kills=10, runs=10, models=5, between=7, EVENTS_PER_TICK="20")


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_fifty_points_on_sqlite(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same in a backlog of a hundred runs of fifty nodes."""
    monkeypatch.setenv("SEED", str(seed))
    (tmp_path / "dagster.yaml").write_text(DAGSTER_YAML)
    kill_often(tmp_path, kills=50, runs=100, models=34, between=150, EVENTS_PER_TICK="400")


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[str]:
    """The address of a PostgreSQL of the test's own; skipped where the package is missing."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("Debian's package postgresql is not installed")
    data = tmp_path / "pg"
    data.mkdir()
    run = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if run:
        for folder in (data, *tmp_path.parents):
            if folder == Path("/tmp") or not folder.is_relative_to("/tmp"):  # noqa: S108
                break
            folder.chmod(0o755)
        tmp_path.chmod(0o755)
        shutil.chown(data, "postgres")
    tool = str(found[-1])
    subprocess.run(
        [*run, f"{tool}/initdb", "-D", str(data), "-A", "trust", "-U", "dagster"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"-p {port} -k {data} -c listen_addresses=127.0.0.1"
    control = [*run, f"{tool}/pg_ctl", "-D", str(data), "-w", "-l", str(data / "log")]
    subprocess.run([*control, "-o", options, "start"], check=True, stdout=subprocess.DEVNULL)
    try:
        yield f"postgresql+psycopg2://dagster@127.0.0.1:{port}/postgres"
    finally:
        # by signal: pytest takes the folder's rights back, and pg_ctl then cannot read it
        process = int((data / "postmaster.pid").read_text().split()[0])
        os.kill(process, signal.SIGINT)
        until(lambda: not (data / "postmaster.pid").exists())


def _with_postgresql(home: Path, url: str) -> Path:
    home.mkdir()
    (home / "dagster.yaml").write_text(
        f"{DAGSTER_YAML}storage:\n  postgres:\n    postgres_url: {url}\n"
    )
    return home


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_fifty_points_on_postgresql(
    tmp_path: Path, postgresql: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL stores an event and its history in one place, one after the other."""
    monkeypatch.setenv("SEED", str(seed))
    home = _with_postgresql(tmp_path / "home", postgresql)
    kill_often(home, kills=50, runs=100, models=34, between=150, EVENTS_PER_TICK="400")


LOCATION = """
import os
from datetime import timedelta
from dagster_dbtcloud_tests.observing import definitions, workspace_of

workspace = workspace_of(os.environ, os.environ["MANIFEST"])
defs = definitions(workspace, start_at=timedelta(days=400), max_events_per_tick=400)
"""


def kill_the_daemon(home: Path, *, kills: int, runs: int, models: int, seed: int) -> None:
    """Kill Dagster's own daemon at random points of a backlog, start it again each time."""
    raw = project(models, models // 2)
    (home / "manifest.json").write_text(json.dumps(raw))
    (home / "location.py").write_text(LOCATION)
    chance = random.Random(seed)  # noqa: S311 - repeatable on purpose
    with Sandbox(project_dir=TINY, warm=False) as sandbox:
        truth = backlog(sandbox, raw, runs, ends=utc_now(), apart=timedelta(seconds=40))
        env = {
            **os.environ,
            **sandbox.env,
            "DAGSTER_HOME": str(home),
            "MANIFEST": str(home / "manifest.json"),
        }
        command = [str(Path(sys.executable).parent / "dagster-daemon"), "run", "-f", "location.py"]
        with dg.DagsterInstance.from_config(str(home)) as instance:
            for life in range(kills + 1):
                before = held(instance, raw).total()
                wanted = truth.total() if life == kills else before + chance.randint(1, 60)
                with subprocess.Popen(
                    command,
                    env=env,
                    cwd=home,
                    start_new_session=True,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                ) as daemon:
                    try:
                        reached = min(wanted, truth.total())
                        until(lambda: held(instance, raw).total() >= reached, seconds=120)  # noqa: B023
                        if life == kills:
                            SystemClock().sleep(10)  # time for what would be told twice
                        SystemClock().sleep(chance.uniform(0.0, 0.05))
                    finally:
                        os.killpg(daemon.pid, signal.SIGKILL)
            found = held(instance, raw)
    assert found == truth


@pytest.mark.nightly
def test_dagsters_own_daemon_killed_on_sqlite(tmp_path: Path) -> None:
    """The daemon and its code server, killed in the middle of their work and started again."""
    (tmp_path / "dagster.yaml").write_text(DAGSTER_YAML)
    kill_the_daemon(tmp_path, kills=8, runs=20, models=10, seed=1)


@pytest.mark.nightly
def test_dagsters_own_daemon_killed_on_postgresql(tmp_path: Path, postgresql: str) -> None:
    """The same on PostgreSQL."""
    home = _with_postgresql(tmp_path / "home", postgresql)
    kill_the_daemon(home, kills=8, runs=20, models=10, seed=2)
