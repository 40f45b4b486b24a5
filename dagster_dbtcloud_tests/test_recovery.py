"""After a failure: a dbt Cloud run left behind is taken over, and only what failed runs again."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg
import pytest

from dagster_dbtcloud import (
    DbtCloudWorkspace,
    build_dbt_cloud_polling_sensor,
    dbt_cloud_assets,
    load_dbt_cloud_asset_specs,
)
from dagster_dbtcloud.cloud.models import Run
from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.errors import ConfigError
from dagster_dbtcloud.events import RUN_ID_TAG
from dagster_dbtcloud.marker import Mark
from dagster_dbtcloud.recovery import FRESH, Lineage, nodes_of, plan, same_work, shape
from dagster_dbtcloud.sandbox import Fault, PastStep
from dagster_dbtcloud_tests.stage import Stage, run_results

MODELS = ("slow", "orders", "customers")
IDS = {name: f"model.tiny.{name}" for name in MODELS}
CHECK = "test.tiny.amounts_are_large_enough"

Body = Callable[[dg.AssetExecutionContext, DbtCloudWorkspace], Iterator[Any]]


def build(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
    yield from dbt_cloud.cli(["build"], context=context).wait()


class Attempts:
    """A step over three models, run again and again in one Dagster instance."""

    def __init__(self, stage: Stage, instance: dg.DagsterInstance) -> None:
        self.stage = stage
        self.instance = instance
        self.workspace = stage.workspace()
        self.body: Body = build
        stage.built()
        stage.play(*((each, "success") for each in IDS.values()))

    def job(self, **arguments: Any) -> dg.JobDefinition:
        @dbt_cloud_assets(workspace=self.workspace, select=" ".join(MODELS), **arguments)
        def dbt_project(
            context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace
        ) -> Iterator[Any]:
            yield from self.body(context, dbt_cloud)

        @dg.asset(deps=[dg.AssetKey(["orders"])])
        def report() -> None:
            """Something downstream, in the same Dagster run."""

        return dg.Definitions(
            assets=[dbt_project, report],
            resources={"dbt_cloud": self.workspace},
            jobs=[dg.define_asset_job("all_of_it")],
            executor=dg.in_process_executor,
        ).resolve_job_def("all_of_it")

    def run(self, parent: str | None = None, *, from_failure: bool = True, **arguments: Any) -> str:
        """Execute the job, perhaps again after ``parent``; return the Dagster run's id."""
        name = f"job {len(JOBS)}"  # Dagster remembers a job by its name
        JOBS[name] = self.job(**arguments)
        options = None
        if parent is not None:
            options = (
                dg.ReexecutionOptions.from_failure(parent, self.instance)
                if from_failure
                else dg.ReexecutionOptions(parent_run_id=parent)
            )
        job = dg.build_reconstructable_job(__name__, "job_again", (name,))
        tags = {"dagster/is_resume_retry": "true"} if parent and from_failure else None
        result = dg.execute_job(job, self.instance, reexecution_options=options, tags=tags)
        return result.run_id

    def succeeded(self, run_id: str) -> bool:
        run = self.instance.get_run_by_id(run_id)
        return run is not None and run.is_success

    @property
    def runs(self) -> list[Mapping[str, Any]]:
        """The dbt Cloud runs that Dagster has started."""
        return [dict(run) for run in self.stage.sandbox.runs()[1:]]

    def recorded(self) -> Counter[tuple[str, str]]:
        """How often each model was materialized, by asset and dbt Cloud run."""
        found: Counter[tuple[str, str]] = Counter()
        for name in MODELS:
            records = self.instance.fetch_materializations(dg.AssetKey([name]), limit=100)
            for record in records.records:
                event = record.asset_materialization
                assert event is not None
                found[name, (event.tags or {})[RUN_ID_TAG]] += 1
        return found

    def said(self, run_id: str) -> str:
        return "\n".join(entry.user_message for entry in self.instance.all_logs(run_id))


JOBS: dict[str, dg.JobDefinition] = {}


def job_again(name: str) -> dg.JobDefinition:
    """What Dagster imports to find the job of a re-execution."""
    return JOBS[name]


@pytest.fixture
def attempts(stage: Stage, instance: dg.DagsterInstance) -> Attempts:
    return Attempts(stage, instance)


class Lost(Exception):
    """The step's process is gone; nothing was cleaned up."""


