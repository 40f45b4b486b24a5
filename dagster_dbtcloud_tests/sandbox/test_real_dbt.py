"""Runs of real dbt, seen through the API alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import duckdb
import httpx
import pytest

from dagster_dbtcloud.sandbox import Sandbox
from dagster_dbtcloud_tests.sandbox.conftest import TINY, client, until

FOREVER = "20000000000"


def run_of(api: httpx.Client, run_id: int) -> dict[str, Any]:
    answer = api.get(f"/runs/{run_id}/", params={"include_related": "trigger,job,run_steps"})
    assert answer.status_code == 200
    run = answer.json()["data"]
    assert isinstance(run, dict)
    return run


def dbt_log(api: httpx.Client, run_id: int) -> str:
    return "".join(step["logs"] for step in run_of(api, run_id)["run_steps"][3:])


def slow_job(sandbox: Sandbox) -> int:
    commands = ["dbt run --select slow orders", "dbt run --select orders"]
    job = sandbox.create_job("slow", commands)
    sandbox.set_variable("DBT_TINY_SLOW_ROWS", FOREVER, job_id=job)
    return job


@pytest.fixture(scope="module")
def built(live: Sandbox) -> dict[str, Any]:
    """A whole build, triggered once for the tests that only look at it."""
    job = live.create_job("build", ["dbt build", "dbt ls --select orders"], generate_docs=True)
    live.set_variable("DBT_ENV_SECRET_KEY", "hush", job_id=job)
    return live.wait(live.trigger(job, cause="to be looked at"))


def test_a_run_goes_through_the_three_first_steps_and_its_commands(built: dict[str, Any]) -> None:
    """Clone, profile and deps come first, docs last, and all end well."""
    assert [step["name"] for step in built["run_steps"]] == [
        "Clone git repository",
        "Create profile from connection DuckDB",
        "Invoke dbt with `dbt deps`",
        "Invoke dbt with `dbt build`",
        "Invoke dbt with `dbt ls --select orders`",
        "Invoke dbt with `dbt docs generate`",
    ]
    assert {step["status_humanized"] for step in built["run_steps"]} == {"Success"}
    assert [step["index"] for step in built["run_steps"]] == [1, 2, 3, 4, 5, 6]
    assert built["status"] == 10
    assert built["is_success"]
    assert built["artifacts_saved"]
    assert built["has_docs_generated"]
    assert re.fullmatch("[0-9a-f]{40}", built["git_sha"])


def test_console_logs_are_dbt_s_own_lines(built: dict[str, Any]) -> None:
    """Plain text with the hour before each line, without colours; debug logs are longer."""
    step = built["run_steps"][3]
    assert re.search(r"^\d\d:\d\d:\d\d  Running with dbt=1\.", step["logs"], re.MULTILINE)
    assert re.search(r"\d+ of 14 OK created sql view model main\.orders \.+ \[", step["logs"])
    assert "Done. PASS=13 WARN=0 ERROR=0 SKIP=0 NO-OP=1 TOTAL=14" in step["logs"]
    assert "\x1b" not in step["logs"] + step["debug_logs"]
    assert len(step["debug_logs"]) > len(step["logs"])
    assert "tiny.orders\n" in built["run_steps"][4]["logs"]


def test_artifacts_belong_to_steps(live_api: httpx.Client, built: dict[str, Any]) -> None:
    """``step`` picks; without it the last step's files come, here those of the docs."""
    run = f"/runs/{built['id']}/artifacts/"
    last = live_api.get(run + "run_results.json").json()
    build = live_api.get(run + "run_results.json", params={"step": 4}).json()
    assert last["args"]["which"] == "generate"
    assert build["args"]["which"] == "build"
    assert "catalog.json" in live_api.get(run).json()["data"]
    listed = live_api.get(run, params={"step": 4}).json()["data"]
    assert "manifest.json" in listed
    assert "compiled/tiny/models/orders.sql" in listed
    assert "partial_parse.msgpack" not in listed
    assert live_api.get(run, params={"step": 1}).json()["data"] is None
    assert live_api.get(run + "no_such.json").status_code == 404
    assert live_api.get(run + "../../../../sandbox.sqlite").status_code == 404
    assert live_api.get(run + "%2e%2e/%2e%2e/4/console.log").status_code == 404


