"""The API as a client meets it: envelopes, tokens, lists, jobs, settings. No dbt runs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest

from dagster_dbtcloud.clock import ManualClock
from dagster_dbtcloud.sandbox import PastStep, Sandbox
from dagster_dbtcloud_tests.sandbox.conftest import client

_NOT_FOUND = {
    "status": {
        "code": 404,
        "is_success": False,
        "user_message": "The requested resource was not found. "
        "Please check that you have the proper permissions.",
        "developer_message": None,
    },
    "data": None,
}


def data(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["status"]["is_success"] is (status < 400)
    return body["data"]


def ids(answer: httpx.Response) -> list[int]:
    return [row["id"] for row in data(answer)]


# -- envelopes, tokens, slashes ----------------------------------------------------------------


def test_success_is_wrapped(still: Sandbox, api: httpx.Client) -> None:
    """Status and data; lists carry filters, order and counts."""
    body = api.get("/").json()
    assert body["status"] == {
        "code": 200,
        "is_success": True,
        "user_message": "Success!",
        "developer_message": "",
    }
    assert body["data"]["id"] == still.account_id > 2**32
    job = still.create_job("one")
    extra = api.get("/jobs/", params={"project_id": still.project_id}).json()["extra"]
    assert extra == {
        "filters": {
            "limit": 100,
            "offset": 0,
            "state": "active",
            "account_id": still.account_id,
            "project_id": still.project_id,
        },
        "order_by": "id",
        "pagination": {"count": 1, "total_count": 1},
    }
    assert data(api.get(f"/jobs/{job}/"))["created_at"] == "2026-01-01T00:00:00+00:00"


@pytest.mark.parametrize("scheme", ["Token", "Bearer", "token"])
def test_both_schemes_are_taken(still: Sandbox, scheme: str) -> None:
    """The specification calls them equivalent."""
    headers = {"Authorization": f"{scheme} {still.token}"}
    with client(still) as http:
        assert data(http.get("/", headers=headers))["id"] == still.account_id


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("Token wrong", "Invalid token."),
        ("Token", "Invalid token."),
        ("Basic abc", "Invalid token."),
        (None, "Authentication credentials were not provided."),
    ],
)
def test_an_unknown_token_is_401(still: Sandbox, header: str | None, message: str) -> None:
    """In the usual envelope, with a developer message of null."""
    with client(still) as http:
        del http.headers["Authorization"]
        answer = http.get("/jobs/", headers={} if header is None else {"Authorization": header})
    assert answer.status_code == 401
    assert answer.json() == {
        "status": {
            "code": 401,
            "is_success": False,
            "user_message": message,
            "developer_message": None,
        },
        "data": None,
    }


def test_a_token_sees_its_account_only(still: Sandbox, api: httpx.Client) -> None:
    """Another account's address is 404, and the list of accounts holds one."""
    other = still.create_account("Other")
    foreign = still.create_token("account_admin", account_id=other)
    with client(still, token=foreign) as http:
        assert http.get("/jobs/").json() == _NOT_FOUND
        assert ids(http.get(f"{still.url}/api/v3/accounts/")) == [other]
    assert ids(api.get(f"{still.url}/api/v2/accounts/")) == [still.account_id]


@pytest.mark.parametrize(
    ("permission", "read", "run", "edit"),
    [
        ("account_admin", 200, 200, 200),
        ("job_creator", 200, 200, 200),
        ("job_runner", 200, 200, 404),
        ("job_viewer", 200, 404, 404),
        ("metadata_only", 404, 404, 404),
    ],
)
def test_permission_sets_decide(
    still: Sandbox, permission: str, read: int, run: int, edit: int
) -> None:
    """What a token may not do answers as if it were not there."""
    job = still.create_job("mine")
    blocker = still.insert_run(job, status=3)
    with client(still, token=still.create_token(permission)) as http:
        assert http.get(f"/jobs/{job}/").status_code == read
        assert http.post(f"/jobs/{job}/run/", json={"cause": "x"}).status_code == run
        whole = {**still.jobs()[0], "name": "renamed"}
        assert http.post(f"/jobs/{job}/", json=whole).status_code == edit
    still.behaviour.denied_status = 403
    if run == 404:
        with client(still, token=still.create_token(permission)) as http:
            assert http.post(f"/runs/{blocker}/cancel/").status_code == 403


