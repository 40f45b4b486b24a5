"""kill -9 at any moment, then Dagster's own retry: one dbt Cloud run, and every result once."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_dbtcloud.sandbox import PastStep, Sandbox
from dagster_dbtcloud_tests.conftest import PROJECTS
from dagster_dbtcloud_tests.dbt.builders import node, raw_manifest
from dagster_dbtcloud_tests.kill_target import PHASES
from dagster_dbtcloud_tests.stage import run_results

MODELS = ("model.shop.a", "model.shop.b", "model.shop.c")
TESTS = ("test.shop.unique_a", "test.shop.not_null_b")
RESULTS = (*((one, "success") for one in MODELS), *((one, "pass") for one in TESTS))
LOG = "".join(
    f"10:00:0{place}  {place} of 3 START sql view model main.{name} ....... [RUN]\n"
    f"10:00:0{place}  {place} of 3 OK created sql view model main.{name} .. [OK in 0.10s]\n"
    for place, name in enumerate("abc", start=1)
)
ENDED = ("SUCCEEDED", "FAILED")
DAILY, NIGHTLY = 10, 50


@dataclass(frozen=True)
class Kill:
    """A moment: a share of the way through a phase."""

    phase: str
    share: float
    method: str
    build_seconds: float

    def __str__(self) -> str:
        return f"{self.phase}, {self.share:.2f}, {self.method}, {self.build_seconds} s"


def kills() -> Iterator[Any]:
    """Seeded: each phase in turn, at a random place, of a run that ends meanwhile or goes on."""
    chance = random.Random(20261121)  # noqa: S311 -- the same ones each time
    phases = list(PHASES)
    # Storing is where a result can be had twice or lost: it gets twice its share.
    turns = [*phases, "storing results"]
    for number in range(NIGHTLY):
        kill = Kill(
            turns[number % len(turns)],
            chance.random(),
            chance.choice(("wait", "stream")),
            chance.choice((0.05, 0.6)),
        )
        marks = [] if number < DAILY else [pytest.mark.nightly]
        yield pytest.param(kill, marks=marks, id=f"{number}: {kill}")


class Range:
    """A sandbox, a Dagster instance on disk, and a process that executes and dies on order."""

    def __init__(
        self,
        sandbox: Sandbox,
        folder: Path,
        process: subprocess.Popen[str],
        instance: dg.DagsterInstance,
    ) -> None:
        self.sandbox = sandbox
        self.instance = instance
        self._said = folder / "stderr"
        self._process = process
        self._trace = folder / "trace.json"
        self._lengths: dict[str, Counter[str]] = {}

    def play(self, seconds: float) -> None:
        made: dict[str, Any] = {"run_results.json": run_results(*RESULTS), "manifest.json": {}}
        self.sandbox.play(lambda _, line: PastStep(line, logs=LOG, seconds=seconds, artifacts=made))

    def execute(self, **order: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, self._said.read_text()[-3000:]
        return int(json.loads(answer))

    def length(self, kill: Kill) -> int:
        """How many moments a phase has, from a run that nobody kills."""
        known = self._lengths.get(kill.method)
        if known is None:
            self.play(0.05)
            assert self.execute(method=kill.method, trace=str(self._trace)) == 0
            known = Counter(json.loads(self._trace.read_text()))
            self._lengths[kill.method] = known
        assert known[kill.phase], f"no call tells where {kill.phase!r} begins: see kill_target"
        return known[kill.phase]


@pytest.fixture(scope="module")
def shooting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Range]:
    folder = tmp_path_factory.mktemp("kill")
    (folder / "dagster").mkdir()
    entries = [node(one, *MODELS[:place]) for place, one in enumerate(MODELS)]
    entries += [node(one, model) for one, model in zip(TESTS, MODELS, strict=False)]
    (folder / "manifest.json").write_text(json.dumps(raw_manifest(*entries)))
    with (
        Sandbox(project_dir=PROJECTS / "tiny", warm=False) as sandbox,
        (folder / "stderr").open("w") as said,
        dg.DagsterInstance.local_temp(str(folder / "dagster")) as instance,
    ):
        process = subprocess.Popen(
            [sys.executable, "-m", "dagster_dbtcloud_tests.kill_target"],
            env={
                **os.environ,
                **sandbox.env,
                "KILL_MANIFEST": str(folder / "manifest.json"),
                "KILL_HOME": str(folder / "dagster"),
                "DAGSTER_DBTCLOUD_CACHE_DIR": str(folder / "cache"),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
        try:
            yield Range(sandbox, folder, process, instance)
        finally:
            process.kill()
            process.communicate()


def recorded(instance: dg.DagsterInstance, run_ids: set[str]) -> Counter[str]:
    """Return how often the histories of assets and checks hold a result of these runs."""
    found: Counter[str] = Counter()
    for name in "abc":
        wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(name))
        records = instance.fetch_materializations(wanted, limit=1000).records
        found[name] += sum(1 for record in records if record.run_id in run_ids)
    for name, asset in (("unique_a", "a"), ("not_null_b", "b")):
        key = dg.AssetCheckKey(dg.AssetKey(asset), name)
        history = instance.event_log_storage.get_asset_check_execution_history(key, limit=1000)
        found[name] += sum(
            1 for row in history if row.run_id in run_ids and row.status.value in ENDED
        )
    return found


@pytest.mark.parametrize("kill", list(kills()))
def test_a_killed_step_is_taken_up_by_its_retry(shooting: Range, kill: Kill) -> None:
    """Wherever it died: dbt Cloud ran once, and each result is in the event log once."""
    number = int(kill.share * shooting.length(kill))
    last = max((int(run["id"]) for run in shooting.sandbox.runs()), default=0)
    shooting.play(kill.build_seconds)
    died = shooting.execute(method=kill.method, phase=kill.phase, number=number)
    assert died == -9, f"{kill}: ended with {died}"
    instance = shooting.instance
    (dead,) = instance.get_runs(limit=1)
    stored = sum(recorded(instance, {dead.run_id}).values())
    run_ids = {dead.run_id}
    stats = instance.get_run_step_stats(dead.run_id)
    if not any(each.status is not None and each.status.value == "SUCCESS" for each in stats):
        # As run monitoring does when a run worker is gone; then the retry that follows it.
        instance.report_run_failed(dead)
        assert shooting.execute(method=kill.method, parent=dead.run_id) == 0
        (alive,) = instance.get_runs(limit=1)
        assert alive.parent_run_id == dead.run_id
        run_ids.add(alive.run_id)
    found = recorded(instance, run_ids)
    runs = shooting.sandbox.runs(after=last)
    what = f"{kill}, moment {number}, {stored} stored before"
    assert [run["status_humanized"] for run in runs] == ["Success"], what
    assert dict(found) == dict.fromkeys(found, 1), what
