"""The resources: what users may write for them, and that their token is to be seen nowhere."""

import copy
import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import serialize_value

from dagster_dbtcloud import (
    DbtCloudCredentials,
    DbtCloudWorkspace,
    build_dbt_cloud_polling_sensor,
    dbt_cloud_assets,
)
from dagster_dbtcloud.errors import ConfigError, DbtCloudError
from dagster_dbtcloud.sandbox import Fault
from dagster_dbtcloud.verify import verify
from dagster_dbtcloud_tests.cloud.test_token_stays_hidden import shown, shown_by_rich
from dagster_dbtcloud_tests.stage import Stage

SLOW = "model.tiny.slow"
CORE = "DoNotShowThis0123456789"
TESTS = str(Path(__file__).parent)


@pytest.fixture
def built(stage: Stage) -> Stage:
    """A stage with a manifest and an easily recognized token, on which runs succeed at once."""
    stage.sandbox.token = stage.sandbox.create_token(secret=f"dbtc_{CORE}")
    stage.built()
    stage.play((SLOW, "success"))
    return stage


def define(workspace: DbtCloudWorkspace) -> dg.AssetsDefinition:
    @dbt_cloud_assets(workspace=workspace, select="slow")
    def project(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
        yield from dbt_cloud.cli(["build"], context=context).wait()

    return project


def test_what_dbt_passed_over_is_named(built: Stage, instance: dg.DagsterInstance) -> None:
    """A green step without one of its assets is not to be found out weeks later."""
    workspace = built.workspace()
    built.play(("model.tiny.orders", "success"))
    resources = {"dbt_cloud": workspace}
    done = dg.materialize([define(workspace)], resources=resources, instance=instance)
    log = "\n".join(entry.user_message for entry in instance.all_logs(done.run_id))
    assert "has no result of 1 selected nodes, though the dbt project has them: model.tiny.s" in log


# --- what may be written -------------------------------------------------------------------------


def flat(stage: Stage, **values: Any) -> DbtCloudWorkspace:
    return stage.workspace(**values)


def with_credentials(stage: Stage, **values: Any) -> DbtCloudWorkspace:
    names = ("account_id", "token", "access_url")
    given = {
        "account_id": stage.sandbox.account_id,
        "token": stage.sandbox.token,
        "access_url": stage.sandbox.url,
        **{name: values.pop(name) for name in names if name in values},
    }
    nothing = dict.fromkeys(names)
    return stage.workspace(**nothing, credentials=DbtCloudCredentials(**given), **values)


def as_ids(stage: Stage) -> dict[str, Any]:
    box = stage.sandbox
    return {
        "account_id": box.account_id,
        "project_id": box.project_id,
        "environment_id": box.environment_id,
    }


def as_digits(stage: Stage) -> dict[str, Any]:
    return {name: f" {value} " for name, value in as_ids(stage).items()}


def as_variables(_: Stage) -> dict[str, Any]:
    names = ("account_id", "project_id", "environment_id", "token", "access_url")
    return {name: dg.EnvVar(f"DBT_CLOUD_{name.upper()}") for name in names}


def as_int_variables(_: Stage) -> dict[str, Any]:
    names = ("account_id", "project_id", "environment_id")
    return {name: dg.EnvVar.int(f"DBT_CLOUD_{name.upper()}") for name in names}


def as_names(_: Stage) -> dict[str, Any]:
    return {"account_id": "Sandbox", "project_id": "tiny", "environment_id": "production"}


def as_url(stage: Stage) -> dict[str, Any]:
    box = stage.sandbox
    url = f"{box.url}/deploy/{box.account_id}/projects/{box.project_id}/jobs/{stage.job}"
    return {"account_id": url, "project_id": url, "environment_id": url}


def without_environment(stage: Stage) -> dict[str, Any]:
    return {**as_ids(stage), "environment_id": None}


@pytest.mark.parametrize("form", [flat, with_credentials])
@pytest.mark.parametrize(
    "values",
    [
        as_ids,
        as_digits,
        as_variables,
        as_int_variables,
        as_names,
        as_url,
        without_environment,
    ],
)
def test_every_form_of_a_value_works_inside_a_step(
    built: Stage,
    monkeypatch: pytest.MonkeyPatch,
    form: Callable[..., DbtCloudWorkspace],
    values: Callable[[Stage], dict[str, Any]],
) -> None:
    """The run goes to the environment that was meant."""
    for name, value in built.sandbox.env.items():
        monkeypatch.setenv(name, value)
    workspace = form(built, **values(built))
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [define(workspace)], resources={"dbt_cloud": workspace}, instance=instance
        )
    assert len(result.get_asset_materialization_events()) == 1
    run = built.sandbox.runs()[-1]
    assert run["environment_id"] == built.sandbox.environment_id
    assert workspace.ids().environment_id == built.sandbox.environment_id
    assert workspace.ids().access_url == built.sandbox.url