def test_a_token_may_be_for_some_projects(still: Sandbox) -> None:
    """The rest of the account is not there for it; a revoked token is 401."""
    elsewhere = still.create_project("elsewhere")
    job, run = still.create_job("hidden"), 0
    run = still.insert_run(job)
    token = still.create_token("job_admin", project_ids=[elsewhere])
    with client(still, token=token) as http:
        assert ids(http.get("/projects/")) == [elsewhere]
        assert ids(http.get("/jobs/")) == ids(http.get("/runs/")) == []
        assert http.get(f"/jobs/?project_id={still.project_id}").json()["data"] == []
        for path in (f"/jobs/{job}/", f"/runs/{run}/", f"/projects/{still.project_id}/"):
            assert http.get(path).json() == _NOT_FOUND
        still.revoke_token(token)
        assert http.get("/jobs/").status_code == 401


def test_slashes_are_optional_unless_strict(still: Sandbox, api: httpx.Client) -> None:
    """Strict: GET is redirected, POST refused; artifacts never have one."""
    job = still.create_job("one")
    assert api.get(f"/jobs/{job}").status_code == 200
    still.behaviour.strict_slashes = True
    redirected = api.get(f"/jobs/{job}?x=1")
    assert redirected.status_code == 308
    assert redirected.headers["location"].endswith(f"/jobs/{job}/?x=1")
    refused = api.post(f"/jobs/{job}/run", json={"cause": "x"})
    assert refused.status_code == 405
    assert refused.json() == {"detail": 'Method "POST" not allowed.'}
    run = still.insert_run(job, steps=[PastStep("dbt ls", artifacts={"a.json": {"a": 1}})])
    assert api.get(f"/runs/{run}/artifacts/a.json").json() == {"a": 1}
    assert api.get(f"/runs/{run}/artifacts/a.json/").status_code == 404


def test_wrong_methods_and_addresses(still: Sandbox, api: httpx.Client) -> None:
    """405 is not in the envelope; an address that does not exist is HTML."""
    assert api.put("/jobs/").json() == {"detail": 'Method "PUT" not allowed.'}
    for path in ("/api/v2/nothing/", "//api/v2/accounts/", "/api/v4/accounts/"):
        answer = api.get(still.url + path)
        assert answer.status_code == 404
        assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("body", [b"{", b"[1]", b'"x"', b"\xff"])
def test_a_malformed_body_is_400(still: Sandbox, api: httpx.Client, body: bytes) -> None:
    """In the envelope."""
    answer = api.post(f"/jobs/{still.create_job('one')}/run/", content=body)
    assert answer.status_code == 400
    assert answer.json()["status"]["is_success"] is False


# -- jobs --------------------------------------------------------------------------------------


def test_a_job_of_few_fields_gets_the_rest(still: Sandbox, api: httpx.Client) -> None:
    """What Dagster's own client sends is enough."""
    body = {
        "account_id": still.account_id,
        "project_id": still.project_id,
        "environment_id": still.environment_id,
        "name": "few",
        "description": "",
        "job_type": "other",
        "execution": None,
    }
    job = data(api.post("/jobs/", json=body))
    assert job["execution"] == {"timeout_seconds": 0}
    assert job["settings"] == {"threads": 4, "target_name": "default"}
    assert job["triggers"]["schedule"] is False
    assert job["schedule"]["date"] == {"type": "every_day"}
    assert (job["state"], job["generate_docs"], job["job_type"]) == (1, False, "other")
    assert job["most_recent_run"] is job["environment"] is None
    still.behaviour.created_status = 201
    assert data(api.post("/jobs/", json=body), 201)["id"] > job["id"]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"name": ""}, 400),
        ({"project_id": None}, 400),
        ({"environment_id": "x"}, 400),
        ({"environment_id": 1}, 404),
        ({"execute_steps": "dbt build"}, 400),
        ({"execute_steps": [1]}, 400),
        ({"job_type": "odd"}, 400),
        ({"settings": {"threads": "many"}}, 400),
    ],
)
def test_a_malformed_job_is_refused(
    still: Sandbox, api: httpx.Client, change: dict[str, Any], status: int
) -> None:
    """400 for a malformed field, 404 for an id that is not there."""
    body = {
        "project_id": still.project_id,
        "environment_id": still.environment_id,
        "name": "odd",
        **change,
    }
    assert api.post("/jobs/", json=body).status_code == status
    assert ids(api.get("/jobs/")) == []