def test_the_run_signs_its_artifacts(
    live: Sandbox, live_api: httpx.Client, built: dict[str, Any]
) -> None:
    """metadata.env names account, project, environment, job, run and reason."""
    path = f"/runs/{built['id']}/artifacts/manifest.json"
    assert live_api.get(path).json()["metadata"]["env"] == {
        "DBT_CLOUD_ACCOUNT_ID": str(live.account_id),
        "DBT_CLOUD_PROJECT_ID": str(live.project_id),
        "DBT_CLOUD_ENVIRONMENT_ID": str(live.environment_id),
        "DBT_CLOUD_JOB_ID": str(built["job_id"]),
        "DBT_CLOUD_RUN_ID": str(built["id"]),
        "DBT_CLOUD_RUN_REASON": "to be looked at",
        "DBT_CLOUD_RUN_REASON_CATEGORY": "other",
        "DBT_CLOUD_RUN_TRIGGER_CATEGORY": "RUN_REASON_CATEGORY_UI",
    }


def test_the_job_s_newest_artifact_is_served(live_api: httpx.Client, built: dict[str, Any]) -> None:
    """The job-level address gives the file of the newest successful run."""
    answer = live_api.get(f"/jobs/{built['job_id']}/artifacts/manifest.json")
    assert answer.json()["metadata"]["env"]["DBT_CLOUD_RUN_ID"] == str(built["id"])


def test_the_project_s_own_directory_stays_clean(built: dict[str, Any]) -> None:
    """Nothing of a run is written beside the user's files."""
    assert built["is_success"]
    found = {path.relative_to(TINY).parts[0] for path in TINY.rglob("*")}
    assert found == {
        "dbt_project.yml", "profiles.yml", "models", "seeds", "snapshots", "tests",
    }  # fmt: skip


def test_the_warehouse_is_free_between_runs(live: Sandbox, built: dict[str, Any]) -> None:
    """dbt stays warm but lets go of the file: others can open it, even to write."""
    assert built["is_success"]
    with duckdb.connect(str(live.warehouse())) as warehouse:
        warehouse.execute("create or replace table elsewhere as select 1 as one")
        rows = warehouse.execute("select customer, spent from customers order by 1").fetchall()
    assert rows == [("ada", 40), ("bob", 20)]


def test_a_trigger_answers_at_once_and_the_run_follows(
    live: Sandbox, live_api: httpx.Client
) -> None:
    """POST run answers a queued run with trigger and job; overrides replace the job's settings."""
    job = live.create_job("plain", ["dbt build"])
    answer = live_api.post(
        f"/jobs/{job}/run/",
        json={
            "cause": "a test [key=1]",
            "steps_override": ["dbt run --select orders", "dbt show --select orders"],
            "threads_override": 2,
            "target_name_override": "prod",
            "schema_override": "elsewhere",
            "git_branch": "topic",
            "generate_docs_override": None,
        },
    )
    queued = answer.json()["data"]
    assert answer.status_code == 200
    assert (queued["status"], queued["in_progress"], queued["run_steps"]) == (1, True, [])
    assert queued["trigger"]["cause"] == "a test [key=1]"
    assert queued["trigger"]["cause_category"] == "api"
    assert queued["job"]["schedule"] == {
        "cron": "0 * * * *", "date": "every_day", "time": "every_hour",
    }  # fmt: skip
    live.wait(queued["id"])
    run = run_of(live_api, queued["id"])
    assert run["is_success"], run
    assert run["git_branch"] == "topic"
    assert "Concurrency: 2 threads (target='prod')" in run["run_steps"][3]["logs"]
    assert "model elsewhere.orders" in run["run_steps"][3]["logs"]
    assert "customer" in run["run_steps"][4]["logs"]


