"""Webhooks: what is told of a run, to whom, how it is signed, and what if nobody listens."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from dagster_dbtcloud.clock import ManualClock
from dagster_dbtcloud.sandbox import PastStep, Sandbox
from dagster_dbtcloud_tests.sandbox.conftest import TINY, client, until


class Listener:
    """Takes what arrives, and answers with ``status``."""

    def __init__(self) -> None:
        self.status = 200
        self.arrived: list[tuple[bytes, str]] = []
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                listener.arrived.append((body, self.headers["Authorization"]))
                self.send_response(listener.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Not into the test's output."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?a=1"

    @property
    def told(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body, _ in self.arrived]

    @property
    def types(self) -> list[str]:
        return [one["eventType"].rpartition(".")[2] for one in self.told]


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def hooks(still: Sandbox) -> Iterator[httpx.Client]:
    """A client at the webhooks of the account."""
    with client(still) as http:
        http.base_url = f"{still.url}/api/v3/accounts/{still.account_id}/webhooks"
        yield http


def play(sandbox: Sandbox, status: int = 10) -> dict[str, Any]:
    sandbox.play(lambda _, command: PastStep(command, status=status, logs="x"))
    job = sandbox.create_job("nightly")
    return sandbox.wait(sandbox.trigger(job, cause="by hand"), 10)


def test_a_run_is_told_from_start_to_end(still: Sandbox, listener: Listener) -> None:
    """Signed over the raw body; ids below ``data`` are texts."""
    secret = still.subscribe(listener.url, name="ops")
    run = play(still)
    until(lambda: listener.types == ["started", "completed"])
    for body, signature in listener.arrived:
        assert signature == hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    started, completed = listener.told
    assert (started["accountId"], started["webhookName"]) == (still.account_id, "ops")
    assert started["data"]["runStatus"] == "Running"
    assert completed["data"] == {
        "jobId": str(run["job_id"]),
        "jobName": "nightly",
        "runId": str(run["id"]),
        "environmentId": str(still.environment_id),
        "environmentName": "Production",
        "dbtVersion": "latest",
        "projectName": "tiny",
        "projectId": str(still.project_id),
        "runStatus": "Success",
        "runStatusCode": 10,
        "runStatusMessage": "None",
        "runReason": "by hand",
        "runStartedAt": "2026-01-01T00:00:00Z",
        "runFinishedAt": "2026-01-01T00:00:00Z",
    }
    assert started["eventId"] != completed["eventId"]


def test_a_failure_is_told_before_its_artifacts_are_there(
    still: Sandbox, listener: Listener, clock: ManualClock
) -> None:
    """``errored`` at once, ``completed`` when results can be fetched."""
    still.behaviour.artifacts_seconds = 30
    still.subscribe(listener.url, ["job.run.errored", "job.run.completed"])
    play(still, status=20)
    until(lambda: listener.types == ["errored"])
    assert listener.told[0]["data"]["runStatus"] == "Errored"
    assert "runErroredAt" in listener.told[0]["data"]
    clock.advance(30)
    until(lambda: listener.types == ["errored", "completed"])


def test_a_cancelled_run_has_no_end_unless_wanted(still: Sandbox, listener: Listener) -> None:
    """Whether the service tells of it is not known: both can be had."""
    still.subscribe(listener.url, ["job.run.completed"])
    job = still.create_job("one")
    silent = still.insert_run(job, status=1)
    still.cancel(silent)
    still.behaviour.webhook_on_cancel = True
    told = still.insert_run(job, status=1)
    still.cancel(told)
    until(lambda: len(listener.arrived) == 1)
    data = listener.told[0]["data"]
    assert (data["runId"], data["runStatusCode"]) == (str(told), 30)


def test_a_failed_delivery_is_tried_again(
    still: Sandbox, listener: Listener, hooks: httpx.Client, clock: ManualClock
) -> None:
    """Five times, the same event; after five events in vain the subscription is switched off."""
    listener.status = 500
    still.subscribe(listener.url, ["job.run.completed"])
    job = still.create_job("one")

    def fail(times: int) -> None:
        before = len(listener.arrived)
        still.finish_run(still.insert_run(job, status=3), 10)
        for number in range(1, times + 1):
            until(lambda number=number: len(listener.arrived) == before + number)  # type: ignore[misc]
            until(lambda: shown()["http_status_code"] == str(listener.status))
            clock.advance(10)

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = hooks.get("/subscriptions").json()["data"][0]
        return found

    fail(5)
    assert len({one["eventId"] for one in listener.told}) == 1
    listener.status = 200
    fail(1)
    listener.status = 503
    for _ in range(5):
        assert shown()["active"]
        fail(5)
    until(lambda: not shown()["active"])
    assert shown()["deactivate_reason"]
    still.finish_run(still.insert_run(job, status=3), 10)
    clock.advance(60)
    assert len(listener.arrived) == 31


def test_events_come_twice_in_any_order_and_forged_when_told(
    still: Sandbox, listener: Listener, clock: ManualClock
) -> None:
    """All of which a receiver must bear."""
    still.behaviour.webhook_copies = 2
    still.behaviour.webhook_reversed = True
    still.behaviour.webhook_delay_seconds = 5
    still.behaviour.webhook_forged_secret = "forged"
    secret = still.subscribe(listener.url)
    play(still)
    clock.advance(5)
    until(lambda: len(listener.arrived) == 4)
    assert listener.types == ["completed", "completed", "started", "started"]
    body, signature = listener.arrived[0]
    assert signature == hmac.new(b"forged", body, hashlib.sha256).hexdigest()
    assert secret != "forged"


def test_subscriptions_are_made_changed_tested_and_deleted(
    still: Sandbox, listener: Listener, hooks: httpx.Client
) -> None:
    """The secret is shown once; only jobs and events that were asked for are told of."""
    other = still.create_job("other")
    body = {
        "name": "ops",
        "client_url": listener.url,
        "event_types": ["job.run.completed"],
        "job_ids": [other],
        "active": True,
    }
    made = hooks.post("/subscriptions", json=body)
    assert (made.status_code, made.json()["status"]) == (201, {"code": 201})
    subscription = made.json()["data"]
    assert subscription["id"].startswith("wsu_")
    assert subscription["job_ids"] == [str(other)]
    assert (subscription["http_status_code"], subscription["dispatched_at"]) == ("0", None)
    assert int(subscription["created_at"]) == 1767225600000000
    one = f"/subscription/{subscription['id']}"
    assert "hmac_secret" in subscription
    assert "hmac_secret" not in hooks.get(one).json()["data"]
    assert hooks.get(f"{one}/test").json()["data"]["verification_status_code"] == "200"
    play(still)
    assert hooks.get(f"{one}/events").json()["data"] == []
    changed = hooks.put(one, json={**body, "job_ids": [], "name": "all"}).json()["data"]
    assert (changed["name"], changed["job_ids"]) == ("all", [])
    play(still)
    until(lambda: len(listener.arrived) == 2)
    events = hooks.get(f"{one}/events").json()["data"]
    assert [event["trigger_event_type"] for event in events] == ["job.run.completed"]
    receipt = f"{one}/event/{events[0]['id']}/receipt"
    until(lambda: hooks.get(receipt).status_code == 200)
    assert hooks.get(receipt).json()["data"]["http_status_code"] == "200"
    page = hooks.get("/subscriptions", params={"limit": 1, "offset": 1}).json()
    assert (page["data"], page["extra"]["pagination"]["total_count"]) == ([], 1)
    assert hooks.delete(one).status_code == 200
    assert hooks.get(one).status_code == 404
    assert hooks.get(f"{one}/event/wev_x/receipt").status_code == 404


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"event_types": ["job.run.cancelled"]},
        {"client_url": "ftp://x"},
        {"job_ids": ["a"]},
    ],
)
def test_a_malformed_subscription_is_refused(hooks: httpx.Client, wrong: dict[str, Any]) -> None:
    """400 names the field."""
    body = {
        "name": "ops",
        "client_url": "http://127.0.0.1:1",
        "event_types": ["job.run.completed"],
        "active": True,
        **wrong,
    }
    answer = hooks.post("/subscriptions", json=body)
    assert answer.status_code == 400
    assert list(answer.json()["data"]) == list(wrong)


def test_who_may_see_webhooks(still: Sandbox, hooks: httpx.Client) -> None:
    """A permission set of their own; a runner of jobs has no business there."""
    for permission, status in (("webhooks_only", 200), ("job_runner", 404)):
        token = still.create_token(permission)
        answer = hooks.get("/subscriptions", headers={"Authorization": f"Token {token}"})
        assert answer.status_code == status


def test_what_was_not_delivered_survives_a_stop(tmp_path: Path, listener: Listener) -> None:
    """A receiver that is down, or a sandbox that is: the event comes later."""
    clock = ManualClock()
    with Sandbox(project_dir=TINY, state_dir=tmp_path, clock=clock, warm=False) as sandbox:
        sandbox.behaviour.webhook_delay_seconds = 60
        sandbox.subscribe(listener.url, ["job.run.completed"])
        sandbox.finish_run(sandbox.insert_run(sandbox.create_job("one"), status=3), 10)
    clock.advance(60)
    with Sandbox(project_dir=TINY, state_dir=tmp_path, clock=clock, warm=False):
        until(lambda: listener.types == ["completed"])
