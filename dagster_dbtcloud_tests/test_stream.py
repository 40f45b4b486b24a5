"""`stream()`: each node in Dagster when its log line says how it ended, and once."""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import pytest

from dagster_dbtcloud import DbtCloudWorkspace, dbt_cloud_assets
from dagster_dbtcloud.sandbox import Fault, PastStep
from dagster_dbtcloud_tests.conftest import MakeWorkspace
from dagster_dbtcloud_tests.stage import Stage, run_results, until

SLOW, ORDERS, CUSTOMERS = (f"model.tiny.{name}" for name in ("slow", "orders", "customers"))
CHECK = "test.tiny.amounts_are_large_enough"

STARTED = {
    SLOW: "1 of 4 START sql table model main.slow .......................... [RUN]",
    ORDERS: "2 of 4 START sql table model main.orders ........................ [RUN]",
}
ENDED = {
    SLOW: "1 of 4 OK created sql table model main.slow ..................... [OK in 0.04s]",
    ORDERS: "2 of 4 OK created sql table model main.orders ................... [OK in 1.50s]",
    CHECK: "3 of 4 PASS amounts_are_large_enough ............................ [PASS in 0.02s]",
    CUSTOMERS: "4 of 4 OK created sql table model main.customers ................ [OK in 0.10s]",
}
FAILED_CHECK = "3 of 4 FAIL 2 amounts_are_large_enough .......................... [FAIL 2 in 0.02s]"


def line(text: str) -> str:
    return f"10:20:30  {text}\n"


class Live:
    """A held dbt Cloud run whose log the test writes while a step streams it."""

    def __init__(self, stage: Stage, **results: Any) -> None:
        self.stage = stage
        self.workspace = stage.workspace()
        self.seen: list[str] = []
        self.lines: list[str] = []
        self.status = 10
        self.entries = [(SLOW, "success"), (ORDERS, "success"), (CHECK, "pass")]
        self.entries.append((CUSTOMERS, "success"))
        self.results = results
        stage.built()
        stage.sandbox.play(self.script)

    def script(self, _: Mapping[str, Any], command: str) -> PastStep:
        raw = json.loads(run_results(*self.entries))
        for result in raw["results"]:
            result.update(self.results.get(result["unique_id"].rpartition(".")[2], {}))
        artifacts = {"manifest.json": self.stage.manifest, "run_results.json": raw}
        return PastStep(command, status=self.status, hold=True, artifacts=artifacts)

    @property
    def run_id(self) -> int:
        return int(self.stage.sandbox.runs()[-1]["id"])

    def say(self, *texts: str) -> None:
        for text in texts:
            self.stage.sandbox.write_log(self.run_id, None, line(text))

    def end(self) -> None:
        self.stage.sandbox.release(self.run_id)

    def begin(self) -> None:
        """Wait until dbt itself runs; dbt Cloud's own steps come before it."""

        def dbt_runs() -> bool:
            steps = self.stage.sandbox.run(self.run_id)["run_steps"]
            return any("dbt build" in step["name"] and step["status"] == 3 for step in steps)

        until(dbt_runs)

    def stream(self) -> Iterator[Any]:
        invocation = self.workspace.cli(["build"])
        self.begin()
        return invocation.stream()


@pytest.fixture
def live(stage: Stage) -> Live:
    return Live(stage)


def name_of(event: Any) -> str:
    if isinstance(event, dg.AssetCheckEvaluation):
        return event.check_name
    return str(event.asset_key.to_user_string())


def test_an_event_comes_while_the_run_goes_on(live: Live) -> None:
    """One node after the other, in dbt's order, each as soon as its line is there."""
    events = live.stream()
    for node in (SLOW, ORDERS, CHECK):
        live.say(*(STARTED[node] for _ in range(node in STARTED)), ENDED[node])
        event = next(events)
        assert name_of(event) == node.rpartition(".")[2]
        assert live.stage.sandbox.run(live.run_id)["status_humanized"] == "Running"
        assert event.metadata["dbt_cloud_run_id"].value == str(live.run_id)
        assert ("compiled_code" in event.metadata) is (node != CHECK)
    live.end()
    assert [name_of(event) for event in events] == ["customers"]