def test_a_failed_step_skips_the_rest_and_can_be_retried(
    live: Sandbox, live_api: httpx.Client
) -> None:
    """The retry resumes at the failed command, reruns only what failed, then what was skipped."""
    commands = ["dbt build --vars 'break_orders: true' --select orders customers", "dbt ls -s slow"]
    job = live.create_job("fails", commands)
    failed = live.wait(live.trigger(job))
    assert (failed["status"], failed["is_error"], failed["can_retry"]) == (20, True, True)
    assert [step["status_humanized"] for step in failed["run_steps"][3:]] == ["Error", "Skipped"]
    assert "no_such_column" in failed["run_steps"][3]["logs"]
    results = live_api.get(f"/runs/{failed['id']}/artifacts/run_results.json").json()
    assert "error" in {result["status"] for result in results["results"]}
    where = live_api.get(f"/runs/{failed['id']}/retry/").json()["data"]
    assert where == {"failed_step": commands[0], "skipped_steps": commands[1:]}

    retried = live_api.post(f"/runs/{failed['id']}/retry/").json()["data"]
    again = live.wait(retried["id"])
    assert retried["retrying_run_id"] == failed["id"]
    assert retried["trigger"]["cause_category"] == "rerun"
    assert [step["name"] for step in again["run_steps"][3:]] == [
        "Invoke dbt with `dbt retry`",
        "Invoke dbt with `dbt ls -s slow`",
    ]
    assert "1 of 4 START sql view model main.orders" not in again["run_steps"][3]["logs"]
    assert "no_such_column" in again["run_steps"][3]["logs"]
    refused = live_api.post(f"/runs/{failed['id']}/retry/")
    assert refused.status_code == 400
    assert "RETRY_NOT_LATEST_RUN" in refused.json()["status"]["user_message"]


def test_checkbox_steps_do_not_fail_the_run(live: Sandbox, live_api: httpx.Client) -> None:
    """Source freshness from the job's checkbox may fail; its results are kept all the same."""
    job = live.create_job("fresh", ["dbt ls -s slow"], run_generate_sources=True)
    run = live.wait(live.trigger(job, cause_category="scheduled", cause="Scheduled"))
    assert run["run_steps"][3]["name"] == "Invoke dbt with `dbt source freshness`"
    assert "WARN freshness of raw.raw_orders" in run["run_steps"][3]["logs"]
    assert run["is_success"]
    assert run["has_sources_generated"]
    sources = live_api.get(f"/runs/{run['id']}/artifacts/sources.json?step=4").json()
    assert sources["results"][0]["status"] == "warn"
    assert sources["metadata"]["env"]["DBT_CLOUD_RUN_REASON_CATEGORY"] == "scheduled"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("ls -la", "not a dbt command"),
        ("dbt build --select 'orders", "No closing quotation"),
        ("dbt", "has no sub-command"),
        ("dbt build --no-such-flag", "No such option"),
        ("dbt biuld", "No such command 'biuld'"),
    ],
)
def test_what_is_no_command_fails_its_step(live: Sandbox, command: str, said: str) -> None:
    """The step is an error and its log says why."""
    job = live.create_job("wrong", [command])
    run = live.wait(live.trigger(job))
    assert run["status"] == 20
    assert said in run["run_steps"][3]["logs"]


def test_cancel_kills_dbt_at_once_and_leaves_the_warehouse_usable(
    live: Sandbox, live_api: httpx.Client, built: dict[str, Any]
) -> None:
    """Each line is there when dbt says it; after a cancel the next run has a fresh dbt."""
    assert built["is_success"]
    job = slow_job(live)
    run_id = live.trigger(job)
    until(lambda: "START sql table model main.slow" in dbt_log(live_api, run_id))
    until(lambda: "OK created sql view model main.orders" in dbt_log(live_api, run_id))
    during = run_of(live_api, run_id)
    assert during["status"] == 3
    step = f"/steps/{during['run_steps'][3]['id']}/?include_related=debug_logs"
    told = "Finished running node model.tiny.orders"  # a moment after the console's line
    until(lambda: told in live_api.get(step).json()["data"]["debug_logs"])
    assert live_api.get(f"/runs/{run_id}/artifacts/manifest.json").status_code == 404
    waiting = live_api.post(f"/jobs/{job}/run/", json={"cause": "later"}).json()["data"]
    assert waiting["blocked_by"] == [run_id]
    assert live_api.post(f"/runs/{waiting['id']}/cancel/").json()["data"]["status"] == 30

    assert live_api.post(f"/runs/{run_id}/cancel/").status_code == 200
    run = live.wait(run_id, 5)
    assert run["is_cancelled"]
    assert [s["status_humanized"] for s in run["run_steps"][3:]] == ["Cancelled", "Cancelled"]
    assert run["retry_not_supported_reason"] == "RETRY_NOT_FAILED_RUN"
    with duckdb.connect(str(live.warehouse())) as warehouse:
        assert warehouse.execute("select count(*) from customers").fetchone() == (2,)

    after = live.wait(live.trigger(live.create_job("after", ["dbt run -s orders"])))
    assert after["is_success"]