def test_credentials_in_both_ways_are_refused(stage: Stage) -> None:
    """Nobody could say which of them counts."""
    credentials = DbtCloudCredentials(account_id=1, token="x")
    with pytest.raises(ConfigError, match="either"):
        stage.workspace(credentials=credentials)
    with pytest.raises(ConfigError, match="either"):
        DbtCloudWorkspace(credentials=credentials, access_url="https://x", project_id=1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("account_id", "account id"),
        ("token", "token"),
        ("project_id", "project id"),
    ],
)
@pytest.mark.parametrize("value", [None, "", " ", dg.EnvVar("DBT_CLOUD_NOT_SET_ANYWHERE")])
@pytest.mark.parametrize("form", [flat, with_credentials])
def test_a_missing_value_is_named(
    stage: Stage, form: Callable[..., DbtCloudWorkspace], name: str, words: str, value: Any
) -> None:
    """``os.getenv`` of a variable that is not set gives None: the message says which value."""
    workspace = form(stage, **{name: value})
    with pytest.raises(ConfigError, match=words) as raised:
        workspace.load_state()
    assert "environment variable" in str(raised.value)
    assert stage.sandbox.requests == ()


def test_a_missing_value_does_not_stop_a_definition(
    built: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that only the run worker has is no fault of the code server."""
    monkeypatch.delenv("DBT_CLOUD_TOKEN", raising=False)
    workspace = built.workspace(token=dg.EnvVar("DBT_CLOUD_TOKEN"))
    build_dbt_cloud_polling_sensor(workspace=workspace)
    dg.Definitions(resources={"dbt_cloud": workspace}).get_repository_def()


def test_arguments_of_dagster_dbt_are_taken(stage: Stage) -> None:
    """Whoever changes the import line need not change the rest."""
    workspace = stage.workspace(
        adhoc_job_name="mine", request_max_retries=3, request_retry_delay=0.25, request_timeout=15
    )
    assert workspace.adhoc_job_name == "mine"


# --- the token -----------------------------------------------------------------------------------


class Echo(BaseHTTPRequestHandler):
    """A proxy in trouble: its pages show the request that it got."""

    status = 502

    def do_GET(self) -> None:
        body = f"<html><pre>{self.headers}</pre></html>".encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def echo(answer: int) -> Iterator[str]:
    """Serve echoes with a status; yield the address."""

    class Handler(Echo):
        status = answer

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def check_hidden(error: BaseException, *, rich: bool = True) -> None:
    """Look at an error as a terminal, Sentry, pytest and (it is slow) rich show it.

    The frames of the caller are left out, all up to the last one of the tests: they are the
    user's, and hold what the user wrote.
    """
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None:
        assert current not in seen, "an error that is its own cause sends tools round for ever"
        seen.append(current)
        current = current.__cause__
    place = error.__traceback__
    while place is not None:
        if place.tb_frame.f_code.co_filename.startswith(TESTS):
            error.__traceback__ = place.tb_next
        place = place.tb_next
    texts = [str(error), repr(error), shown(error), shown_by_rich(error) if rich else ""]
    assert [text[max(0, text.find(CORE) - 200) :] for text in texts if CORE in text] == []


def check_uses(workspace: DbtCloudWorkspace) -> None:
    """Use a workspace that cannot work, in each way, and look at the errors."""
    uses: tuple[Callable[[], object], ...] = (
        workspace.ids,
        lambda: workspace.load_state(refresh=True),
        lambda: workspace.cli(["build"]),
    )
    for number, use in enumerate(uses, start=1):
        with pytest.raises(DbtCloudError) as raised:
            use()
        check_hidden(raised.value, rich=number == len(uses))
    assert CORE not in str(verify(workspace))


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", status=401, count=None),
        Fault("status", status=403, count=None),
        Fault("status", status=404, count=None),
        Fault("status", status=503, count=None),
        Fault("reset", count=None),
        Fault("lost", count=None),
        Fault("cut", count=None),
        Fault("html", count=None),
        None,
    ],
    ids=lambda fault: "stopped" if fault is None else f"{fault.kind}-{fault.status}",
)
def test_no_error_on_the_way_shows_the_token(
    built: Stage, fault: Fault | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Not its message, its traceback with locals, nor the log at its most talkative."""
    caplog.set_level(logging.DEBUG)
    workspace = built.workspace(environment_id="production")
    if fault is None:
        built.sandbox.stop()
    else:
        built.sandbox.faults.add(fault)
    check_uses(workspace)
    assert CORE not in caplog.text


def test_a_wrong_token_is_not_shown_either(built: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """It may be right for another host."""
    caplog.set_level(logging.DEBUG)
    workspace = built.workspace(token=f"dbtc_{CORE}_wrong", environment_id="production")
    check_uses(workspace)
    assert CORE not in caplog.text


@pytest.mark.parametrize("status", [200, 401, 404, 502])
def test_a_page_that_shows_the_request_does_not_give_it_away(
    stage: Stage, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A proxy's error page may hold the Authorization header."""
    caplog.set_level(logging.DEBUG)
    with echo(status) as url:
        workspace = stage.workspace(
            token=f"dbtc_{CORE}", access_url=url, environment_id="production"
        )
        check_uses(workspace)
        assert CORE not in caplog.text


@pytest.mark.parametrize(
    "values",
    [
        {"adhoc_job_pool_size": 0},
        {"adhoc_job_pool_size": "many"},
        {"request_timeout": "soon"},
        {"adhoc_job_name": 7},
        {"adhoc_job_pool_mode": None},
        {"unknown_keyword": 1},
        {"credentials": DbtCloudCredentials(1, f"dbtc_{CORE}")},
    ],
    ids=lambda values: next(iter(values)),
)
def test_no_fault_of_construction_shows_the_token(built: Stage, values: dict[str, Any]) -> None:
    """What Dagster and pydantic raise has the library's frames in it."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 - Dagster's, pydantic's or ours
        built.workspace(**values)
    check_hidden(raised.value)


@pytest.mark.parametrize("token", [f"dbtc_{CORE} {CORE}", f"dbtc_{CORE}\n{CORE}", f"{CORE}ü"])
def test_a_malformed_token_is_refused_without_being_shown(built: Stage, token: str) -> None:
    """A line break in a secret's file is a common accident."""
    workspace = built.workspace(token=token)
    with pytest.raises(ConfigError, match="token") as raised:
        workspace.get_client()
    check_hidden(raised.value)


def test_no_repr_shows_the_token(built: Stage) -> None:
    """Of whatever a person may print."""
    workspace = built.workspace()
    credentials = DbtCloudCredentials(1, f"dbtc_{CORE}")
    client = workspace.get_client()
    invocation = workspace.cli(["build"])
    things = [workspace, credentials, client, invocation, vars(invocation), workspace.load_state()]
    for thing in things:
        assert CORE not in f"{thing!r} {thing!s} {thing}"
    assert CORE not in workspace.state_key + workspace.unique_id
    assert invocation.is_successful()


def test_dagster_stores_and_shows_no_token(built: Stage, tmp_path: Path) -> None:
    """Snapshots, configuration, runs, event logs, files: of a success, and of a failure."""
    workspace = built.workspace()
    project = define(workspace)
    sensor = build_dbt_cloud_polling_sensor(workspace=workspace)
    defs = dg.Definitions(
        assets=[project],
        sensors=[sensor],
        resources={"dbt_cloud": workspace},
        jobs=[dg.define_asset_job("everything")],
    )
    repository = defs.get_repository_def()
    assert CORE not in serialize_value(RepositorySnap.from_def(repository))
    home = tmp_path / "home"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        job = defs.resolve_job_def("everything")
        assert job.execute_in_process(instance=instance).success
        built.sandbox.faults.add(Fault("status", status=401, count=None))
        assert not job.execute_in_process(instance=instance, raise_on_error=False).success
        for record in instance.get_run_records():
            run = record.dagster_run
            snapshot = instance.get_job_snapshot(str(run.job_snapshot_id))
            texts = [serialize_value(run), serialize_value(snapshot)]
            texts += [serialize_value(entry) for entry in instance.all_logs(run.run_id)]
            assert not [text for text in texts if CORE in text]
    files = [path for path in home.rglob("*") if path.is_file()]
    files += [path for path in built.cache_dir.rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in files)
    assert [path for path in files if CORE.encode() in path.read_bytes()] == []


def test_an_error_inside_a_step_shows_no_token(built: Stage) -> None:
    """The chain that Dagster raises goes through its own frames and ours."""
    workspace = built.workspace()
    project = define(workspace)
    built.sandbox.faults.add(Fault("status", status=401, count=None))
    with pytest.raises(DbtCloudError) as raised:
        dg.materialize([project], resources={"dbt_cloud": workspace})
    raised.value.__context__ = None  # Dagster raises a step's error while handling that very one
    check_hidden(raised.value)


# --- copies --------------------------------------------------------------------------------------


def test_a_copy_is_the_same_workspace(built: Stage) -> None:
    """The copy works, and is no stranger to the cache."""
    workspace = built.workspace()
    workspace.load_state()
    other = copy.copy(workspace)
    assert other.state_key == workspace.state_key
    assert other.unique_id == workspace.unique_id
    assert other.load_state() is workspace.load_state()
    assert CORE not in repr(other)


def test_a_token_is_copied_and_not_pickled(stage: Stage) -> None:
    """What an I/O manager pickles lies in a file; the name of a variable may."""
    workspace = stage.workspace()
    for held in (workspace, workspace.credentials):
        with pytest.raises(TypeError, match="EnvVar"):
            pickle.dumps(held)
    assert copy.copy(workspace.credentials) is workspace.credentials
    assert copy.deepcopy(workspace.credentials) is workspace.credentials
    named = DbtCloudCredentials(account_id=1, token=dg.EnvVar("DBT_CLOUD_TOKEN"))
    assert pickle.loads(pickle.dumps(named)) == named  # noqa: S301 - our own
