"""Dagster's own daemon, killed with SIGKILL at random points of a backlog and started again.

    python -m dagster_dbtcloud_tests.kill_daemon [--kills 50] [--runs 100] [sqlite] [postgresql]

(make kill-daemon). After the last life the histories of all assets and checks are compared with
what dbt Cloud did: ``lost``, ``twice``, ``wrong`` and ``stale`` must be 0. PostgreSQL is Debian's,
started here. No dbt runs: results are played over HTTP.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_dbtcloud.clock import SystemClock
from dagster_dbtcloud.cursor import Cursor
from dagster_dbtcloud.recorded import RUNLESS, stored_since
from dagster_dbtcloud.sandbox import Sandbox
from dagster_dbtcloud_tests.observing import TINY, backlog, held, project, stale, utc_now
from dagster_dbtcloud_tests.stage import until

DAGSTER_YAML = "telemetry: {enabled: false}\nnux: {enabled: false}\n"
POSTGRESQL = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
LOCATION = """
import os
from datetime import timedelta
from dagster_dbtcloud_tests.observing import definitions, workspace_of

workspace = workspace_of(os.environ, os.environ["MANIFEST"])
defs = definitions(workspace, start_at=timedelta(days=400), max_events_per_tick=120)
"""
_TYPES = {
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.ASSET_OBSERVATION,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
}
_A_LIFE = 300.0
"""Seconds that a daemon may take to get where it is to be killed."""
_START = 15.0
"""Seconds within which a daemon has started and its first tick is under way, or done."""


@dataclass(frozen=True)
class Outcome:
    """What became of a campaign. ``points``: how often the kill fell where."""

    database: str
    points: Counter[str]
    expected: int
    recorded: int
    lost: int
    twice: int
    wrong: int
    stale: int
    seconds: float

    @property
    def kills(self) -> int:
        return self.points.total()

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.twice or self.wrong or self.stale)


@contextmanager
def postgresql(home: Path) -> Iterator[str]:
    """Start a PostgreSQL of our own; yield its address. As root it runs as Debian's user."""
    data = home / "pg"
    data.mkdir()
    run = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if run:
        for folder in (data, *data.parents):
            if folder == Path("/tmp") or not folder.is_relative_to("/tmp"):  # noqa: S108
                break
            folder.chmod(0o755)
        shutil.chown(data, "postgres")
    tool = str(POSTGRESQL[-1])
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


@contextmanager
def dagster_home(folder: Path, database: str) -> Iterator[Path]:
    """Make a DAGSTER_HOME in ``folder`` whose storage is ``sqlite`` or ``postgresql``."""
    home = folder / "home"
    home.mkdir()
    if database == "sqlite":
        (home / "dagster.yaml").write_text(DAGSTER_YAML)
        yield home
        return
    with postgresql(folder) as url:
        (home / "dagster.yaml").write_text(
            f"{DAGSTER_YAML}storage:\n  postgres:\n    postgres_url: {url}\n"
        )
        yield home


