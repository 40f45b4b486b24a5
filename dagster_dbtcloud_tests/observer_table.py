"""What the polling sensor makes of dbt Cloud's history, case by case, against the sandbox's truth.

    python -m dagster_dbtcloud_tests.observer_table        (make observer-table)

Each case plays a history, ticks the sensor as Dagster's daemon does, and compares what the
histories of assets and checks hold with what dbt Cloud did. ``lost``, ``twice``, ``wrong`` and
``stuck`` must be 0 everywhere. No dbt runs: results are played over HTTP.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from dagster_dbtcloud import build_dbt_cloud_polling_sensor, load_dbt_cloud_asset_specs
from dagster_dbtcloud.cursor import OVERLAP, Cursor
from dagster_dbtcloud.errors import ApiError
from dagster_dbtcloud.marker import RECORDED, RUN_TAG_PREFIX, STARTED, Marker
from dagster_dbtcloud.polling import PATIENCE
from dagster_dbtcloud.replay import replay
from dagster_dbtcloud.sandbox import Fault, PastStep, Sandbox
from dagster_dbtcloud.sensor import observer_of
from dagster_dbtcloud.specs import UNIQUE_ID
from dagster_dbtcloud.wake import leave_note
from dagster_dbtcloud_tests.conftest import SkippingClock
from dagster_dbtcloud_tests.dbt.builders import node
from dagster_dbtcloud_tests.observing import (
    TINY,
    Told,
    definitions,
    held,
    project,
    results,
    truth,
    workspace_of,
)

M = [f"model.shop.m{number}" for number in range(4)]
T = ["test.shop.unique_m0.0000000000", "test.shop.unique_m1.0000000001"]
SOURCE = "source.shop.raw.orders"
UNIT = "unit_test.shop.m0.adds_up"
MINUTE = timedelta(minutes=1)


def manifest() -> dict[str, Any]:
    """Return four models in a line, the first two tested, the first reading a source and with a
    unit test.
    """
    raw = project(4, 2)
    source = node(SOURCE, source_name="raw", name="orders", identifier="orders", loader="")
    raw["sources"] = {SOURCE: source}
    raw["nodes"][M[0]]["depends_on"]["nodes"] = [SOURCE]
    raw["unit_tests"] = {UNIT: node(UNIT, M[0], name="adds_up", model="m0")}
    return raw


class PastClock(SkippingClock):
    """It shows a time two months ago, so that whatever is skipped, dbt Cloud's past is past for
    Dagster too, whose events bear the real time.
    """

    def now(self) -> datetime:
        return super().now() - timedelta(days=60)


class World:
    """One case: an environment of its own in the shared sandbox, and a sensor upon it."""

    def __init__(self, sandbox: Sandbox, clock: SkippingClock, name: str) -> None:
        self.sandbox = sandbox
        self.clock = clock
        self.environment = sandbox.create_environment(f"case {name}")
        self.raw = manifest()
        self.truth: Told = Counter()
        self.messages: list[str] = []
        self.cursor: str | None = None
        self.stuck = 0
        self.instance = dg.DagsterInstance.ephemeral()
        self.job = sandbox.create_job("nightly", ["dbt build"], environment_id=self.environment)
        env = {**sandbox.env, "DBT_CLOUD_ENVIRONMENT_ID": str(self.environment)}
        self.workspace = workspace_of(env, self.raw, clock=clock)
        self.use()

    def use(self, *, assets: Any = None, **sensor: Any) -> None:
        """Load the code location (again)."""
        defs = definitions(self.workspace, **sensor)
        if assets is not None:
            built = build_dbt_cloud_polling_sensor(
                workspace=self.workspace, name="observer", **sensor
            )
            defs = dg.Definitions(assets=assets, sensors=[built])
        self.repository = defs.get_repository_def()
        self.sensor = next(iter(self.repository.sensor_defs))

    # --- history

    def run(
        self,
        *entries: tuple[str, str],
        counts: bool = True,
        steps: list[PastStep] | None = None,
        command: str = "dbt build",
        args: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> int:
        """Put a run into history; by default of one command, and counted as truth."""
        if steps is None:
            steps = [step(command, *entries, **(args or {}))]
        fields.setdefault("steps_override", [each.command for each in steps])
        at = fields.setdefault("finished_at", self.clock.now())
        fields.setdefault("created_at", at)
        run_id = self.sandbox.insert_run(fields.pop("job", self.job), steps=steps, **fields)
        if counts:
            self.truth += truth(entries, run_id)
        return run_id

    def good(self, **fields: Any) -> int:
        return self.run(
            *[(each, "success") for each in M], *[(each, "pass") for each in T], **fields
        )

    # --- time

    def tick(self, times: int = 1, *, stored: int | None = None) -> list[Any]:
        """Tick as the daemon does; ``stored``: it is killed after so many events."""
        events: list[Any] = []
        for _ in range(times):
            with dg.build_sensor_context(
                instance=self.instance, cursor=self.cursor, repository_def=self.repository
            ) as context:
                data = self.sensor.evaluate_tick(context)
            for event in data.asset_events[:stored]:
                self.instance.report_runless_asset_event(event)
            if stored is None:
                self.cursor = data.cursor
            self.messages.append(data.skip_message or "")
            events += data.asset_events
        return events

    def catch_up(self) -> None:
        """Tick until nothing more is to come: how many ticks that takes, a busy machine decides."""
        self.tick()
        while "more to come" in self.messages[-1]:
            self.tick()

    def skip(self, time: timedelta) -> None:
        self.clock.skip(time.total_seconds())

    def end(self) -> None:
        """Let a last good run come, and tick until nothing is left: who is stuck shows it."""
        self.sandbox.faults.clear()
        self.skip(timedelta(seconds=2))
        self.good()
        for _ in range(60):
            self.tick()
            cursor = Cursor.from_json(self.cursor)
            if "more to come" not in self.messages[-1] and cursor and not cursor.waiting:
                return
            self.skip(MINUTE)
        self.stuck = 1

    def dagster_run(self, status: dg.DagsterRunStatus, **tags: str) -> dg.DagsterRun:
        job = dg.define_asset_job("job").resolve(asset_graph=self.repository.asset_graph)
        return self.instance.create_run_for_job(job, status=status, tags=tags)

    def caused_by(self, run: dg.DagsterRun) -> dict[str, Any]:
        cause = Marker(run.run_id, "dbt", 0, 0).cause()
        return {"cause": cause, "cause_category": "api"}

    def note(self, run_id: int) -> None:
        """Do what a webhook does."""
        ids = self.workspace.ids()
        leave_note(
            self.instance,
            account_id=ids.account_id,
            environment_id=ids.environment_id,
            run_id=run_id,
            now=self.clock.now(),
        )

    def ended(self, run: dg.DagsterRun) -> None:
        self.instance.report_run_failed(run)


def step(command: str, *entries: tuple[str, str], **args: Any) -> PastStep:
    which = command.split()[1]
    status = 20 if any(word in ("error", "fail") for _, word in entries) else 10
    content = results(entries, which=which, invocation=f"inv of {command}", **args)
    return PastStep(command, status=status, artifacts={"run_results.json": content})


def freshness(*entries: tuple[str, str]) -> PastStep:
    body = {
        "metadata": {"dbt_schema_version": "https://schemas.getdbt.com/dbt/sources/v3.json"},
        "elapsed_time": 1.0,
        "results": [
            {
                "unique_id": unique_id,
                "status": status,
                "max_loaded_at": "2026-01-01T00:00:00Z",
                "snapshotted_at": "2026-01-01T01:00:00Z",
                "max_loaded_at_time_ago_in_s": 3600.0,
                "criteria": {"warn_after": {"count": 1, "period": "hour"}},
            }
            for unique_id, status in entries
        ],
    }
    return PastStep("dbt source freshness", artifacts={"sources.json": body})


CASES: dict[str, Callable[[World], None]] = {}


def case(function: Callable[[World], None]) -> Callable[[World], None]:
    CASES[function.__name__.replace("_", " ")] = function
    return function


# --- everything that dbt built -------------------------------------------------------------------


@case
def a_build_of_everything(w: World) -> None:
    w.good()


@case
def a_run_that_only_tests(w: World) -> None:
    w.run((T[0], "pass"), (T[1], "fail"), command="dbt test", status=20)


@case
def compile_and_docs_build_nothing(w: World) -> None:
    for command in ("dbt compile", "dbt docs generate", "dbt parse"):
        w.run((M[0], "success"), command=command, counts=False)


@case
def docs_after_the_build(w: World) -> None:
    steps = [step("dbt run", (M[0], "success")), step("dbt docs generate", (M[1], "success"))]
    w.run((M[0], "success"), steps=steps)


@case
def three_building_steps(w: World) -> None:
    steps = [
        step("dbt run --select m0", (M[0], "success")),
        step("dbt run --select m1", (M[1], "success")),
        step("dbt test", (T[0], "pass"), (T[1], "warn")),
    ]
    w.run((M[0], "success"), (M[1], "success"), (T[0], "pass"), (T[1], "warn"), steps=steps)


@case
def one_node_built_by_two_steps(w: World) -> None:
    steps = [step("dbt run", (M[0], "success")), step("dbt build", (M[0], "success"))]
    w.run((M[0], "success"), (M[0], "success"), steps=steps)


@case
def a_failure_and_what_it_skipped(w: World) -> None:
    w.run((M[0], "success"), (M[1], "error"), (M[2], "skipped"), (T[1], "skipped"), status=20)


@case
def cancelled_with_partial_results(w: World) -> None:
    w.run((M[0], "success"), (T[0], "pass"), (M[1], "error"), status=30)


@case
def stopped_by_its_time_limit(w: World) -> None:
    w.run((M[0], "success"), status=30, status_message="This run timed out after 1 day")


@case
def tests_that_warn_fail_and_break(w: World) -> None:
    w.run((T[0], "warn"), (T[1], "fail"), status=20)
    w.run((T[0], "error"), (T[1], "pass"), status=20)


@case
def no_op_and_reused_are_observations(w: World) -> None:
    w.run((M[0], "no-op"), (M[1], "reused"), (M[2], "success"))


@case
def a_status_of_a_later_dbt(w: World) -> None:
    w.run((M[0], "transmogrified"), (M[1], "success"))


@case
def source_freshness(w: World) -> None:
    run_id = w.run(steps=[freshness((SOURCE, "pass")), step("dbt build", (M[0], "success"))])
    w.truth += truth([(M[0], "success")], run_id)
    w.truth["observed", "orders", str(run_id)] += 1


@case
def source_freshness_as_a_check(w: World) -> None:
    assets = load_dbt_cloud_asset_specs(w.workspace)
    key = dg.AssetKey(["raw", "orders"])
    spec = dg.AssetCheckSpec("fresh", asset=key, metadata={UNIQUE_ID: SOURCE})

    @dg.multi_asset_check(specs=[spec])
    def fresh() -> Iterator[dg.AssetCheckResult]:
        yield dg.AssetCheckResult(passed=False)  # dbt Cloud looks

    sensor = build_dbt_cloud_polling_sensor(workspace=w.workspace)
    found = dg.Definitions(assets=[*assets], asset_checks=[fresh], sensors=[sensor])
    w.repository, w.sensor = found.get_repository_def(), sensor
    for status in ("pass", "warn", "error"):
        run_id = w.run(steps=[freshness((SOURCE, status))])
        w.truth["observed", "orders", str(run_id)] += 1
    events = [each for each in w.tick() if isinstance(each, dg.AssetCheckEvaluation)]
    assert [(each.asset_check_key, each.passed) for each in events] == [
        (spec.key, True),
        (spec.key, False),
        (spec.key, False),
    ]
    assert events[1].severity == dg.AssetCheckSeverity.WARN
    w.use()


@case
def stale_sources(w: World) -> None:
    run_id = w.run(steps=[freshness((SOURCE, "error"))])
    w.truth["observed", "orders", str(run_id)] += 1


@case
def sixty_steps(w: World) -> None:
    steps = [
        step(f"dbt run --select m{n % 4} --vars '{{n: {n}}}'", (M[n % 4], "success"))
        for n in range(60)
    ]
    w.run(*[(M[n % 4], "success") for n in range(60)], steps=steps)


@case
def a_node_named_twice_in_one_result(w: World) -> None:
    steps = [step("dbt build", (M[0], "error"), (M[1], "success"), (M[0], "success"))]
    run_id = w.run(steps=steps, counts=False)
    w.truth += truth([(M[0], "success"), (M[1], "success")], run_id)


@case
def a_unit_test_that_fails(w: World) -> None:
    w.run((UNIT, "fail"), (M[0], "skipped"), (M[1], "success"), status=20)
    w.run((UNIT, "pass"), (M[0], "success"))


@case
def a_retry_of_a_failed_run(w: World) -> None:
    w.run((M[0], "success"), (M[1], "error"), (M[2], "skipped"), status=20)
    w.run((M[1], "success"), (M[2], "success"), command="dbt retry", cause_category="rerun")


@case
def a_build_without_results(w: World) -> None:
    w.run(steps=[PastStep("dbt build", status=20)], status=20, counts=False)


# --- only what counts ----------------------------------------------------------------------------


@case
def a_ci_run(w: World) -> None:
    w.good(counts=False, cause_category="ci")


@case
def a_pull_request(w: World) -> None:
    w.good(counts=False, github_pull_request_id=7)


@case
def a_schema_override(w: World) -> None:
    w.good(counts=False, schema_override="dbt_me")


@case
def a_branch_override(w: World) -> None:
    def script(_: Mapping[str, Any], command: str) -> PastStep:
        return step(command, (M[0], "success"))

    w.sandbox.play(script)
    for branch in ("feature", None):
        run_id = w.sandbox.trigger(w.job, git_branch=branch)
        w.sandbox.wait(run_id)
    w.sandbox.play(None)
    w.truth += truth([(M[0], "success")], run_id)
    w.tick()
    assert "branch override 'feature'" in w.messages[-1]


@case
def a_target_override(w: World) -> None:
    w.good(counts=False, target_name_override="dev")


@case
def another_environment(w: World) -> None:
    job = w.sandbox.create_job("elsewhere", ["dbt build"])
    w.good(counts=False, job=job)


@case
def a_job_that_is_deleted(w: World) -> None:
    job = w.sandbox.create_job("short-lived", ["dbt build"], environment_id=w.environment)
    w.use(exclude_jobs=["noise"])
    w.tick()
    w.good(job=job)
    w.sandbox.delete_job(job)


@case
def an_excluded_job(w: World) -> None:
    job = w.sandbox.create_job("noise", ["dbt build"], environment_id=w.environment)
    w.use(exclude_jobs=["noise"])
    w.good(counts=False, job=job)


@case
def only_one_job(w: World) -> None:
    job = w.sandbox.create_job("noise", ["dbt build"], environment_id=w.environment)
    w.use(jobs=[w.job])
    w.good(counts=False, job=job)


@case
def a_run_filter_that_breaks_on_one_run(w: World) -> None:
    bad: list[int] = []

    def keep(run: Any) -> bool:
        if run.id in bad:
            raise ValueError("the filter does not like it")
        return True

    w.use(run_filter=keep)
    bad.append(w.good(counts=False))
    w.tick()
    w.skip(PATIENCE + MINUTE)


@case
def nodes_that_nobody_declares(w: World) -> None:
    w.run(
        steps=[step("dbt build", ("model.shop.unknown", "success"), (M[0], "success"))],
        counts=False,
    )
    run = max(each["id"] for each in w.sandbox.runs() if each["job_definition_id"] == w.job)
    w.truth += truth([(M[0], "success")], run)


@case
def a_run_of_another_deployment(w: World) -> None:
    cause = Marker("11111111-2222-3333-4444-555555555555", "dbt", 0, 0).cause()
    w.good(cause=cause, cause_category="api")


# --- our own runs --------------------------------------------------------------------------------


@case
def our_run_recorded_by_its_step(w: World) -> None:
    run = w.dagster_run(dg.DagsterRunStatus.SUCCESS)
    run_id = w.good(counts=False, **w.caused_by(run))
    w.instance.add_run_tags(run.run_id, {f"{RUN_TAG_PREFIX}{run_id}": RECORDED})


@case
def our_run_whose_step_is_alive_and_then_killed(w: World) -> None:
    run = w.dagster_run(dg.DagsterRunStatus.STARTED)
    run_id = w.good(**w.caused_by(run))
    w.instance.add_run_tags(run.run_id, {f"{RUN_TAG_PREFIX}{run_id}": STARTED})
    assert w.tick(3) == []
    w.ended(run)


@case
def our_run_recorded_in_part_by_a_killed_step(w: World) -> None:
    run = w.dagster_run(dg.DagsterRunStatus.STARTED)
    run_id = w.good(**w.caused_by(run))
    w.instance.add_run_tags(run.run_id, {f"{RUN_TAG_PREFIX}{run_id}": STARTED})
    probe = World(w.sandbox, w.clock, "what a step would write")
    probe.environment, probe.workspace = w.environment, w.workspace
    probe.use()
    for event in probe.tick()[:3]:
        w.instance.report_runless_asset_event(event)
    probe.instance.dispose()
    w.tick(2)
    w.ended(run)


@case
def our_run_adopted_and_recorded_by_a_later_one(w: World) -> None:
    first = w.dagster_run(dg.DagsterRunStatus.FAILURE)
    later = w.dagster_run(dg.DagsterRunStatus.STARTED)
    run_id = w.good(counts=False, **w.caused_by(first))
    w.instance.add_run_tags(later.run_id, {f"{RUN_TAG_PREFIX}{run_id}": STARTED})
    assert w.tick(2) == []
    w.instance.add_run_tags(later.run_id, {f"{RUN_TAG_PREFIX}{run_id}": RECORDED})
    w.ended(later)


@case
def our_run_that_the_daemon_will_retry(w: World) -> None:
    run = w.dagster_run(dg.DagsterRunStatus.FAILURE, **{"dagster/will_retry": "true"})
    w.good(**w.caused_by(run))
    assert w.tick(2) == []
    child = w.dagster_run(dg.DagsterRunStatus.STARTED, **{"dagster/parent_run_id": run.run_id})
    assert w.tick(2) == []
    w.ended(child)


@case
def our_run_executed_again_while_the_sensor_looks(w: World) -> None:
    run = w.dagster_run(dg.DagsterRunStatus.FAILURE)
    children: list[dg.DagsterRun] = []

    def keep(met: Any) -> bool:
        if met.job.name == "hourly" and not children:
            tags = {"dagster/parent_run_id": run.run_id}
            children.append(w.dagster_run(dg.DagsterRunStatus.STARTED, **tags))
        return True

    w.use(run_filter=keep)
    w.good(**w.caused_by(run))
    job = w.sandbox.create_job("hourly", ["dbt build"], environment_id=w.environment)
    w.good(job=job, finished_at=w.clock.now() + timedelta(seconds=1))
    assert len(w.tick()) == 6
    assert "waiting for the Dagster run that started it" in w.messages[-1]
    assert w.tick() == []
    w.ended(children[0])


@case
def our_run_whose_worker_vanished(w: World) -> None:
    run = w.dagster_run(dg.DagsterRunStatus.STARTED)
    run_id = w.good(**w.caused_by(run))
    w.instance.add_run_tags(run.run_id, {f"{RUN_TAG_PREFIX}{run_id}": STARTED})
    assert w.tick(2) == []
    w.skip(timedelta(hours=25))


# --- exactly once --------------------------------------------------------------------------------


@case
def killed_before_the_cursor_is_saved(w: World) -> None:
    w.tick()
    for _ in range(3):
        w.good()
    w.tick(stored=10_000)


@case
def killed_between_two_events(w: World) -> None:
    w.tick()
    for _ in range(4):
        w.good()
    w.tick(stored=8)


@case
def killed_again_and_again(w: World) -> None:
    w.tick()
    for number in range(4):
        w.good(finished_at=w.clock.now() + timedelta(seconds=number))
    for stored in (1, 0, 5, 3, 2):
        w.tick(stored=stored)


@case
def killed_at_the_very_first_tick(w: World) -> None:
    w.good()
    w.good()
    w.tick(stored=5)


@case
def killed_then_two_reloads_with_other_assets(w: World) -> None:
    w.tick()
    w.good()
    w.tick(stored=3)
    w.use(assets=load_dbt_cloud_asset_specs(w.workspace)[:2])
    w.use()


@case
def two_reloads_in_a_row(w: World) -> None:
    w.good()
    w.tick()
    w.use()
    w.good()
    w.use()
    w.tick()


@case
def the_cursor_is_reset(w: World) -> None:
    for _ in range(3):
        w.good()
    w.tick()
    w.cursor = None


@case
def the_sensor_is_renamed_a_day_later(w: World) -> None:
    w.use(start_at=timedelta(days=2))
    for _ in range(3):
        w.good()
        w.tick()
        w.skip(timedelta(hours=8))
    w.cursor = None


@case
def a_cursor_damaged_by_hand(w: World) -> None:
    w.good()
    w.tick()
    w.good()
    assert w.cursor is not None
    w.cursor = w.cursor.replace('"mark":"', '"mark":"ü')
    w.tick()
    w.good()
    w.cursor = w.cursor[:-9]
    w.tick()
    assert "begins anew" in w.messages[-1]


@case
def a_start_in_the_future(w: World) -> None:
    w.use(start_at=w.clock.now() + timedelta(hours=1))
    w.good(counts=False)
    w.tick(2)
    w.skip(timedelta(minutes=61))
    w.good()
    w.tick(2)


@case
def a_sensor_for_each_of_two_jobs(w: World) -> None:
    other = w.sandbox.create_job("hourly", ["dbt build"], environment_id=w.environment)
    cursors: list[str | None] = [None, None]
    for stored in (None, 3, None):
        w.good()
        w.good(job=other)
        for number, job in enumerate((w.job, other)):
            w.use(jobs=[job])
            w.cursor = cursors[number]
            w.tick(stored=stored)
            cursors[number] = w.cursor
    w.use(exclude_jobs=[w.job])
    w.cursor = cursors[1]
    w.tick()
    w.use(jobs=[w.job])
    w.cursor = cursors[0]


@case
def listed_late(w: World) -> None:
    now = w.clock.now()
    w.good(finished_at=now, listed_at=now + 3 * MINUTE)
    w.good(finished_at=now + timedelta(seconds=5))
    w.tick(2)
    w.skip(4 * MINUTE)


@case
def finished_out_of_order(w: World) -> None:
    now = w.clock.now()
    for seconds in (50, 10, 30, 20, 40):
        w.good(finished_at=now + timedelta(seconds=seconds))
        w.tick()


@case
def hundreds_of_equal_finish_times(w: World) -> None:
    now = w.clock.now()
    for _ in range(230):
        w.run((M[0], "success"), finished_at=now)
    w.tick(2)


@case
def more_runs_of_one_moment_than_are_named(w: World) -> None:
    now = w.clock.now()
    for _ in range(700):
        w.run((M[0], "success"), finished_at=now)
    w.catch_up()
    w.run((M[0], "success"), finished_at=now - timedelta(seconds=1))
    assert len(w.tick()) == 1
    assert w.tick() == []


@case
def many_runs_and_several_listed_late_among_them(w: World) -> None:
    start = w.clock.now()
    for number in range(600):
        listed: dict[str, Any] = {}
        if number % 200 < 150 and number % 30 == 7:  # a few, and none, of each hundred
            listed["listed_at"] = start + 3 * MINUTE
        at = start + timedelta(milliseconds=20 * number)
        w.run((M[0], "success"), finished_at=at, **listed)
    w.skip(MINUTE)
    w.catch_up()
    cursor = Cursor.from_json(w.cursor)
    assert cursor is not None
    assert cursor.seals
    w.skip(3 * MINUTE)
    w.tick(2)


@case
def pages_that_shift_while_read(w: World) -> None:
    now = w.clock.now()
    late: list[int] = []

    def keep(run: Any) -> bool:
        if len(late) < 12 and run.id % 9 == 0:
            late.append(w.run((M[1], "success"), finished_at=now - timedelta(seconds=300)))
        return True

    w.use(run_filter=keep)
    w.tick()
    for number in range(120):
        w.run((M[0], "success"), finished_at=now + timedelta(seconds=number / 10))
    w.tick(2)


@case
def artifacts_minutes_late(w: World) -> None:
    now = w.clock.now()
    w.good(finished_at=now, artifacts_at=now + 5 * MINUTE)
    w.tick(2)
    w.good()
    w.tick()
    w.skip(6 * MINUTE)


@case
def artifacts_of_a_failed_run_late(w: World) -> None:
    now = w.clock.now()
    entries = [(M[0], "success"), (M[1], "error")]
    w.run(*entries, status=20, finished_at=now, artifacts_at=now + 5 * MINUTE)
    w.tick(2)
    w.skip(6 * MINUTE)


@case
def switched_off_for_a_week(w: World) -> None:
    w.good()
    w.tick()
    start = w.clock.now()
    w.skip(timedelta(days=7))
    for number in range(130):
        w.run((M[0], "success"), finished_at=start + number * timedelta(hours=1))


@case
def a_run_larger_than_a_tick(w: World) -> None:
    w.use(max_events_per_tick=4)
    w.tick()
    w.good()
    w.good()


@case
def killed_within_a_part(w: World) -> None:
    w.use(max_events_per_tick=4)
    w.tick()
    w.good()
    w.tick()
    w.tick(stored=1)
    w.tick(stored=1)


@case
def a_finish_time_in_the_future(w: World) -> None:
    w.good(finished_at=w.clock.now() + timedelta(days=400))
    w.tick()
    w.skip(30 * MINUTE)
    w.good()


# --- never stuck ---------------------------------------------------------------------------------


def _bad(w: World, content: bytes) -> int:
    steps = [PastStep("dbt build", artifacts={"run_results.json": content})]
    return w.run(steps=steps, counts=False)


@case
def an_artifact_damaged_for_good(w: World) -> None:
    _bad(w, b'{"metadata": {}')
    w.good()
    w.tick(2)
    w.skip(PATIENCE + MINUTE)


@case
def an_artifact_of_another_schema(w: World) -> None:
    _bad(w, b'{"metadata": {"dbt_schema_version": "v99"}, "results": 3}')
    w.good()
    w.tick()
    w.skip(PATIENCE + MINUTE)


@case
def a_page_of_html_for_a_while(w: World) -> None:
    run_id = w.good()
    w.sandbox.faults.add(Fault("html", path=f"*/runs/{run_id}/artifacts/*", count=None))
    w.tick(2)
    w.good()
    w.tick()
    w.sandbox.faults.clear()


@case
def an_artifact_refused_for_good(w: World) -> None:
    run_id = w.good(counts=False)
    path = f"*/runs/{run_id}/artifacts/*"
    w.sandbox.faults.add(Fault("status", status=403, path=path, count=None))
    w.tick(2)
    w.skip(PATIENCE + MINUTE)
    w.tick()


@case
def an_error_500_over_one_run(w: World) -> None:
    run_id = w.good()
    path = f"*/runs/{run_id}/*"
    w.sandbox.faults.add(Fault("status", status=500, path=path, count=None))
    w.good()
    w.tick(2)
    w.sandbox.faults.clear()


@case
def an_error_500_over_four_runs_in_a_row(w: World) -> None:
    w.tick()
    bad = [w.good(counts=False) for _ in range(4)]
    for run_id in bad:
        fault = Fault("status", status=500, path=f"*/runs/{run_id}/*", count=None)
        w.sandbox.faults.add(fault)
    w.good()
    for _ in range(16):
        w.skip(timedelta(minutes=30))
        w.tick()
    cursor = Cursor.from_json(w.cursor)
    assert cursor is not None
    assert set(cursor.quarantined) == set(bad)


@case
def a_malformed_run_in_the_list(w: World) -> None:
    now = w.clock.now()
    w.good(finished_at=now)
    w.good(counts=False, finished_at=now, status_message={"not": "a text"})
    w.good(finished_at=now + timedelta(seconds=1))
    w.tick(2)
    w.skip(PATIENCE + MINUTE)


@case
def deleted_while_waited_for(w: World) -> None:
    now = w.clock.now()
    run_id = w.good(counts=False, finished_at=now, artifacts_at=now + timedelta(days=1))
    w.tick()
    w.sandbox.faults.add(Fault("status", status=404, path=f"*/runs/{run_id}/*", count=None))
    w.tick()


def _outage(w: World, fault: Fault) -> None:
    w.good()
    w.tick()
    w.good()
    w.sandbox.faults.add(fault)
    w.good()
    with suppress(ApiError):
        w.tick()
    with suppress(ApiError):
        w.tick()
    w.sandbox.faults.clear()


for _name, _fault in {
    "an outage of everything": Fault("status", status=503, count=None),
    "an outage of artifacts": Fault("status", status=502, place="artifacts", count=None),
    "no answer at all": Fault("lost", count=None),
    "connections reset": Fault("reset", count=None, probability=0.5),
    "answers cut": Fault("cut", count=None, probability=0.5),
    "answers of html": Fault("html", count=None),
    "a refused token": Fault("status", status=401, count=None),
    "a forbidden address": Fault("status", status=403, count=None),
    "too many requests": Fault("status", status=429, count=None),
    "every third request fails": Fault("status", status=500, count=None, probability=0.33),
    "lists that lag": Fault("late_list", count=None),
}.items():
    CASES[_name] = lambda w, fault=_fault: _outage(w, fault)  # type: ignore[misc]


# --- webhooks and replay -------------------------------------------------------------------------


@case
def webhooks_replayed_and_out_of_order(w: World) -> None:
    w.use(webhooks=True)
    run_id = w.good()
    for noted in (run_id, run_id, 12345):
        w.note(noted)
    w.tick(3)
    w.skip(11 * MINUTE)
    w.note(run_id)
    w.tick(2)


@case
def a_webhook_before_the_list_knows_the_run(w: World) -> None:
    w.use(webhooks=True)
    w.tick()
    run_id = w.good(listed_at=w.clock.now() + 2 * MINUTE)
    w.note(run_id)
    assert len(w.tick()) == 6
    w.skip(3 * MINUTE)


def _replay(w: World, **values: Any) -> int:
    observer = observer_of(w.sensor)
    assert observer is not None
    reports = list(replay(observer, w.repository, w.instance, **values))
    return sum(len(report.events) for report in reports)


@case
def replayed_before_during_and_after_the_sensor(w: World) -> None:
    start = w.clock.now() - MINUTE
    w.good()
    assert _replay(w, since=start, dry_run=True) == 6
    assert _replay(w, since=start) == 6
    w.tick()
    w.good()
    w.tick()
    assert _replay(w, since=start) == 0


@case
def replayed_while_the_sensor_ticks(w: World) -> None:
    start = w.clock.now() - MINUTE
    for _ in range(3):
        w.good()
    observer = observer_of(w.sensor)
    assert observer is not None
    reports = replay(observer, w.repository, w.instance, since=start)
    assert len(next(reports).events) == 6
    assert len(w.tick()) == 12
    assert sum(len(report.events) for report in reports) == 0


@case
def a_run_given_up_and_replayed(w: World) -> None:
    run_id = w.good()
    path = f"*/runs/{run_id}/artifacts/*"
    w.sandbox.faults.add(Fault("status", status=403, path=path, count=None))
    w.tick()
    w.skip(PATIENCE + MINUTE)
    w.tick()
    w.sandbox.faults.clear()
    assert _replay(w, run_ids=[run_id]) == 6
    assert _replay(w, run_ids=[run_id]) == 0


@case
def a_replay_that_was_killed(w: World) -> None:
    start = w.clock.now() - MINUTE
    for _ in range(3):
        w.good()
    observer = observer_of(w.sensor)
    assert observer is not None
    for report in replay(observer, w.repository, w.instance, since=start, dry_run=True):
        for event in report.events[:2]:
            w.instance.report_runless_asset_event(event)
    assert _replay(w, since=start) == 12
    w.tick()


# --- partitions ----------------------------------------------------------------------------------


@case
def partitions_from_dbts_vars(w: World) -> None:
    daily = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-02-01")
    specs = [
        s.replace_attributes(partitions_def=daily) for s in load_dbt_cloud_asset_specs(w.workspace)
    ]
    w.use(assets=specs)
    for day, clock in ((2, ""), (3, "T00:00:00Z")):
        span = {"min_date": f"2026-01-0{day}{clock}", "max_date": f"2026-01-0{day + 1}{clock}"}
        w.run((M[0], "success"), args={"vars": span})
    assert [event.partition for event in w.tick()] == ["2026-01-02", "2026-01-03"]
    w.use()


# --- running it ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    name: str
    expected: int
    recorded: int
    lost: int
    twice: int
    wrong: int
    stuck: int

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.twice or self.wrong or self.stuck)


def play(name: str, sandbox: Sandbox, clock: SkippingClock) -> Row:
    """Play one case and compare."""
    clock.skip(3 * OVERLAP.total_seconds())
    world = World(sandbox, clock, name)
    with world.instance:
        try:
            CASES[name](world)
            world.end()
        finally:
            sandbox.faults.clear()
        raw = world.raw
        found = held(world.instance, {"nodes": raw["nodes"] | raw["sources"] | raw["unit_tests"]})
    lost, more = world.truth - found, found - world.truth
    return Row(
        name,
        world.truth.total(),
        found.total(),
        lost.total(),
        sum(count for key, count in more.items() if key in world.truth),
        sum(count for key, count in more.items() if key not in world.truth),
        world.stuck,
    )


@contextmanager
def stage() -> Iterator[tuple[Sandbox, SkippingClock]]:
    """The sandbox that all cases share, and its clock."""
    clock = PastClock()
    with Sandbox(project_dir=TINY, clock=clock, warm=False) as sandbox:
        yield sandbox, clock


def main(*wanted: str) -> int:
    logging.disable(logging.ERROR)  # hundreds of retries, as they should be
    write = sys.stdout.write
    columns = ("expected", "recorded", "lost", "twice", "wrong", "stuck")
    width = max(map(len, CASES))
    write(f"{'case':{width}}  {'  '.join(columns)}\n")
    rows = []
    with stage() as (sandbox, clock):
        for name in [each for each in CASES if not wanted or each in wanted]:
            row = play(name, sandbox, clock)
            rows.append(row)
            cells = "  ".join(f"{getattr(row, each):{len(each)}}" for each in columns)
            write(f"{name:{width}}  {cells}\n")
            sys.stdout.flush()
    bad = [row.name for row in rows if not row.is_good]
    write(f"\n{len(rows)} cases; not as they must be: {', '.join(bad) or 'none'}\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
