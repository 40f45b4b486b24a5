"""Runs that follow a script instead of dbt: the whole life of a run, in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from dagster_dbtcloud.clock import ManualClock
from dagster_dbtcloud.sandbox import Behaviour, PastStep, Sandbox
from dagster_dbtcloud_tests.sandbox.conftest import until


def succeed(run: Mapping[str, Any], command: str) -> PastStep:
    """Every command ends well and says what it was."""
    results = {"metadata": {"env": {"DBT_CLOUD_RUN_ID": str(run["id"])}}, "results": []}
    return PastStep(command, logs=f"did {command}\n", artifacts={"run_results.json": results})


def hold(_: Mapping[str, Any], command: str) -> PastStep:
    """Every command stays running until it is released."""
    return PastStep(command, logs="begun\n", hold=True)


def test_a_played_run_looks_like_any_other(still: Sandbox, api: httpx.Client) -> None:
    """Triggered, run, finished, with logs and artifacts; no dbt was started."""
    still.play(succeed)
    job = still.create_job("one", ["dbt build", "dbt test"])
    queued = api.post(f"/jobs/{job}/run/", json={"cause": "x"}).json()["data"]
    run = still.wait(queued["id"], 10)
    assert [step["status"] for step in run["run_steps"]] == [10] * 5
    assert run["run_steps"][4]["logs"] == "did dbt test\n"
    answer = api.get(f"/runs/{run['id']}/artifacts/run_results.json?step=4")
    assert answer.json()["metadata"]["env"]["DBT_CLOUD_RUN_ID"] == str(run["id"])
    assert not list(still.state_dir.glob("environments/*/worker.log"))


def test_a_played_step_can_fail(still: Sandbox) -> None:
    """The rest is skipped, the job counts failures, a success sets the count back."""
    job = still.create_job("one", ["dbt build", "dbt test"])
    still.play(lambda _, command: PastStep(command, status=20, logs="no"))
    run = still.wait(still.trigger(job), 10)
    assert [step["status_humanized"] for step in run["run_steps"][3:]] == ["Error", "Skipped"]
    assert run["retry_not_supported_reason"] == "RETRY_NO_RUN_RESULTS"
    assert still.jobs()[0]["run_failure_count"] == 1
    still.play(succeed)
    still.wait(still.trigger(job), 10)
    assert still.jobs()[0]["run_failure_count"] == 0


def test_steps_may_share_a_folder_of_artifacts(still: Sandbox, api: httpx.Client) -> None:
    """A step that writes nothing shows what those before it left; so does one put into history."""
    still.behaviour.shared_target = True
    still.play(lambda run, command: succeed(run, command) if "build" in command else PastStep("x"))
    job = still.create_job("one", ["dbt build", "dbt clean"])
    played = still.wait(still.trigger(job), 10)["id"]
    steps = [PastStep("dbt build", artifacts={"a.json": {}}), PastStep("dbt clean")]
    past = still.insert_run(job, steps=steps)
    for run, name in ((played, "run_results.json"), (past, "a.json")):
        for step in (4, 5):
            assert api.get(f"/runs/{run}/artifacts/?step={step}").json()["data"] == [name]
        assert api.get(f"/runs/{run}/artifacts/?step=3").json()["data"] is None


def test_a_held_step_grows_until_it_is_released(still: Sandbox, api: httpx.Client) -> None:
    """Meanwhile the next run of the job waits, then it follows by itself."""
    still.play(hold)
    job = still.create_job("one")
    first, second = still.trigger(job), still.trigger(job)

    def log() -> str:
        answer = api.get(f"/runs/{first}/?include_related=run_steps").json()["data"]
        return "".join(step["logs"] for step in answer["run_steps"][3:])

    until(lambda: log() == "begun\n")
    still.write_log(first, 4, "more\n")
    assert log() == "begun\nmore\n"
    assert still.run(second)["blocked_by"] == [first]
    still.play(succeed)
    still.release(first)
    assert still.wait(second, 10)["is_success"]
    assert still.run(first)["is_success"]


def test_runs_of_other_environments_go_side_by_side(still: Sandbox) -> None:
    """One at a time per environment, as many as there are slots per account."""
    still.play(hold)
    staging = still.create_environment("Staging", deployment_type="staging")
    here = still.trigger(still.create_job("one"))
    beside = still.trigger(still.create_job("two", environment_id=staging))
    behind = still.trigger(still.create_job("three"))
    still.wait(here, 10, status=3)
    still.wait(beside, 10, status=3)
    waiting = still.run(behind)
    assert (waiting["status"], waiting["blocked_by"]) == (1, [])
    still.cancel(here)
    still.wait(behind, 10, status=3)
    for run in (beside, behind):
        still.cancel(run)
        assert still.wait(run, 10)["is_cancelled"]


def test_queueing_and_starting_take_their_time(still: Sandbox, clock: ManualClock) -> None:
    """On the sandbox's clock; a run may be cancelled in each status."""
    still.behaviour.queued_seconds = still.behaviour.starting_seconds = 60
    still.play(succeed)
    job = still.create_job("one")
    run = still.trigger(job)
    assert still.run(run)["status_humanized"] == "Queued"
    clock.advance(60)
    assert still.wait(run, 10, status=2)["status_humanized"] == "Starting"
    clock.advance(60)
    done = still.wait(run, 10)
    assert (done["is_success"], done["queued_duration"], done["duration"]) == (
        True, "00:01:00", "00:02:00",
    )  # fmt: skip
    again = still.trigger(job)
    clock.advance(60)
    still.wait(again, 10, status=2)
    still.cancel(again)
    over = still.wait(again, 10)
    assert (over["status"], over["started_at"]) == (30, None)