class Log:
    """The events that the sensor has stored so far, counted on from the last look."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._place: str | None = None
        self.stored = 0

    def count(self) -> int:
        while True:
            page = self._instance.get_records_for_run(
                RUNLESS, self._place, _TYPES, 1_000, ascending=True
            )
            self.stored += len(page.records)
            self._place = page.cursor or self._place
            if not page.has_more:
                return self.stored


def campaign(
    home: Path,
    *,
    kills: int,
    runs: int,
    models: int,
    tests: int,
    seed: int,
    database: str,
    say: Callable[[str], object] = lambda _: None,
) -> Outcome:
    """Kill the daemon so often while it records ``runs`` runs, then let it end; compare."""
    raw = project(models, tests)
    (home / "manifest.json").write_text(json.dumps(raw))
    (home / "location.py").write_text(LOCATION)
    chance = random.Random(seed)  # noqa: S311 - repeatable on purpose
    clock, begun = SystemClock(), SystemClock().monotonic()
    points: Counter[str] = Counter()
    with (
        Sandbox(project_dir=TINY, warm=False) as sandbox,
        dg.DagsterInstance.from_config(str(home)) as instance,
    ):
        truth = backlog(sandbox, raw, runs, ends=utc_now(), apart=timedelta(seconds=40))
        log = Log(instance)
        env = {
            **os.environ,
            **sandbox.env,
            "DAGSTER_HOME": str(home),
            "MANIFEST": str(home / "manifest.json"),
        }
        for life in range(kills):
            with _daemon(home, env) as daemon:
                share = max(1, (truth.total() - log.count()) // (kills - life))
                if chance.random() < 0.2:  # whatever it is doing then
                    clock.sleep(chance.uniform(0.0, _START))
                else:
                    goal = min(log.stored + chance.randint(1, 2 * share - 1), truth.total())
                    until(lambda: log.count() >= goal, seconds=_A_LIFE)  # noqa: B023
                    clock.sleep(chance.uniform(0.0, 0.05))
                os.kill(daemon.pid, signal.SIGKILL)
                daemon.wait()
            point = _where(instance)
            points[point] += 1
            say(f"kill {life + 1}: {log.count()} events stored; {point}")
        with _daemon(home, env), suppress(AssertionError):  # what is lost is counted below
            until(lambda: held(instance, raw).total() >= truth.total(), seconds=_A_LIFE)
            clock.sleep(20)  # time for what would be told twice
        found, behind = held(instance, raw), stale(instance, raw)
    lost, more = truth - found, found - truth
    return Outcome(
        database,
        points,
        truth.total(),
        found.total(),
        lost.total(),
        sum(count for key, count in more.items() if key in truth),
        sum(count for key, count in more.items() if key not in truth),
        len(behind),
        clock.monotonic() - begun,
    )


@contextmanager
def _daemon(home: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start the daemon, with the code server that it starts; nothing of them outlives this."""
    command = [str(Path(sys.executable).parent / "dagster-daemon"), "run", "-f", "location.py"]
    with (
        (home / "daemon.log").open("ab") as output,
        subprocess.Popen(
            command, env=env, cwd=home, start_new_session=True, stdout=output, stderr=output
        ) as daemon,
    ):
        try:
            yield daemon
        finally:
            with suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)


def _where(instance: dg.DagsterInstance) -> str:
    """Tell what the killed daemon was about, from what it has left."""
    state = next(iter(instance.all_instigator_state()), None)
    data: Any = state.instigator_data if state is not None else None
    cursor = Cursor.from_json(data.cursor if data is not None else None)
    if cursor is None:
        return "in the first tick" if stored_since(instance, "") else "before anything is stored"
    behind = len(stored_since(instance, cursor.mark or "")) - cursor.wrote
    return "between two events, cursor unsaved" if behind > 0 else "cursor saved"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dagster_dbtcloud_tests.kill_daemon")
    parser.add_argument("databases", nargs="*", default=["sqlite", "postgresql"])
    for name, default in {"kills": 50, "runs": 100, "models": 34, "tests": 16, "seed": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = vars(parser.parse_args(argv))
    good = True
    for database in options.pop("databases"):
        if database == "postgresql" and not POSTGRESQL:
            raise SystemExit("Debian's package postgresql is needed: apt-get install postgresql")
        with (
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
            dagster_home(Path(folder), database) as home,
        ):
            outcome = campaign(home, database=database, say=_say, **options)
        points = ", ".join(f"{count} {where}" for where, count in sorted(outcome.points.items()))
        _say(f"{database}: {outcome.kills} kills ({points}) in {outcome.seconds:.0f} s")
        columns = ("expected", "recorded", "lost", "twice", "wrong", "stale")
        _say("  ".join(columns))
        _say("  ".join(f"{getattr(outcome, each):{len(each)}}" for each in columns))
        good = good and outcome.is_good
    return 0 if good else 1


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