def test_a_job_is_changed_and_deleted(still: Sandbox, api: httpx.Client) -> None:
    """Clients send the whole object back; a deleted job is 404 but listed when asked for."""
    job = data(api.get(f"/jobs/{still.create_job('old', ['dbt run'])}/"))
    changed = data(api.post(f"/jobs/{job['id']}/", json={**job, "name": "new"}))
    assert (changed["name"], changed["execute_steps"]) == ("new", ["dbt run"])
    assert data(api.delete(f"/jobs/{job['id']}/"))["state"] == 2
    assert api.get(f"/jobs/{job['id']}/").json() == _NOT_FOUND
    assert api.post(f"/jobs/{job['id']}/run/", json={"cause": "x"}).status_code == 404
    assert ids(api.get("/jobs/")) == []
    assert ids(api.get("/jobs/", params={"state": "all"})) == [job["id"]]
    still.behaviour.deleted_status = 204
    answer = api.delete(f"/jobs/{still.create_job('other')}/")
    assert (answer.status_code, answer.content) == (204, b"")


def test_jobs_are_found_by_project_environment_and_name(still: Sandbox, api: httpx.Client) -> None:
    """Filters narrow together; unknown ones are ignored."""
    staging = still.create_environment("Staging", deployment_type="staging")
    one = still.create_job("Nightly build")
    two = still.create_job("ad hoc", environment_id=staging, triggers={"schedule": True})
    for params, found in (
        ({}, [one, two]),
        ({"order_by": "-id"}, [two, one]),
        ({"order_by": "name"}, [one, two]),
        ({"name__icontains": "NIGHT"}, [one]),
        ({"environment_id": str(staging)}, [two]),
        ({"project_id__in": f"[{still.project_id}, 5]"}, [one, two]),
        ({"project_id": "5"}, []),
        ({"triggers_schedule": "true"}, [two]),
        ({"trigger_id": "7"}, [one, two]),
        ({"limit": "1", "offset": "1"}, [two]),
    ):
        assert ids(api.get("/jobs/", params=params)) == found, params
    assert api.get("/jobs/", params={"order_by": "color"}).status_code == 400
    assert api.get("/jobs/", params={"limit": "many"}).status_code == 400


def test_most_recent_runs_come_when_asked(still: Sandbox, api: httpx.Client) -> None:
    """And the job's environment."""
    job = still.create_job("one")
    done, active = still.insert_run(job), still.insert_run(job, status=3)
    include = {"include_related": "['most_recent_run','most_recent_completed_run','environment']"}
    shown = data(api.get(f"/jobs/{job}/", params=include))
    assert shown["most_recent_run"]["id"] == active
    assert shown["most_recent_completed_run"]["id"] == done
    assert shown["environment"]["name"] == "Production"


# -- triggering --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"cause": ""},
        {"cause": None},
        {"cause": 7},
        {"cause": "x", "steps_override": "dbt build"},
        {"cause": "x", "threads_override": "many"},
        {"cause": "x", "git_branch": 7},
    ],
)
def test_a_malformed_trigger_is_400(
    still: Sandbox, api: httpx.Client, body: dict[str, Any]
) -> None:
    """Above all a missing cause; nothing is queued."""
    job = still.create_job("one")
    assert api.post(f"/jobs/{job}/run/", json=body).status_code == 400
    assert still.runs() == []