def test_a_clock_that_is_moved_can_time_a_run_out(still: Sandbox, clock: ManualClock) -> None:
    """The job's limit, or the account's of a day."""
    still.play(hold)
    run = still.trigger(still.create_job("one"))
    still.wait(run, 10, status=3)
    until(lambda: still.run(run)["run_steps"][3]["status"] == 3)
    clock.advance(86436)
    over = still.wait(run, 10)
    assert over["status"] == 30
    assert over["status_message"] == (
        "This run timed out after running for 1 day, 36 seconds, "
        "which exceeded the configured timeout of 86400 seconds."
    )
    assert over["duration"] == "24:00:36"


def test_delays_of_finished_runs(still: Sandbox, api: httpx.Client, clock: ManualClock) -> None:
    """Artifacts and lists can lag behind the end of each run."""
    still.behaviour.artifacts_seconds, still.behaviour.listed_seconds = 5, 10
    assert isinstance(still.behaviour, Behaviour)
    still.play(succeed)
    run = still.wait(still.trigger(still.create_job("one")), 10)
    artifact = f"/runs/{run['id']}/artifacts/run_results.json"
    assert api.get(artifact).status_code == 404
    clock.advance(5)
    assert api.get(artifact).status_code == 200
    assert api.get("/runs/").json()["data"] == []
    clock.advance(5)
    assert len(api.get("/runs/").json()["data"]) == 1


def test_a_rerun_of_a_good_run_is_a_new_run(still: Sandbox, api: httpx.Client) -> None:
    """Only a failed one is retried."""
    still.play(succeed)
    job = still.create_job("one")
    first = still.wait(still.trigger(job), 10)
    again = api.post(f"/jobs/{job}/rerun/").json()["data"]
    assert again["retrying_run_id"] is None
    assert still.wait(again["id"], 10)["id"] > first["id"]
    still.play(lambda _, command: PastStep(
        command, status=20, artifacts={"run_results.json": {"results": []}}
    ))  # fmt: skip
    failed = still.wait(still.trigger(job), 10)
    still.play(succeed)
    retried = api.post(f"/jobs/{job}/rerun/").json()["data"]
    assert retried["retrying_run_id"] == failed["id"]
    assert still.wait(retried["id"], 10)["is_success"]


def results(*entries: tuple[str, str]) -> dict[str, Any]:
    nodes = [{"unique_id": node, "status": status} for node, status in entries]
    return {"run_results.json": {"results": nodes}}


def test_a_played_failure_is_retried_like_a_real_one(still: Sandbox, api: httpx.Client) -> None:
    """At the failed command, for what failed or was skipped; then the commands it kept back."""
    seen = []

    def script(run: Mapping[str, Any], command: str) -> PastStep:
        seen.append(command)
        if command == "dbt build":
            made = results(("model.a", "success"), ("model.b", "error"), ("model.c", "skipped"))
            return PastStep(command, status=20, artifacts=made)
        nodes = still.unfinished(run["retrying_run_id"]) if command == "dbt retry" else ()
        return PastStep(command, artifacts=results(*((node, "success") for node in nodes)))

    still.play(script)
    job = still.create_job("one", ["dbt seed", "dbt build", "dbt test"])
    failed = still.wait(still.trigger(job, git_sha="abc"), 10)
    assert failed["can_retry"]
    retried = api.post(f"/runs/{failed['id']}/retry/").json()["data"]
    assert (retried["retrying_run_id"], retried["trigger"]["cause_category"]) == (
        failed["id"], "rerun",
    )  # fmt: skip
    run = still.wait(retried["id"], 10)
    assert seen == ["dbt seed", "dbt build", "dbt retry", "dbt test"]
    assert run["git_sha"] == failed["git_sha"] == "abc"
    made = api.get(f"/runs/{run['id']}/artifacts/run_results.json?step=4").json()
    assert [node["unique_id"] for node in made["results"]] == ["model.b", "model.c"]
    assert run["retry_not_supported_reason"] == "RETRY_NOT_FAILED_RUN"
    assert still.run(failed["id"])["retry_not_supported_reason"] == "RETRY_NOT_LATEST_RUN"


