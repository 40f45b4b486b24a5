"""Faults on demand: what is met, what the client sees, what took effect."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from dagster_dbtcloud.clock import ManualClock
from dagster_dbtcloud.sandbox import Fault, Faults, PastStep, Sandbox
from dagster_dbtcloud_tests.sandbox.conftest import until


def faults(clock: ManualClock) -> Faults:
    return Faults(clock, lambda: "now")


def meets(rules: Faults, method: str = "GET", path: str = "/x") -> bool:
    return bool(rules.meet(method, path))


# -- what is met -------------------------------------------------------------------------------


def test_a_fault_is_met_once_unless_told_otherwise(clock: ManualClock) -> None:
    """``count`` None is for ever; ``skip`` lets the first ones through."""
    once, always, third = faults(clock), faults(clock), faults(clock)
    once.add(Fault("lost"))
    always.add(Fault("lost", count=None))
    third.add(Fault("lost", skip=2))
    assert [meets(once) for _ in range(3)] == [True, False, False]
    assert [meets(always) for _ in range(3)] == [True, True, True]
    assert [meets(third) for _ in range(4)] == [False, False, True, False]


@pytest.mark.parametrize(
    ("fault", "met"),
    [
        (Fault("lost", method="POST"), False),
        (Fault("lost", method="GET"), True),
        (Fault("lost", path="/api/*/runs/*"), True),
        (Fault("lost", path="*/runs"), False),
        (Fault("lost", probability=0.0), False),
    ],
)
def test_method_and_path_choose(clock: ManualClock, fault: Fault, met: bool) -> None:
    """The path is a shell pattern over the whole path."""
    rules = faults(clock)
    rules.add(fault)
    assert meets(rules, "GET", "/api/v2/accounts/1/runs/5/") is met


def test_a_fault_may_last_for_some_seconds(clock: ManualClock) -> None:
    """Of the sandbox's clock."""
    rules = faults(clock)
    rules.add(Fault("lost", count=None, for_seconds=10))
    assert meets(rules)
    clock.advance(10.5)
    assert not meets(rules)


def test_chance_is_repeatable(clock: ManualClock) -> None:
    """The same seed gives the same faults."""
    runs = []
    for _ in range(2):
        rules = faults(clock)
        rules.add(Fault("lost", count=None, probability=0.5))
        runs.append([meets(rules) for _ in range(20)])
    assert runs[0] == runs[1]
    assert 0 < sum(runs[0]) < 20


def test_faults_are_listed_removed_and_cleared(clock: ManualClock) -> None:
    """By number."""
    rules = faults(clock)
    one, two = rules.add(Fault("lost")), rules.add(Fault("reset", count=2))
    meets(rules)
    assert [(rule["number"], rule["met"]) for rule in rules.listed()] == [(one, 1), (two, 1)]
    rules.remove(one)
    assert [rule["kind"] for rule in rules.listed()] == ["reset"]
    rules.clear()
    assert rules.listed() == []


@pytest.mark.parametrize("wrong", [{"kind": "odd"}, {"kind": "status"}, {"kind": "lost", "x": 1}])
def test_a_malformed_fault_is_refused(wrong: dict[str, Any]) -> None:
    """Unknown kind, no status, unknown field."""
    with pytest.raises(ValueError, match=r"kind|status|unknown"):
        Fault.parse(wrong)


# -- what the client sees ----------------------------------------------------------------------


@pytest.fixture
def job(still: Sandbox) -> int:
    """A job whose runs stay queued, so that each effect can be counted and no dbt runs."""
    job_id = still.create_job("one")
    still.insert_run(job_id, status=3)
    return job_id


def trigger(api: httpx.Client, job: int) -> httpx.Response:
    return api.post(f"/jobs/{job}/run/", json={"cause": "x"})


@pytest.mark.parametrize("after_effect", [False, True])
@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ({"kind": "status", "status": 503}, 503),
        ({"kind": "status", "status": 429, "retry_after": "7"}, 429),
        ({"kind": "html"}, 200),
        ({"kind": "html", "status": 502}, 502),
        ({"kind": "lost"}, None),
        ({"kind": "reset"}, None),
    ],
)
def test_each_fault_comes_before_or_after_the_effect(
    still: Sandbox,
    api: httpx.Client,
    job: int,
    fault: dict[str, Any],
    status: int | None,
    after_effect: bool,
) -> None:
    """The client sees the same; only the list of runs tells whether a run exists."""
    still.faults.add(Fault.parse({**fault, "method": "POST", "after_effect": after_effect}))
    if status is None:
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            trigger(api, job)
    else:
        answer = trigger(api, job)
        assert answer.status_code == status
        html = answer.headers["content-type"].startswith("text/html")
        assert html is (fault["kind"] == "html")
        assert answer.headers.get("retry-after") == fault.get("retry_after")
    assert len(still.runs()) == 1 + after_effect
    record = still.requests[-1]
    assert (record.method, record.status, record.effect) == ("POST", status, after_effect)
    assert trigger(api, job).status_code == 200