def test_runs_of_a_job_wait_for_each_other(still: Sandbox, api: httpx.Client) -> None:
    """Not an error: the new run is queued and names who blocks it; it can be cancelled at once."""
    job = still.create_job("one")
    first = still.insert_run(job, status=3)
    second = data(api.post(f"/jobs/{job}/run/", json={"cause": "x"}))
    third = data(api.post(f"/jobs/{job}/run/", json={"cause": "y"}))
    assert second["blocked_by"] == [first]
    assert third["blocked_by"] == [first, second["id"]]
    cancelled = data(api.post(f"/runs/{third['id']}/cancel/"))
    assert (cancelled["status"], cancelled["status_humanized"]) == (30, "Cancelled")
    assert data(api.post(f"/runs/{third['id']}/cancel/"))["status"] == 30
    audit = data(api.get(f"/runs/{third['id']}/?include_related=audit"))["audit"]
    assert audit["cancellation"]["actor"]["name"] == "sandbox"


def test_slots_and_the_queue_have_an_end(still: Sandbox, api: httpx.Client) -> None:
    """Without a free slot a run stays queued; a full queue and a locked account refuse."""
    busy = still.create_job("busy")
    still.insert_run(busy, status=3)
    still.update_account(run_slots=1, queue_limit=1)
    job = still.create_job("one")
    queued = data(api.post(f"/jobs/{job}/run/", json={"cause": "x"}))
    assert queued["blocked_by"] == []
    assert data(api.get(f"/runs/{queued['id']}/"))["status"] == 1
    assert api.post(f"/jobs/{job}/run/", json={"cause": "x"}).status_code == 400
    still.update_account(queue_limit=50, locked=True)
    assert api.post(f"/jobs/{job}/run/", json={"cause": "x"}).status_code == 400


def test_a_newer_commit_of_a_pull_request_cancels_the_older_run(
    still: Sandbox, api: httpx.Client
) -> None:
    """CI runs of a job do not wait for each other."""
    job = still.create_job("ci")
    still.behaviour.queued_seconds = 60
    body = {"cause": "x", "github_pull_request_id": 5}
    older = data(api.post(f"/jobs/{job}/run/", json=body))
    newer = data(api.post(f"/jobs/{job}/run/", json=body))
    assert newer["blocked_by"] == []
    assert still.run(older["id"])["is_cancelled"]


# -- runs --------------------------------------------------------------------------------------


def test_a_run_shows_relations_only_when_asked(still: Sandbox, api: httpx.Client) -> None:
    """Null, or an empty list, otherwise; ``debug_logs`` needs ``run_steps``."""
    job = still.create_job("one")
    long = "".join(f"line {number}\n" for number in range(1500))
    run = still.insert_run(job, steps=[PastStep("dbt build", logs="console", debug_logs=long)])
    plain = data(api.get(f"/runs/{run}/"))
    assert plain["trigger"] is plain["job"] is plain["environment"] is None
    assert plain["run_steps"] == []
    project = f"{still.url}/deploy/{still.account_id}/projects/{still.project_id}"
    assert plain["href"] == f"{project}/runs/{run}/"
    assert data(api.get(f"/runs/{run}/?include_related=debug_logs"))["run_steps"] == []
    step = data(api.get(f"/runs/{run}/?include_related=['run_steps']"))["run_steps"][3]
    assert step["logs"] == "console"
    assert step["debug_logs"].splitlines()[0] == "line 500"
    whole = data(api.get(f"/runs/{run}/?include_related=run_steps&include_related=debug_logs"))
    assert whole["run_steps"][3]["debug_logs"] == long
    alone = data(api.get(f"/steps/{step['id']}/?include_related=debug_logs"))
    assert (alone["debug_logs"], alone["index"], alone["run_id"]) == (long, 4, run)
    listed = data(api.get("/runs/?include_related=trigger,run_steps"))[0]
    assert listed["trigger"]["cause_category"] == "scheduled"
    assert listed["run_steps"] == []