def test_a_timeout_ends_as_cancelled_and_says_so(live: Sandbox) -> None:
    """Status 30, and only the message tells that time was up."""
    run = live.wait(live.trigger(slow_job(live), timeout_seconds_override=1))
    assert run["status"] == 30
    assert re.fullmatch(
        r"This run timed out after running for \d+ seconds?, "
        r"which exceeded the configured timeout of 1 seconds\.",
        run["status_message"],
    )


def test_a_deleted_job_takes_its_runs_along(live: Sandbox, live_api: httpx.Client) -> None:
    """Active runs are cancelled; the job is gone; its history stays."""
    job = slow_job(live)
    run_id = live.trigger(job)
    live.wait(run_id, status=3)
    assert live_api.delete(f"/jobs/{job}/").status_code == 200
    run = live.wait(run_id, 10)
    assert (run["status"], run["status_message"]) == (30, "The job of this run was deleted.")
    assert live_api.get(f"/jobs/{job}/").status_code == 404
    assert live_api.get(f"/runs/{run_id}/").status_code == 200


WORDS = "env_var('DBT_X', '') ~ env_var('DBT_MINE', '') ~ env_var('DBT_CLOUD_TOKEN', '')"
BATCHES = """
{{ config(
    materialized='incremental', incremental_strategy='microbatch', event_time='happened',
    batch_size='day', begin='2026-01-01', concurrent_batches=false
) }}
select
    happened
    {% if model.batch and model.batch.id == '20260102' %}, no_such_column {% endif %}
from {{ ref('moments') }}
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox of a project that has no profile, with a model that is built in batches."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "models").mkdir()
    for name, text in (
        ("one", f"select '{{{{ {WORDS} }}}}' as x"),
        (
            "moments",
            "{{ config(event_time='happened') }} select timestamp '2026-01-01 12:00' as happened",
        ),
        ("batches", BATCHES),
    ):
        (folder / "models" / f"{name}.sql").write_text(text)
    (folder / "dbt_project.yml").write_text(json.dumps({"name": "bare", "profile": "none"}))
    with Sandbox(project_dir=folder, environment={"DBT_X": "seen"}) as sandbox:
        yield sandbox


def test_a_project_without_profile_runs_on_a_warehouse_of_the_sandbox(
    bare: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in dbt Cloud the connection need not be in the repository; variables reach dbt.

    Those of the shell as well, but for dbt's own flags and what belongs to a client.
    """
    for name in ("DBT_TARGET", "DBT_CLOUD_TOKEN", "DBT_MINE"):
        monkeypatch.setenv(name, "shell")
    run = bare.wait(bare.trigger(bare.create_job("bare", ["dbt run -s one"])))
    assert run["is_success"], run
    with duckdb.connect(str(bare.warehouse())) as warehouse:
        assert warehouse.execute("select * from one").fetchall() == [("seenshell",)]


def test_batches_have_results_of_their_own(bare: Sandbox) -> None:
    """A microbatch model with a bad batch is a partial success; a retry does that batch alone."""
    days = "--event-time-start 2026-01-01 --event-time-end 2026-01-04"
    job = bare.create_job("batches", [f"dbt build -s moments batches {days}"])
    with client(bare) as api:

        def batches(run: dict[str, Any]) -> tuple[str, list[str], list[str]]:
            made = api.get(f"/runs/{run['id']}/artifacts/run_results.json?step=4").json()
            node = next(one for one in made["results"] if one["unique_id"].endswith("batches"))
            found = node["batch_results"]
            days = [[start[:10] for start, _ in found[kind]] for kind in ("successful", "failed")]
            return node["status"], days[0], days[1]

        run = bare.wait(bare.trigger(job))
        assert run["can_retry"], run
        assert batches(run) == ("partial success", ["2026-01-01", "2026-01-03"], ["2026-01-02"])
        again = bare.wait(api.post(f"/runs/{run['id']}/retry/").json()["data"]["id"])
        assert batches(again)[2] == ["2026-01-02"]
        assert "Batch 1 of 1" in again["run_steps"][3]["logs"]