def detached(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
    """Start a run and vanish, as a process that is killed does."""
    yield from ()
    dbt_cloud.cli(["build"], context=context, on_leave="detach")
    raise Lost


# --- a run that goes on, or has ended unseen -----------------------------------------------------


def test_a_run_left_behind_is_followed(attempts: Attempts) -> None:
    """One dbt Cloud run over two Dagster runs, and each result once."""
    attempts.stage.play(*((each, "success") for each in IDS.values()), hold=True)
    attempts.body = detached
    first = attempts.run()
    assert not attempts.succeeded(first)

    (run,) = attempts.runs
    attempts.body = build
    attempts.stage.clock.hooks.append(lambda: attempts.stage.sandbox.release(run["id"]))
    second = attempts.run(first)
    assert attempts.succeeded(second)
    assert [each["id"] for each in attempts.runs] == [run["id"]]
    assert attempts.recorded() == {(name, str(run["id"])): 1 for name in MODELS}
    assert f"dbt Cloud run {run['id']} of an earlier attempt still goes on" in attempts.said(second)


def test_a_run_that_ended_unseen_is_harvested(attempts: Attempts) -> None:
    """Also by "re-execute all": nobody has its results yet."""
    attempts.body = detached
    first = attempts.run()
    (run,) = attempts.runs
    attempts.stage.sandbox.wait(run["id"])
    attempts.body = build
    second = attempts.run(first, from_failure=False)
    assert attempts.succeeded(second)
    assert len(attempts.runs) == 1
    assert attempts.recorded() == {(name, str(run["id"])): 1 for name in MODELS}


def test_what_the_lost_attempt_had_recorded_is_not_recorded_again(attempts: Attempts) -> None:
    """The event log tells what it had; the rest is added."""

    def half(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
        events = dbt_cloud.cli(["build"], context=context).wait()
        yield next(event for event in events if event.asset_key == dg.AssetKey(["slow"]))
        raise Lost

    attempts.body = half
    first = attempts.run()
    assert attempts.recorded()["slow", str(attempts.runs[0]["id"])] == 1
    attempts.body = build
    second = attempts.run(first)
    assert attempts.succeeded(second)
    assert len(attempts.runs) == 1
    assert set(attempts.recorded().values()) == {1}
    assert attempts.instance.fetch_materializations(dg.AssetKey(["report"]), limit=5).records


def test_what_a_sensor_is_about_to_record_is_waited_for(attempts: Attempts) -> None:
    """The tick has ended, and Dagster stores its events while the lost step is executed again."""
    attempts.body = detached
    first = attempts.run()
    (run,) = attempts.runs
    attempts.stage.sandbox.wait(run["id"])
    sensor = build_dbt_cloud_polling_sensor(workspace=attempts.workspace)
    specs = load_dbt_cloud_asset_specs(attempts.workspace)
    repository = dg.Definitions(assets=specs, sensors=[sensor]).get_repository_def()
    with dg.build_sensor_context(attempts.instance, repository_def=repository) as context:
        given = list(sensor.evaluate_tick(context).asset_events)
    assert len(given) == 3

    def store() -> None:
        while given:
            attempts.instance.report_runless_asset_event(given.pop())

    attempts.stage.clock.hooks.append(store)
    attempts.body = build
    second = attempts.run(first)
    assert attempts.succeeded(second)
    assert "waiting" in attempts.said(second)
    recorded = attempts.recorded()
    assert (recorded["slow", str(run["id"])], recorded["customers", str(run["id"])]) == (1, 1)


def test_what_a_step_downstream_waits_for_is_handed_to_it_again(attempts: Attempts) -> None:
    """It was recorded by the lost attempt, but in another Dagster run; others stay as they are."""

    def half(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
        for event in dbt_cloud.cli(["build"], context=context).wait():
            yield event
            if event.asset_key == dg.AssetKey(["orders"]):
                raise Lost

    attempts.body = half
    first = attempts.run()
    attempts.body = build
    assert attempts.succeeded(attempts.run(first))
    run = str(attempts.runs[0]["id"])
    assert attempts.recorded() == {("slow", run): 1, ("orders", run): 2, ("customers", run): 1}
    assert attempts.instance.fetch_materializations(dg.AssetKey(["report"]), limit=5).records


def test_a_success_is_not_taken_twice(attempts: Attempts) -> None:
    """Who executes a run again that succeeded wants new results."""
    first = attempts.run()
    second = attempts.run(first, from_failure=False)
    assert attempts.succeeded(second)
    assert len(attempts.runs) == 2


@pytest.mark.parametrize(("from_failure", "runs"), [(True, 1), (False, 2)])
def test_a_success_that_is_recorded_is_taken_only_from_failure(
    attempts: Attempts, from_failure: bool, runs: int
) -> None:
    """Something after dbt went wrong; who then executes everything again means everything."""

    def failing(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
        yield from build(context, dbt_cloud)
        raise ValueError

    attempts.body = failing
    first = attempts.run()
    attempts.body = build
    assert attempts.succeeded(attempts.run(first, from_failure=from_failure))
    assert len(attempts.runs) == runs


def test_an_old_success_is_not_taken(attempts: Attempts) -> None:
    """After a day, new results are what a person means."""
    attempts.body = detached
    first = attempts.run()
    attempts.stage.sandbox.wait(attempts.runs[0]["id"])
    attempts.stage.clock.skip(24 * 3600)
    attempts.body = build
    assert attempts.succeeded(attempts.run(first))
    assert len(attempts.runs) == 2


def test_a_run_with_other_words_is_left_alone(attempts: Attempts) -> None:
    """The flags have changed since: its results would be others. It is named."""
    attempts.stage.play(hold=True)
    attempts.body = detached
    first = attempts.run()
    left = attempts.runs[0]

    def other(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
        attempts.stage.play(*((each, "success") for each in IDS.values()))
        attempts.stage.sandbox.release(left["id"])
        yield from dbt_cloud.cli(["build", "--full-refresh"], context=context).wait()

    attempts.body = other
    second = attempts.run(first)
    assert attempts.succeeded(second)
    assert len(attempts.runs) == 2


def test_a_fresh_run_adopts_nothing(attempts: Attempts) -> None:
    """Runs of Dagster runs that have nothing to do with this one are not looked at."""
    attempts.stage.play(hold=True)
    attempts.body = detached
    attempts.run()
    attempts.stage.sandbox.release(attempts.runs[0]["id"])
    attempts.stage.play(*((each, "success") for each in IDS.values()))
    attempts.body = build
    assert attempts.succeeded(attempts.run())
    assert len(attempts.runs) == 2


# --- retry from failure --------------------------------------------------------------------------


class Failing:
    """dbt fails the named nodes the first time, and skips others; then all is well."""

    def __init__(self, attempts: Attempts, *bad: str, skipped: Sequence[str] = ()) -> None:
        self.ran: list[set[str]] = []
        self.commands: list[str] = []
        self.bad = {IDS.get(name, name) for name in bad}
        self.skipped = {IDS[name] for name in skipped}
        self.word = "error"
        self.bytes = attempts.stage.manifest
        self.manifest = Manifest.from_bytes(self.bytes, origin="the stage")
        attempts.stage.sandbox.play(self)

    def __call__(self, _: Mapping[str, Any], command: str) -> PastStep:
        again = bool(self.ran)
        nodes = set(nodes_of(self.manifest, run_of(1, command)))
        if command == "dbt retry":
            nodes = self.bad | self.skipped
        self.commands.append(command)
        self.ran.append(nodes)
        order = [*(each for each in IDS.values() if each in nodes), *sorted(nodes)]
        entries = [(node, self.status(node, again)) for node in dict.fromkeys(order)]
        return PastStep(
            command,
            status=10 if again else 20,
            artifacts={"manifest.json": self.bytes, "run_results.json": run_results(*entries)},
        )

    def status(self, node: str, again: bool) -> str:
        check = not node.startswith("model.")
        if not again and node in self.bad:
            return "fail" if check else self.word
        if not again and node in self.skipped:
            return "skipped"
        return "pass" if check else "success"


def test_re_execution_from_failure_runs_what_failed_and_was_skipped(attempts: Attempts) -> None:
    """The results of both runs make one; what is needed downstream is handed on."""
    dbt = Failing(attempts, "orders", CHECK, skipped=["customers"])
    first = attempts.run()
    assert not attempts.succeeded(first)
    second = attempts.run(first)
    assert attempts.succeeded(second), attempts.said(second)
    assert len(attempts.runs) == 2
    assert dbt.ran[1] == {IDS["orders"], IDS["customers"], CHECK}
    ids = [str(run["id"]) for run in attempts.runs]
    assert attempts.recorded() == {("slow", ids[0]): 1, ("orders", ids[1]): 1} | {
        ("customers", ids[1]): 1
    }
    assert f"running again 3 nodes of {len(dbt.ran[0])}" in attempts.said(second)
    assert attempts.instance.fetch_materializations(dg.AssetKey(["report"]), limit=5).records


def test_a_model_with_a_failed_batch_runs_again(attempts: Attempts) -> None:
    """A partial success is a failure to dbt, and to its own retry."""
    dbt = Failing(attempts, "orders", skipped=["customers"])
    dbt.word = "partial success"
    first = attempts.run()
    assert not attempts.succeeded(first)
    second = attempts.run(first)
    assert attempts.succeeded(second), attempts.said(second)
    assert dbt.ran[1] == {IDS["orders"], IDS["customers"]}


def test_re_executing_everything_runs_everything(attempts: Attempts) -> None:
    """Nobody asked to go on from the failure."""
    dbt = Failing(attempts, "orders")
    first = attempts.run()
    second = attempts.run(first, from_failure=False)
    assert attempts.succeeded(second)
    assert dbt.commands[1] == dbt.commands[0]


@pytest.mark.parametrize(
    ("mode", "from_failure", "whole"),
    [("off", True, True), ("on", False, False), ("auto", True, False)],
)
def test_the_user_chooses(attempts: Attempts, mode: Any, from_failure: bool, whole: bool) -> None:
    """Off, on in every re-execution, or as Dagster was asked."""
    dbt = Failing(attempts, "orders", skipped=["customers"])

    def body(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
        yield from dbt_cloud.cli(["build"], context=context, retry=mode).wait()

    attempts.body = body
    first = attempts.run()
    second = attempts.run(first, from_failure=from_failure)
    assert attempts.succeeded(second)
    assert (dbt.commands[1] == dbt.commands[0]) is whole


def test_a_retry_policy_lets_dbt_cloud_retry(attempts: Attempts) -> None:
    """dbt Cloud's own retry where it is allowed; the step's outputs of both attempts count."""
    dbt = Failing(attempts, "orders", skipped=["customers"])
    run_id = attempts.run(retry_policy=dg.RetryPolicy(max_retries=1))
    assert attempts.succeeded(run_id), attempts.said(run_id)
    first, second = attempts.runs
    assert second["retrying_run_id"] == first["id"]
    assert dbt.commands[1] == "dbt retry"
    assert attempts.recorded() == {
        ("slow", str(first["id"])): 1,
        ("orders", str(second["id"])): 1,
        ("customers", str(second["id"])): 1,
    }
    assert attempts.instance.fetch_materializations(dg.AssetKey(["report"]), limit=5).records


@pytest.mark.parametrize(
    "fault",
    [
        Fault("lost", method="POST", path="*/retry/", after_effect=True),
        Fault("status", method="POST", path="*/retry/", status=502, after_effect=True),
    ],
)
def test_a_retry_without_an_answer_is_found(attempts: Attempts, fault: Fault) -> None:
    """By the run that it retries: dbt Cloud lets it carry no mark."""
    Failing(attempts, "orders", skipped=["customers"])
    attempts.stage.sandbox.faults.add(fault)
    run_id = attempts.run(retry_policy=dg.RetryPolicy(max_retries=1))
    assert attempts.succeeded(run_id), attempts.said(run_id)
    assert len(attempts.runs) == 2


def test_a_refused_retry_falls_back_on_a_selection(attempts: Attempts) -> None:
    """dbt Cloud may change its mind between the look and the request."""
    dbt = Failing(attempts, "orders", skipped=["customers"])
    attempts.stage.sandbox.faults.add(Fault("status", method="POST", path="*/retry/", status=400))
    run_id = attempts.run(retry_policy=dg.RetryPolicy(max_retries=1))
    assert attempts.succeeded(run_id), attempts.said(run_id)
    assert dbt.commands[1].startswith("dbt build --select ")


def test_a_failure_before_any_node_runs_everything_again(attempts: Attempts) -> None:
    """A project that did not parse leaves nothing to go on from."""
    commands: list[str] = []
    good = [(each, "success") for each in IDS.values()]

    def script(_: Mapping[str, Any], command: str) -> PastStep:
        commands.append(command)
        if len(commands) == 1:
            return PastStep(command, status=20, logs="Compilation Error\n")
        return PastStep(command, artifacts={"run_results.json": run_results(*good)})

    attempts.stage.sandbox.play(script)
    first = attempts.run()
    assert attempts.succeeded(attempts.run(first))
    assert commands[1] == commands[0]


def test_an_unknown_mode_is_refused(attempts: Attempts) -> None:
    """Before anything is triggered."""
    with pytest.raises(ConfigError, match="retry='always' is not one of"):
        attempts.workspace.cli(["build"], retry="always")  # type: ignore[arg-type]
    assert not attempts.runs


# --- the pure parts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("dbt build", "dbt build --select a b --indirect-selection empty", True),
        ("dbt build --select a --full-refresh", "dbt build --full-refresh -s b", True),
        ("dbt build --selector nightly", "dbt build --exclude=x", True),
        ("dbt build -s a --vars '{day: 1}'", "dbt build -s a --vars '{day: 2}'", False),
        ("dbt build", "dbt run", False),
        ("dbt build", "dbt build --full-refresh", False),
        ("dbt build 'unclosed", "dbt build", False),
    ],
)
def test_the_shape_of_a_command(one: str, other: str, same: bool) -> None:
    """What it does, whatever nodes it does it to."""
    assert (shape(one) == shape(other)) is same


def run_of(number: int, *commands: str, status: int = 20, **fields: Any) -> Run:
    base = {
        "id": number,
        "status": status,
        "started_at": NOW,
        "finished_at": NOW if status >= 10 else None,
        "trigger": {"cause": "x", "steps_override": list(commands)},
    }
    return Run.model_validate({**base, **fields})


NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
MARK = Mark("run", "call", 1)


def planned(*earlier: Run, commands: Sequence[str] = ("dbt build",), **arguments: Any) -> Any:
    said: list[str] = []
    values: dict[str, Any] = {
        "earlier": earlier[::-1],
        "mark": MARK,
        "line": Lineage(("run",), NOW, from_failure=True, automatic=True),
        "mode": "auto",
        "commands": commands,
        "wanted": frozenset({"a", "b"}),
        "can_narrow": True,
        "now": NOW + timedelta(minutes=1),
        "outcomes_of": lambda _: (),
        "covers": lambda _, __: False,
        "log": said.append,
    }
    return plan(**{**values, **arguments}), said


def test_a_run_covers_only_the_types_that_it_runs(manifest: bytes) -> None:
    """Tests alone do not stand for models, and what cannot be told stands for nothing."""
    project = Manifest.from_bytes(manifest, origin="tiny")
    assert IDS["slow"] in nodes_of(project, run_of(1, "dbt build -s slow"))
    assert IDS["slow"] not in nodes_of(project, run_of(1, "dbt build --resource-type test"))
    assert nodes_of(project, run_of(1, "dbt build -s state:modified", "git clone x")) == set()


def test_claims_that_never_ran_are_passed_over() -> None:
    """A run cancelled in the queue has done nothing."""
    claim = run_of(1, "dbt build", status=30, started_at=None)
    assert planned(claim)[0] == FRESH


def test_a_unit_test_beside_a_build_is_the_same_work() -> None:
    """The rest of a failed build may be tests alone."""
    assert same_work(run_of(1, "dbt test --select a"), ["dbt build --full-refresh"])
    assert not same_work(run_of(1, "dbt seed"), ["dbt build"])


def test_the_newest_active_run_is_followed() -> None:
    """Though an older one failed."""
    found, _ = planned(run_of(1, "dbt build"), run_of(2, "dbt build", status=3))
    assert found.adopt is not None
    assert found.adopt.id == 2


def test_an_active_run_with_more_is_followed_if_it_covers_the_rest() -> None:
    """The retry may ask for a part of what the lost attempt has started."""
    wide = run_of(1, "dbt build", status=3)
    narrow = ["dbt build --select a b"]
    assert planned(wide, commands=narrow, covers=lambda _, __: True)[0].adopt == wide
    found, said = planned(wide, commands=narrow)
    assert found == FRESH
    assert "left alone" in said[0]


def test_this_very_attempt_takes_its_own_run_whatever_became_of_it() -> None:
    """A worker that is restarted within one attempt reports the failure; it does not repeat it."""
    own = run_of(1, "dbt build", trigger={"cause": str(MARK), "steps_override": ["dbt build"]})
    assert planned(own)[0].adopt == own