def test_the_log_of_a_running_step_is_a_window(still: Sandbox, api: httpx.Client) -> None:
    """The last thousand lines, or the last half megabyte, under a notice; all of it at the end."""
    job = still.create_job("one")
    lines = [f"10:00:00  line {number}\n" for number in range(1500)]
    run = still.insert_run(
        job, status=3, steps=[PastStep("dbt build", status=3, logs="".join(lines))]
    )
    window = data(api.get(f"/runs/{run}/?include_related=run_steps"))["run_steps"][3]["logs"]
    assert window.splitlines(keepends=True)[1:] == lines[500:]
    still.behaviour.tail_bytes = 1000
    window = data(api.get(f"/runs/{run}/?include_related=run_steps"))["run_steps"][3]["logs"]
    shown = window.splitlines(keepends=True)[1:]
    assert shown == lines[-len(shown) :]
    assert sum(map(len, shown)) <= 1000
    still.finish_run(run, 20)
    over = data(api.get(f"/runs/{run}/?include_related=run_steps"))["run_steps"][3]
    assert (over["logs"], over["status"]) == ("".join(lines), 20)


def test_logs_can_be_late_or_too_large(
    still: Sandbox, api: httpx.Client, clock: ManualClock
) -> None:
    """Empty for a while after the step; left out, with an unknown status, when too large."""
    still.behaviour.logs_seconds = 5
    run = still.insert_run(still.create_job("one"), steps=[PastStep("dbt build", logs="text")])

    def step() -> Any:
        return data(api.get(f"/runs/{run}/?include_related=run_steps"))["run_steps"][3]

    assert step()["logs"] == ""
    clock.advance(5)
    assert step()["logs"] == "text"
    still.behaviour.logs_limit_bytes = 3
    assert (step()["status_humanized"], step()["status"]) == ("Unknown", 10)
    assert "text" not in step()["logs"]


def test_runs_are_filtered_ordered_and_paged(
    still: Sandbox, api: httpx.Client, clock: ManualClock
) -> None:
    """By status, dates, job, project, environment and id; pages hold at most a hundred."""
    job, other = still.create_job("one"), still.create_job("two")
    start = clock.now()
    runs = [
        still.insert_run(
            job if number % 2 else other,
            status=(10, 20, 30)[number % 3],
            finished_at=start + timedelta(minutes=120 - number),
            created_at=start,
        )
        for number in range(120)
    ]
    active = still.insert_run(job, status=3, created_at=start)
    by_finish = [*reversed(runs)]

    def found(**params: Any) -> list[int]:
        return ids(api.get("/runs/", params=params))

    assert found() == runs[:100]
    assert found(limit=500) == runs[:100]
    assert found(offset=100) == [*runs[100:], active]
    assert found(order_by="-id", limit=2) == [active, runs[-1]]
    assert found(order_by="finished_at", status__in="[10,20,30]", limit=3) == by_finish[:3]
    assert found(order_by="-finished_at", limit=2) == [active, runs[0]]
    assert found(status=3) == found(status__in="[1,2,3]") == [active]
    assert found(job_definition_id=job, limit=1) == [runs[1]]
    assert found(id__gt=runs[-1]) == [active]
    assert found(pk__in=f"{runs[0]},{runs[2]}") == [runs[0], runs[2]]
    assert found(environment_id=5) == found(project_id__in="[5]") == []
    first, last = start + timedelta(minutes=10), start + timedelta(minutes=12)
    dates = f'["{first.isoformat()}", "{last.isoformat()}"]'
    assert found(finished_at__range=dates, order_by="finished_at") == by_finish[9:12]
    for text in (f"[{first.isoformat()},{last.isoformat()}]", dates.replace('"', "'")):
        assert api.get("/runs/", params={"finished_at__range": text}).status_code == 400
    assert api.get("/runs/", params={"order_by": "status"}).status_code == 400
    assert api.get("/runs/", params={"finished_at__range": "[yesterday]"}).status_code == 400
    assert api.get("/runs/", params={"status__in": "[done]"}).status_code == 400
    total = api.get("/runs/", params={"limit": 1}).json()["extra"]["pagination"]
    assert total == {"count": 1, "total_count": 121}