def test_a_retry_that_fails_is_retried_in_turn(still: Sandbox, api: httpx.Client) -> None:
    """Its first command is ``dbt retry`` again, on what the retry left."""
    left = iter([("model.a", "error"), ("model.a", "fail")])
    still.play(lambda _, command: PastStep(command, status=20, artifacts=results(next(left))))
    job = still.create_job("one", ["dbt build", "dbt test"])
    failed = still.wait(still.trigger(job), 10)
    again = still.wait(api.post(f"/runs/{failed['id']}/retry/").json()["data"]["id"], 10)
    assert again["can_retry"]
    still.play(succeed)
    last = still.wait(api.post(f"/jobs/{job}/rerun/").json()["data"]["id"], 10)
    assert last["retrying_run_id"] == again["id"]
    assert [step["name"] for step in last["run_steps"][3:]] == [
        "Invoke dbt with `dbt retry`",
        "Invoke dbt with `dbt test`",
    ]
    assert last["is_success"]


@pytest.mark.parametrize(
    ("status", "command", "version", "reason"),
    [
        (10, "dbt build", None, "RETRY_NOT_FAILED_RUN"),
        (30, "dbt build", None, "RETRY_NOT_FAILED_RUN"),
        (1, "dbt build", None, "RETRY_NOT_FAILED_RUN"),
        (20, "dbt ls", None, "RETRY_UNSUPPORTED_CMD"),
        (20, "dbt build", "1.5.0-latest", "RETRY_UNSUPPORTED_VERSION"),
        (20, "dbt build", "1.10.0-latest", None),
        (20, "dbt build", "versionless", None),
    ],
)
def test_a_refused_retry_has_its_reason(
    still: Sandbox,
    api: httpx.Client,
    status: int,
    command: str,
    version: str | None,
    reason: str | None,
) -> None:
    """On the run beforehand, and in the answer to who asks all the same."""
    made = results(("model.a", "error"))
    job = still.create_job("one", [command], dbt_version=version)
    step = PastStep(command, status=20 if status == 20 else 10, artifacts=made)
    run = still.insert_run(job, status=status, steps=[step])
    shown = api.get(f"/runs/{run}/").json()["data"]
    assert (shown["can_retry"], shown["retry_not_supported_reason"]) == (reason is None, reason)
    answer = api.post(f"/runs/{run}/retry/")
    assert answer.status_code == (200 if reason is None else 400)
    if reason is not None:
        assert answer.json()["data"] == {"reason": reason}
        assert len(still.runs()) == 1


def test_a_played_step_may_take_its_time(still: Sandbox, clock: ManualClock) -> None:
    """On the sandbox's clock, its log growing line by line."""
    still.play(lambda _, command: PastStep(command, logs="1\n2\n3\n4\n", seconds=40))
    run = still.trigger(still.create_job("one"))

    def log() -> str:
        return "".join(step["logs"] for step in still.run(run)["run_steps"][3:])

    until(lambda: log() == "1\n")
    clock.advance(10)
    until(lambda: log() == "1\n2\n")
    clock.advance(29)
    until(lambda: log() == "1\n2\n3\n4\n")
    assert still.run(run)["status_humanized"] == "Running"
    clock.advance(1)
    assert still.wait(run, 10)["duration"] == "00:00:40"


def test_a_log_is_written_to_the_step_that_runs(still: Sandbox) -> None:
    """Named by its number, or simply the one at work."""
    still.play(hold)
    run = still.trigger(still.create_job("one"))
    until(lambda: "begun" in "".join(step["logs"] for step in still.run(run)["run_steps"][3:]))
    still.write_log(run, None, "more\n")
    assert still.run(run)["run_steps"][3]["logs"] == "begun\nmore\n"
    still.release(run)
    still.wait(run, 10)
    with pytest.raises(KeyError):
        still.write_log(run, None, "too late\n")