def test_a_cut_body_promises_more_than_it_sends(still: Sandbox, api: httpx.Client) -> None:
    """JSON and files alike."""
    run = still.insert_run(
        still.create_job("one"), steps=[PastStep("dbt ls", artifacts={"a.json": "[1, 2, 3]"})]
    )
    still.faults.add(Fault("cut", count=2))
    for path in (f"/runs/{run}/", f"/runs/{run}/artifacts/a.json"):
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
            api.get(path)
    assert api.get(f"/runs/{run}/artifacts/a.json").json() == [1, 2, 3]


def test_a_delay_may_end_in_a_time_out(
    still: Sandbox, api: httpx.Client, job: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Who has left by then has asked for nothing, and is no fault of the server's."""
    still.faults.add(Fault("delay", seconds=0.05))
    assert api.get(f"/jobs/{job}/").status_code == 200
    still.faults.add(Fault("delay", seconds=0.2, method="POST"))
    with pytest.raises(httpx.ReadTimeout):
        api.post(f"/jobs/{job}/run/", json={"cause": "x"}, timeout=0.05)
    until(lambda: still.requests[-1].method == "POST")
    assert (still.requests[-1].status, still.requests[-1].effect) == (None, False)
    assert len(still.runs()) == 1
    assert caplog.text == ""


def test_artifacts_can_come_late(still: Sandbox, api: httpx.Client, clock: ManualClock) -> None:
    """404 and a null list for some seconds."""
    run = still.insert_run(
        still.create_job("one"), steps=[PastStep("dbt ls", artifacts={"a.json": "[]"})]
    )
    still.faults.add(Fault("late_artifacts", path="*/artifacts/*", count=None, for_seconds=9))
    assert api.get(f"/runs/{run}/artifacts/a.json").status_code == 404
    assert api.get(f"/runs/{run}/artifacts/").json()["data"] is None
    clock.advance(10)
    assert api.get(f"/runs/{run}/artifacts/a.json").status_code == 200


def test_runs_can_be_listed_late(still: Sandbox, api: httpx.Client, clock: ManualClock) -> None:
    """Lists lack what happened since the fault began; each run can be asked for."""
    job = still.create_job("one")
    old = still.insert_run(job)
    clock.advance(1)
    still.faults.add(Fault("late_list", count=None, for_seconds=9))
    new = still.insert_run(job)
    assert [run["id"] for run in api.get("/runs/").json()["data"]] == [old]
    assert api.get(f"/runs/{new}/").status_code == 200
    clock.advance(10)
    assert [run["id"] for run in api.get("/runs/").json()["data"]] == [old, new]


def test_the_control_route_needs_no_token_and_leaves_no_trace(
    still: Sandbox, api: httpx.Client
) -> None:
    """GET lists, POST adds one or many, DELETE removes one or all."""
    control = f"{still.url}/__sandbox__/faults"
    del api.headers["Authorization"]
    first = api.post(control, json={"kind": "lost"}).json()["numbers"]
    more = api.post(control, json=[{"kind": "html"}, {"kind": "reset"}]).json()["numbers"]
    api.delete(control, params={"number": first[0]})
    assert [rule["number"] for rule in api.get(control).json()["faults"]] == more
    assert api.delete(control).json() == {"faults": []}
    as_curl_does = {"Content-Type": "application/x-www-form-urlencoded"}
    plain = api.post(control, content='{"kind": "lost"}', headers=as_curl_does)
    assert plain.status_code == 201
    assert api.post(control, json={"kind": "odd"}).status_code == 400
    assert api.post(control, json=[7]).status_code == 400
    assert still.requests == ()


def test_requests_are_recorded(still: Sandbox, api: httpx.Client) -> None:
    """Method, path, query, time and status, oldest first."""
    api.get("/jobs/", params={"limit": 5})
    api.get("/nothing/")
    one, two = still.requests
    assert (one.method, one.query, one.status) == ("GET", "limit=5", 200)
    assert one.path == f"/api/v2/accounts/{still.account_id}/jobs/"
    assert one.at == "2026-01-01 00:00:00.000000+00:00"
    assert two.status == 404
    still.clear_requests()
    assert still.requests == ()


@pytest.mark.parametrize(
    ("place", "method", "path", "query"),
    [
        ("trigger", "POST", "/jobs/7/run/", ""),
        ("retry", "POST", "/runs/5/retry/", ""),
        ("retry", "POST", "/jobs/7/rerun", ""),
        ("polling", "GET", "/runs/5/", "include_related=trigger"),
        ("logs", "GET", "/runs/5", "include_related=trigger,run_steps"),
        ("logs", "GET", "/steps/9/", ""),
        ("list", "GET", "/runs/", "job_definition_id=7"),
        ("artifacts", "GET", "/runs/5/artifacts/", ""),
        ("artifacts", "GET", "/runs/5/artifacts/compiled/a.sql", "step=4"),
        ("cancel", "POST", "/runs/5/cancel/", ""),
        ("jobs", "POST", "/jobs/", ""),
    ],
)
def test_places_have_names(
    clock: ManualClock, place: str, method: str, path: str, query: str
) -> None:
    """What a client does there, with or without the slash, and nothing else."""
    rules = faults(clock)
    rules.add(Fault.parse({"kind": "lost", "place": place, "count": None}))
    assert rules.meet(method, f"/api/v2/accounts/1{path}", query)
    assert not rules.meet("DELETE" if place == "trigger" else "PUT", "/api/v2/accounts/1/x", query)
    if place == "logs" and query:
        assert not rules.meet(method, f"/api/v2/accounts/1{path}", "include_related=trigger")


def test_the_query_chooses_as_well(still: Sandbox, api: httpx.Client) -> None:
    """As a pattern over its decoded text; an unknown place is refused."""
    still.faults.add(Fault("status", status=503, query="*related=trigger,job*", count=None))
    assert api.get("/runs/", params={"include_related": "trigger,job"}).status_code == 503
    assert api.get("/runs/", params={"include_related": "trigger"}).status_code == 200
    with pytest.raises(ValueError, match="place"):
        Fault.parse({"kind": "lost", "place": "nowhere"})


def test_an_effect_may_come_after_the_connection_is_gone(
    still: Sandbox, api: httpx.Client, job: int, clock: ManualClock
) -> None:
    """The run appears when its time on the sandbox's clock has come."""
    still.faults.add(Fault("late_effect", place="trigger", seconds=10))
    with pytest.raises(httpx.RemoteProtocolError):
        trigger(api, job)
    assert len(still.runs()) == 1
    clock.advance(10)
    until(lambda: len(still.runs()) == 2)


def test_an_answer_may_be_later_than_its_effect(
    still: Sandbox, api: httpx.Client, job: int
) -> None:
    """The client gives up; the run is there already."""
    still.faults.add(Fault("delay", seconds=0.3, place="trigger", after_effect=True))
    with pytest.raises(httpx.ReadTimeout):
        api.post(f"/jobs/{job}/run/", json={"cause": "x"}, timeout=0.1)
    assert len(still.runs()) == 2


def test_logs_can_come_late(still: Sandbox, api: httpx.Client, clock: ManualClock) -> None:
    """Empty while the fault lasts, in the run and in the step."""
    run = still.insert_run(still.create_job("one"), steps=[PastStep("dbt ls", logs="said\n")])
    still.faults.add(Fault("late_logs", place="logs", count=None, for_seconds=9))

    def step() -> dict[str, Any]:
        steps = api.get(f"/runs/{run}/?include_related=run_steps").json()["data"]["run_steps"]
        found: dict[str, Any] = steps[3]
        return found

    assert step()["logs"] == ""
    assert api.get(f"/steps/{step()['id']}/").json()["data"]["logs"] == ""
    clock.advance(10)
    assert step()["logs"] == "said\n"


# -- the request budget ------------------------------------------------------------------------


def test_an_account_has_a_budget_of_requests(
    still: Sandbox, api: httpx.Client, clock: ManualClock
) -> None:
    """One too many in a minute, and all are 429 for five; other accounts are not concerned."""
    still.behaviour.requests_per_minute = 3
    other = still.create_token("owner", account_id=still.create_account("Other"))
    still.create_token("job_viewer", secret="second")
    assert [api.get("/jobs/").status_code for _ in range(3)] == [200] * 3
    clock.advance(61)
    assert [api.get("/jobs/").status_code for _ in range(3)] == [200] * 3
    same_account = {"Authorization": "Bearer second"}
    refused = api.get("/jobs/", headers=same_account)
    assert (refused.status_code, refused.json()["status"]["is_success"]) == (429, False)
    assert "retry-after" not in refused.headers
    clock.advance(299)
    still.behaviour.cooldown_retry_after = True
    refused = api.get("/jobs/")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    elsewhere = api.get(
        f"{still.url}/api/v3/accounts/", headers={"Authorization": f"Token {other}"}
    )
    assert elsewhere.status_code == 200
    clock.advance(1)
    assert api.get("/jobs/").status_code == 200
    still.behaviour.requests_per_minute = None
    assert [api.get("/jobs/").status_code for _ in range(5)] == [200] * 5