def test_what_nobody_knows_is_refused(still: Sandbox, api: httpx.Client) -> None:
    """Parameters of the list of runs and of accounts, triggers of a job; a job needs its id."""
    refused = api.get("/runs/", params={"created_at__gte": "x", "status_in": "[1]", "limit": 1})
    assert refused.status_code == 400
    assert refused.json()["data"] == (
        "Additional properties are not allowed ('created_at__gte', 'status_in' were unexpected)"
    )
    assert api.get(f"{still.url}/api/v3/accounts/?limit=1").status_code == 400
    job = data(api.get(f"/jobs/{still.create_job('one')}/"))
    triggers = {**job["triggers"], "custom_branch_only": False}
    answer = api.post(f"/jobs/{job['id']}/", json={**job, "triggers": triggers})
    assert answer.json()["data"] == {
        "triggers": "Additional properties are not allowed ('custom_branch_only' was unexpected)"
    }
    del job["id"]
    path = f"/jobs/{still.jobs()[0]['id']}/"
    assert api.post(path, json=job).json()["data"] == {"id": "The provided id does not match."}


def test_history_can_be_listed_late_and_lack_artifacts_for_a_while(
    still: Sandbox, api: httpx.Client, clock: ManualClock
) -> None:
    """Each at the moment that was named; the run itself can be asked for."""
    soon = clock.now() + timedelta(seconds=30)
    run = still.insert_run(
        still.create_job("one"),
        listed_at=soon,
        artifacts_at=soon + timedelta(seconds=30),
        steps=[
            PastStep("dbt build", artifacts={"run_results.json": {"results": []}}),
            PastStep("dbt ls", artifacts={"manifest.json": "{}", "deep/er.sql": b"select 1"}),
        ],
    )
    artifact = f"/runs/{run}/artifacts/manifest.json"
    assert ids(api.get("/runs/")) == []
    assert data(api.get(f"/runs/{run}/"))["artifacts_saved"] is True
    clock.advance(30)
    assert ids(api.get("/runs/")) == [run]
    assert api.get(artifact).json() == _NOT_FOUND
    assert data(api.get(f"/runs/{run}/artifacts/")) is None
    clock.advance(30)
    assert api.get(artifact).json() == {}
    assert data(api.get(f"/runs/{run}/artifacts/")) == ["deep/er.sql", "manifest.json"]
    assert data(api.get(f"/runs/{run}/artifacts/?step=4")) == ["run_results.json"]
    assert api.get(f"/runs/{run}/artifacts/deep/er.sql").text == "select 1"
    assert data(api.get(f"/runs/{still.insert_run(still.create_job('two'))}/artifacts/")) is None


def test_durations_grow_while_a_run_is_active(
    still: Sandbox, api: httpx.Client, clock: ManualClock
) -> None:
    """And say at the end what it took."""
    run = still.insert_run(still.create_job("one"), status=3)
    clock.advance(90)
    assert data(api.get(f"/runs/{run}/"))["run_duration"] == "00:01:30"
    clock.advance(86400)
    still.finish_run(run, 30, "too long")
    clock.advance(86400)
    shown = data(api.get(f"/runs/{run}/"))
    assert (shown["duration"], shown["run_duration"]) == ("24:01:30", "24:01:30")
    assert shown["finished_at"] == "2026-01-02 00:01:30+00:00"
    assert shown["status_message"] == "too long"


# -- v3 ----------------------------------------------------------------------------------------