def test_the_log_tells_how_long_it_may_take(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    """By the job's last good run, whose steps the list of runs does not have."""
    first = live.stream()
    live.end()
    list(first)
    caplog.set_level(logging.INFO)
    second = live.stream()
    live.say(STARTED[SLOW], ENDED[SLOW])
    next(second)
    assert re.search(r"1 of 4  ok  .*main\.slow .* left\)", caplog.text)
    live.end()
    list(second)


def test_nobody_waits_for_an_estimate(live: Live) -> None:
    """Lists that fail for ten minutes hold up neither events nor the limits of the run."""
    events = live.stream()
    live.stage.sandbox.faults.add(Fault("status", place="list", status=503, count=None))
    live.say(ENDED[SLOW])
    began = live.stage.clock.monotonic()
    assert name_of(next(events)) == "slow"
    assert live.stage.clock.monotonic() - began < 60
    live.stage.sandbox.faults.clear()
    live.end()
    assert len(list(events)) == 3


def test_what_only_the_results_tell_is_added(stage: Stage) -> None:
    """Rows and query ids come as an observation: no second materialization."""
    response = {"rows_affected": 7, "query_id": "q-1"}
    live = Live(stage, slow={"adapter_response": response})
    events = live.stream()
    live.say(ENDED[SLOW], ENDED[ORDERS])
    first = [next(events), next(events)]
    live.end()
    rest = list(events)
    assert {type(event) for event in first} == {dg.AssetMaterialization}
    added = [event for event in rest if isinstance(event, dg.AssetObservation)]
    assert [name_of(event) for event in added] == ["slow"]
    assert added[0].metadata["rows_affected"].value == 7
    assert added[0].metadata["query_id"].value == "q-1"
    built = [name_of(e) for e in (*first, *rest) if isinstance(e, dg.AssetMaterialization)]
    assert sorted(built) == ["customers", "orders", "slow"]


def test_a_failed_check_comes_early_with_its_rows(live: Live) -> None:
    """The log counts the rows; the failure of the step comes at the end."""
    live.entries[2] = (CHECK, "fail")
    live.status = 20
    events = live.stream()
    live.say(FAILED_CHECK)
    event = next(events)
    assert isinstance(event, dg.AssetCheckEvaluation)
    assert not event.passed
    assert event.metadata["failed_row_count"].value == 2
    live.end()
    with pytest.raises(Exception, match="1 of 4 nodes failed, first test"):
        list(events)


def test_a_log_that_was_wrong_is_put_right_loudly(
    live: Live, caplog: pytest.LogCaptureFixture
) -> None:
    """It must not happen; if it does, the results have the last word and somebody is told."""
    live.entries[2] = (CHECK, "fail")
    live.status = 20
    events = live.stream()
    live.say(ENDED[CHECK])
    assert next(events).passed
    live.end()
    rest: list[Any] = []
    with pytest.raises(Exception, match="nodes failed"):
        rest.extend(events)
    assert f"said 'pass' of {CHECK}" in caplog.text


def test_a_later_step_may_say_otherwise(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """The log was right about the first; what comes after it is recorded, and nobody is blamed."""
    stage.built()

    def script(_: Mapping[str, Any], command: str) -> PastStep:
        good = command == "dbt run"
        results = run_results((ORDERS, "success" if good else "error"), which=command.split()[1])
        artifacts = {"manifest.json": stage.manifest, "run_results.json": results}
        status = 10 if good else 20
        return PastStep(command, status=status, hold=not good, artifacts=artifacts)

    stage.sandbox.play(script)
    job = stage.sandbox.create_job("twice", ["dbt run", "dbt build"])
    invocation = stage.workspace().run_job(job)

    def second_runs() -> bool:
        steps = stage.sandbox.run(invocation.run_id)["run_steps"]
        return any("dbt build" in step["name"] and step["status"] == 3 for step in steps)

    until(second_runs)
    (index,) = (
        step["index"]
        for step in stage.sandbox.run(invocation.run_id)["run_steps"]
        if "dbt run" in step["name"]
    )
    stage.sandbox.write_log(invocation.run_id, index, line(ENDED[ORDERS]))
    events = invocation.stream()
    assert isinstance(next(events), dg.AssetMaterialization)
    stage.sandbox.release(invocation.run_id)
    rest: list[Any] = []
    with pytest.raises(Exception, match="1 of 1 nodes failed"):
        rest.extend(events)
    assert [type(event) for event in rest] == [dg.AssetObservation]
    assert "Please report it" not in caplog.text


def test_leaving_a_stream_cancels_the_run(live: Live) -> None:
    """A step that stops reading (an error in the user's code) watches no longer."""
    events = live.stream()
    live.say(ENDED[SLOW])
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert live.stage.sandbox.wait(live.run_id)["is_cancelled"]


def test_in_a_step_outputs_and_checks_are_stored_at_once(
    live: Live, instance: dg.DagsterInstance
) -> None:
    """What a sensor or an automation condition would see, while dbt still builds the rest."""
    stored: list[set[str]] = []
    models = (SLOW, ORDERS, CUSTOMERS)

    @dbt_cloud_assets(workspace=live.workspace, select="slow orders customers")
    def project(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
        invocation = dbt_cloud.cli(["build"], context=context)
        live.begin()
        live.say(ENDED[SLOW], ENDED[ORDERS])
        for event in invocation.stream():
            yield event
            names = {model.rpartition(".")[2] for model in models}
            stored.append({n for n in names if instance.get_latest_materialization_event(key(n))})
            if len(stored) == 2:
                live.say(ENDED[CHECK])
            if len(stored) == 3:
                live.end()

    done = dg.materialize([project], resources={"dbt_cloud": live.workspace}, instance=instance)
    assert done.success
    assert stored[:2] == [{"slow"}, {"slow", "orders"}]
    assert len(done.get_asset_materialization_events()) == 3
    assert len(done.get_asset_check_evaluations()) == 1
    log = "\n".join(entry.user_message for entry in instance.all_logs(done.run_id))
    assert "1 of 4  ok  sql table model main.slow  0.04 s" in log


def test_a_stream_taken_over_repeats_nothing(live: Live, instance: dg.DagsterInstance) -> None:
    """What the lost attempt had recorded is seen in the log and in the results, and left alone."""
    attempts: list[int] = []

    @dbt_cloud_assets(
        workspace=live.workspace,
        select="slow orders customers",
        retry_policy=dg.RetryPolicy(max_retries=1),
    )
    def project(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
        attempts.append(len(attempts))
        invocation = dbt_cloud.cli(["build"], context=context, on_leave="detach")
        live.begin()
        if len(attempts) == 1:
            live.say(ENDED[SLOW], ENDED[CHECK])
            for count, event in enumerate(invocation.stream(), start=1):
                yield event
                if count == 2:
                    raise ValueError("the first attempt is lost")
        live.say(ENDED[ORDERS])
        for count, event in enumerate(invocation.stream(), start=1):
            yield event
            if count == 1:
                live.end()

    done = dg.materialize([project], resources={"dbt_cloud": live.workspace}, instance=instance)
    assert done.success
    assert len(attempts) == 2
    built = [e.asset_key.path[-1] for e in done.get_asset_materialization_events() if e.asset_key]
    assert sorted(built) == ["customers", "orders", "slow"]
    assert len(done.get_asset_check_evaluations()) == 1
    assert len(live.stage.sandbox.runs()) == 2


def key(name: str) -> dg.AssetKey:
    return dg.AssetKey([name])


def test_a_stream_of_real_dbt_is_what_waiting_gives(
    make_workspace: MakeWorkspace,
) -> None:
    """The same nodes with the same verdicts, each once."""
    workspace = make_workspace()

    def compiled(event: Any) -> bytes:
        url = urlsplit(event.metadata["compiled_code"].value)
        with workspace.get_client() as client:
            run, path = url.path.split("/runs/")[1].split("/artifacts/")
            step = int(url.query.removeprefix("step="))
            return client.artifact(int(run), path, step=step)

    streamed = list(workspace.cli(["build"]).stream())
    waited = list(workspace.cli(["build"]).wait())

    def facts(events: list[Any]) -> list[tuple[str, Any]]:
        return sorted(
            (name_of(event), getattr(event, "passed", None))
            for event in events
            if not isinstance(event, dg.AssetObservation)
        )

    assert facts(streamed) == facts(waited)
    assert len(facts(waited)) > 5
    for events in (streamed, waited):
        (orders,) = [event for event in events if name_of(event) == "orders"]
        assert b"select" in compiled(orders)
