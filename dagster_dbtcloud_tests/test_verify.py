"""The table of what works: each trouble has its line, and each line its advice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from dagster_dbtcloud.sandbox import Fault
from dagster_dbtcloud.verify import Verification
from dagster_dbtcloud_tests.stage import Stage


@pytest.fixture
def built(stage: Stage) -> Stage:
    stage.built()
    stage.play()
    return stage


def failed(result: Verification) -> list[str]:
    return [check.name for check in result.checks if check.ok is False]


def untried(result: Verification) -> list[str]:
    return [check.name for check in result.checks if check.ok is None]


def line(result: Verification, name: str) -> str:
    """Return detail and advice of one check."""
    (check,) = [check for check in result.checks if check.name == name]
    return f"{check.detail} -> {check.advice}"


def test_all_is_fine(built: Stage) -> None:
    """Each check says what it saw; the probe leaves the ad hoc job and no run."""
    before = len(built.sandbox.runs())
    result = built.workspace().verify()
    assert result.ok
    assert failed(result) == untried(result) == []
    text = str(result)
    assert text.count("ok  ") == len(result.checks)
    assert "Sandbox" in line(result, "account")
    assert "15 nodes of tiny" in line(result, "manifest")
    assert len(built.sandbox.runs()) == before
    assert built.workspace().verify().ok
    assert len(built.sandbox.jobs()) == 2


@pytest.mark.parametrize("name", ["account_id", "token", "project_id", "access_url"])
def test_a_missing_value(built: Stage, name: str) -> None:
    """Nothing is sent, and the rest is not tried."""
    result = built.workspace(**{name: " "}).verify()
    assert failed(result) == ["configuration"]
    assert "missing" in line(result, "configuration")
    assert len(untried(result)) == len(result.checks) - 1
    assert built.sandbox.requests == ()


@pytest.mark.parametrize("environment", ["21", None, "Production"])
def test_a_wrong_token(built: Stage, environment: str | None) -> None:
    """Also when a name has to be looked up first."""
    result = built.workspace(token="dbtc_wrong_wrong_wrong", environment_id=environment).verify()
    assert failed(result) == ["token"]
    assert "Access URLs" in line(result, "token")
    assert "dbtc_wrong" not in str(result)


def test_a_closed_port(built: Stage) -> None:
    """The address is the first thing to look at, and the proxy's variables."""
    workspace = built.workspace()
    built.sandbox.stop()
    result = workspace.verify()
    assert failed(result) == ["host"]
    assert "HTTPS_PROXY" in line(result, "host")


@contextmanager
def some_web_server(answer: int) -> Iterator[str]:
    """Serve pages that have nothing to do with dbt Cloud."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>Welcome to nginx!</html>")

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("status", [200, 403, 404, 502])
def test_a_server_that_is_no_dbt_cloud(built: Stage, status: int) -> None:
    """It answers, but not as dbt Cloud does: the host is wrong, not the account."""
    with some_web_server(status) as url:
        result = built.workspace(access_url=url).verify()
    assert failed(result) == ["host"]
    assert "access_url" in line(result, "host")


def test_an_account_of_somebody_else(built: Stage) -> None:
    """dbt Cloud says 404; the advice is where to find the right number."""
    other = built.sandbox.create_account("Other")
    result = built.workspace(account_id=other).verify()
    assert failed(result) == ["account"]
    assert "/deploy/ACCOUNT/" in line(result, "account")


def test_a_project_of_another_account(built: Stage) -> None:
    """The account is right, the project is not its."""
    other = built.sandbox.create_account("Other")
    project = built.sandbox.create_project("Theirs", account_id=other)
    result = built.workspace(project_id=project).verify()
    assert failed(result) == ["project"]
    assert "environment" in untried(result)


def test_a_project_that_is_not_there_when_the_environment_is_left_out(built: Stage) -> None:
    """The look-up of the environment finds it out: the message names the project."""
    result = built.workspace(project_id=4711, environment_id=None).verify()
    assert failed(result) == ["configuration"]
    assert "no project 4711" in line(result, "configuration")


def test_an_environment_of_another_project(built: Stage) -> None:
    """The advice names the way out: leave it out."""
    project = built.sandbox.create_project("Second")
    environment = built.sandbox.create_environment("Theirs", project_id=project)
    result = built.workspace(environment_id=environment).verify()
    assert failed(result) == ["environment"]
    assert "leave environment_id out" in line(result, "environment")


def test_a_name_that_is_not_there(built: Stage) -> None:
    """The message lists those that are."""
    result = built.workspace(environment_id="Prod").verify()
    assert failed(result) == ["configuration"]
    assert "'Production'" in line(result, "configuration")


@pytest.mark.parametrize("denied", [403, 404])
@pytest.mark.parametrize("permission", ["readonly", "job_viewer", "job_runner", "job_creator"])
def test_a_token_that_may_not_do_everything(built: Stage, permission: str, denied: int) -> None:
    """What it may do is ok, what it may not has its advice; it leaves nothing behind."""
    built.sandbox.behaviour.denied_status = denied
    workspace = built.workspace(token=built.sandbox.create_token(permission))
    before = len(built.sandbox.runs())
    missing_job = workspace.verify()
    built.workspace().verify()  # the job is made by somebody who may
    with_job = workspace.verify()
    if permission == "job_creator":
        assert missing_job.ok
        assert with_job.ok
    else:
        assert failed(missing_job) == ["create a job"]
        assert untried(missing_job) == ["trigger a run"]
        assert "Job Creator" in line(missing_job, "create a job")
        expected = [] if permission == "job_runner" else ["trigger a run"]
        assert failed(with_job) == expected
        assert "Job Runner" in line(with_job, "trigger a run") or not expected
    assert len(built.sandbox.runs()) == before


def test_no_run_with_a_manifest_is_no_fault(stage: Stage) -> None:
    """It says what loading will do, and does not do it."""
    result = stage.workspace().verify()
    assert result.ok
    assert "dbt parse" in line(result, "manifest")
    assert stage.sandbox.runs() == []


def test_a_broken_manifest(stage: Stage) -> None:
    """The line names the run."""
    run = stage.built(b"{}")
    result = stage.workspace().verify()
    assert failed(result) == ["manifest"]
    assert str(run) in line(result, "manifest")


def test_the_last_known_good_is_a_fault_here(built: Stage) -> None:
    """Loading would go on with a warning; who verifies wants to know."""
    built.workspace().load_state()
    built.sandbox.faults.add(Fault("status", path="*/runs/", status=503, count=None))
    result = built.workspace().verify()
    assert failed(result) == ["list runs", "manifest"]
    assert "last known good" in line(result, "manifest")