def test_projects_and_environments(still: Sandbox, api: httpx.Client) -> None:
    """In v3, and in v2 where older clients look; environments with or without their project."""
    v3 = f"{still.url}/api/v3/accounts/{still.account_id}"
    project = f"{v3}/projects/{still.project_id}"
    assert data(api.get(f"{project}/"))["name"] == "tiny"
    assert ids(api.get(f"{v3}/projects/?name__icontains=TIN")) == [still.project_id]
    shown = data(api.get(f"{project}/environments/{still.environment_id}/"))
    assert (shown["type"], shown["deployment_type"]) == ("deployment", "production")
    assert data(api.get(f"{v3}/environments/{still.environment_id}/"))["id"] == shown["id"]
    assert data(api.get(f"/environments/{still.environment_id}/"))["id"] == shown["id"]
    production = {"deployment_type": "production"}
    assert ids(api.get(f"{project}/environments/", params=production)) == [shown["id"]]
    assert len(ids(api.get(f"{v3}/environments/?project_id={still.project_id}"))) == 2
    other = still.create_project("other")
    assert api.get(f"{v3}/projects/{other}/environments/{shown['id']}/").status_code == 404

    made = data(api.post(f"{project}/environments/", json={"name": "CI", "dbt_version": "1.9"}))
    assert (made["deployment_type"], made["dbt_version"]) == (None, "1.9")
    reset = data(api.post(f"{project}/environments/{made['id']}/", json={"name": "CI2"}))
    assert (reset["name"], reset["dbt_version"]) == ("CI2", "latest")
    odd = api.post(f"{project}/environments/", json={"name": "X", "type": "odd"})
    assert odd.status_code == 400
    assert data(api.delete(f"{project}/environments/{made['id']}/"))["state"] == 2
    assert api.get(f"{project}/environments/{made['id']}/").status_code == 404
    assert data(api.get(f"{still.url}/api/v2/whoami/"))["user"]["name"] == "sandbox"


def test_environment_variables(still: Sandbox, api: httpx.Client) -> None:
    """Job over environment over project; secrets are not shown."""
    variables = f"{still.url}/api/v3/accounts/{still.account_id}/projects/{still.project_id}"
    variables += "/environment-variables"
    job = still.create_job("one")
    bulk = {"env_var": [{"new_name": "DBT_LAYER", "project": "core", "Production": "prod"}]}
    data(api.post(f"{variables}/bulk/", json=bulk))
    override = {"type": "job", "name": "DBT_LAYER", "raw_value": "own", "job_definition_id": job}
    made = data(api.post(f"{variables}/", json=override))
    secret = {"type": "project", "name": "DBT_ENV_SECRET_KEY", "raw_value": "hush"}
    assert data(api.post(f"{variables}/", json=secret))["raw_value"] == "**********"

    listed = data(api.get(f"{variables}/environment/"))
    assert listed["environments"] == ["project", "Development", "Production"]
    assert listed["variables"]["DBT_LAYER"]["Production"]["value"] == "prod"
    assert listed["variables"]["DBT_ENV_SECRET_KEY"]["project"]["value"] == "**********"
    by_job = data(api.get(f"{variables}/job/?job_definition_id={job}"))["DBT_LAYER"]
    assert {kind: one["value"] for kind, one in by_job.items()} == {
        "project": "core", "environment": "prod", "job": "own",
    }  # fmt: skip
    changed = data(api.post(f"{variables}/{made['id']}/", json={"raw_value": "new"}))
    assert changed["raw_value"] == "new"
    data(api.delete(f"{variables}/{made['id']}/"))
    assert "job" not in data(api.get(f"{variables}/job/?job_definition_id={job}"))["DBT_LAYER"]
    rename = {"env_vars": {"name": "DBT_LAYER", "new_name": "DBT_LEVEL"}}
    assert "DBT_LEVEL" in data(api.put(f"{variables}/bulk/", json=rename))["variables"]
    gone = api.request("DELETE", f"{variables}/bulk/", json={"name": "DBT_LEVEL"})
    assert "DBT_LEVEL" not in data(gone)["variables"]
    for wrong in ({"name": "LAYER"}, {"type": "odd"}, {"type": "job", "job_definition_id": None}):
        assert api.post(f"{variables}/", json={**override, **wrong}).status_code == 400
    unknown = {"env_var": [{"new_name": "DBT_X", "Nowhere": "x"}]}
    assert api.post(f"{variables}/bulk/", json=unknown).status_code == 400
    assert data(api.get(f"{variables}/user/")) == {}
