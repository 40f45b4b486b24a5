"""Which manifest a code location gets: from which run, at what cost, and what when it cannot."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest

from dagster_dbtcloud.errors import ConfigError, ManifestError, StateError
from dagster_dbtcloud.sandbox import Fault, PastStep
from dagster_dbtcloud_tests.conftest import MakeWorkspace
from dagster_dbtcloud_tests.dbt.builders import node, raw_manifest
from dagster_dbtcloud_tests.stage import Stage, until

SLOW = "model.tiny.slow"
NO_MANIFEST = PastStep("dbt deps", logs="installed\n")


def loaded_from(stage: Stage, **values: Any) -> int | None:
    """Return the run whose manifest a workspace gets."""
    state = stage.workspace(**values).load_state(refresh=True)
    return None if state.pointer is None else state.pointer.run_id


# --- what it costs -------------------------------------------------------------------------------


def test_a_cold_load_downloads_once_and_starts_nothing(stage: Stage) -> None:
    """At most four requests, one of them for the manifest."""
    newest = stage.built()
    before = len(stage.sandbox.runs())
    stage.sandbox.clear_requests()
    assert loaded_from(stage) == newest
    assert len(stage.sandbox.requests) <= 4
    assert len(stage.downloads) == 1
    assert len(stage.sandbox.runs()) == before


def test_a_real_run_has_a_manifest(make_workspace: MakeWorkspace) -> None:
    """What dbt wrote in a real run is found and read."""
    state = make_workspace().load_state()
    assert state.warning is None
    assert SLOW in state.manifest.nodes


def test_a_warm_load_asks_once_and_downloads_nothing(stage: Stage) -> None:
    """A restarted process only asks whether there is a newer run."""
    stage.built()
    first = stage.workspace().load_state()
    stage.sandbox.clear_requests()
    second = stage.workspace().load_state(refresh=True)
    assert second.manifest.digest == first.manifest.digest
    assert len(stage.sandbox.requests) == 1
    assert stage.downloads == []


def test_a_second_load_in_the_process_asks_nothing(stage: Stage) -> None:
    """Two definitions over one workspace are built from one manifest."""
    stage.built()
    first = stage.workspace().load_state()
    stage.built(stage.another_manifest())
    stage.sandbox.clear_requests()
    assert stage.workspace().load_state() is first
    assert stage.sandbox.requests == ()


def test_environment_given_by_name_costs_no_more_in_later_loads_of_a_process(stage: Stage) -> None:
    """Names are looked up once for each workspace."""
    stage.built()
    workspace = stage.workspace(environment_id=None)
    workspace.load_state()
    stage.sandbox.clear_requests()
    workspace.load_state()
    assert stage.sandbox.requests == ()


# --- which run -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        {"github_pull_request_id": 7},
        {"cause_category": "ci"},
        {"schema_override": "pr_7"},
        {"target_name_override": "dev"},
    ],
    ids=lambda overrides: next(iter(overrides)),
)
def test_runs_that_do_not_describe_production_are_passed_over(
    stage: Stage, overrides: dict[str, Any]
) -> None:
    """A newer run of a pull request or with an override is not what the tables are."""
    production = stage.built()
    stage.built(stage.another_manifest(), **overrides)
    assert loaded_from(stage) == production


def test_a_hundred_newer_pull_requests_start_no_parse(stage: Stage) -> None:
    """The production run is found behind them."""
    production = stage.built()
    for number in range(100):
        stage.put(NO_MANIFEST, github_pull_request_id=number + 1)
    before = len(stage.sandbox.runs())
    assert loaded_from(stage) == production
    assert len(stage.sandbox.runs()) == before


def test_a_last_step_without_manifest_leads_to_an_earlier_step(stage: Stage) -> None:
    """``dbt deps`` at the end of a job hides the manifest of the build before it."""
    build = PastStep("dbt build", artifacts={"manifest.json": stage.manifest})
    run = stage.put(build, PastStep("dbt deps", artifacts={"package-lock.json": b"{}"}))
    state = stage.workspace().load_state()
    assert state.pointer is not None
    assert state.pointer.run_id == run
    assert state.pointer.step == 4


def test_a_run_without_any_manifest_leads_to_an_older_one(stage: Stage) -> None:
    """Also when it failed before dbt began."""
    older = stage.built()
    stage.put(NO_MANIFEST)
    stage.sandbox.insert_run(stage.job, status=20, steps=(), builtin=False)
    assert loaded_from(stage) == older


def test_a_long_row_of_runs_without_manifest_does_not_start_a_parse(stage: Stage) -> None:
    """What this machine knows already is better than a parse that must fail, too."""
    known = stage.built()
    assert loaded_from(stage) == known
    for _ in range(60):
        stage.put(NO_MANIFEST, status=20)
    before = len(stage.sandbox.runs())
    assert loaded_from(stage) == known
    assert len(stage.sandbox.runs()) == before


@pytest.mark.parametrize(
    "broken", [b"[]", b"{}", b'{"metadata": {"dbt_schema_version": "?"}}', b'{"cut": ', b"<html>"]
)
def test_a_broken_manifest_leads_to_an_older_one(
    stage: Stage, broken: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning names the run."""
    older = stage.built()
    run = stage.built(broken)
    with caplog.at_level(logging.WARNING):
        assert loaded_from(stage) == older
    assert str(run) in caplog.text


def test_all_manifests_broken(stage: Stage) -> None:
    """The error names the run; no parse is started over what a parse may not mend."""
    run = stage.built(b"{}")
    before = len(stage.sandbox.runs())
    with pytest.raises(StateError, match=str(run)) as raised:
        stage.workspace().load_state()
    assert isinstance(raised.value.__cause__, ManifestError)
    assert len(stage.sandbox.runs()) == before


# --- dbt Cloud is down ---------------------------------------------------------------------------


def down(stage: Stage) -> None:
    stage.sandbox.faults.add(Fault("status", status=503, count=None))


def test_the_last_known_good_serves_while_dbt_cloud_is_down(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning that says which run it is of; the next load sees the newest again."""
    run = stage.built()
    stage.workspace().load_state()
    down(stage)
    with caplog.at_level(logging.WARNING):
        state = stage.workspace().load_state(refresh=True)
    assert state.pointer is not None
    assert state.pointer.run_id == run
    assert state.warning is not None
    assert str(run) in state.warning
    assert state.warning in caplog.text
    stage.sandbox.faults.clear()
    newer = stage.built(stage.another_manifest())
    assert loaded_from(stage) == newer


def test_the_last_known_good_serves_when_names_cannot_be_looked_up(stage: Stage) -> None:
    """The ids that names stood for are remembered with the manifest."""
    stage.built()
    first = stage.workspace(environment_id="production").load_state()
    down(stage)
    second = stage.workspace(environment_id="production").load_state(refresh=True)
    assert second.pointer == first.pointer


def test_a_stopped_dbt_cloud_without_cache_is_a_clear_error(stage: Stage) -> None:
    """No graph at all is worse than none: the error says what happened and what to do."""
    workspace = stage.workspace()
    stage.sandbox.stop()
    with pytest.raises(StateError) as raised:
        workspace.load_state()
    message = str(raised.value)
    assert "no answer" in message
    assert "dagster-dbtcloud check" in message
    assert str(stage.cache_dir) in message


def test_damage_in_the_cache_costs_a_download(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Half-written files, whichever, stop nothing."""
    stage.built()
    first = stage.workspace().load_state()
    for path in stage.cache_dir.rglob("*.json"):
        path.write_bytes(path.read_bytes()[:40] + b"\xff")
    stage.sandbox.clear_requests()
    with caplog.at_level(logging.WARNING):
        second = stage.workspace().load_state(refresh=True)
    assert second.manifest.digest == first.manifest.digest
    assert len(stage.downloads) == 1


# --- no run has a manifest -----------------------------------------------------------------------


def test_an_environment_without_runs_is_parsed_once_by_real_dbt(
    make_workspace: MakeWorkspace, sandbox: Any
) -> None:
    """One run, ``dbt parse``; the next load finds its manifest and starts nothing."""
    environment = sandbox.create_environment("Fresh")
    before = len(sandbox.runs())
    state = make_workspace(environment_id=environment).load_state()
    assert SLOW in state.manifest.nodes
    (run,) = sandbox.runs()[before:]
    assert run["trigger"]["steps_override"] == ["dbt parse"]
    assert run["environment_id"] == environment
    make_workspace(environment_id=environment).load_state(refresh=True)
    assert len(sandbox.runs()) == before + 1


def test_a_manifest_that_is_stored_late_is_waited_for(stage: Stage) -> None:
    """Artifacts answer 404 for a while after the parse is complete."""
    stage.play()
    stage.sandbox.behaviour.artifacts_seconds = 40.0
    assert stage.workspace().load_state().pointer is not None


def test_a_parse_that_fails_says_where_to_look(stage: Stage) -> None:
    """The project does not parse: the error names the run, and nothing is cached."""
    stage.sandbox.play(lambda _, command: PastStep(command, status=20, logs="no such macro\n"))
    with pytest.raises(StateError, match="could not parse the project"):
        stage.workspace().load_state()


def test_a_token_that_may_not_run_jobs_gets_advice(stage: Stage) -> None:
    """The error says that there is no manifest, and what would bring one."""
    token = stage.sandbox.create_token("readonly")
    with pytest.raises(StateError, match="run a job with `dbt build`"):
        stage.workspace(token=token).load_state()


@pytest.mark.parametrize("name", ["project_id", "environment_id"])
def test_an_id_that_does_not_exist_is_to_be_looked_at(stage: Stage, name: str) -> None:
    """dbt Cloud answers it as it does a token that may not make a job."""
    with pytest.raises(StateError, match="If project_id and environment_id are right"):
        stage.workspace(**{name: 987_654}).load_state()


def test_a_lost_answer_does_not_take_an_old_parse_for_the_new_one(stage: Stage) -> None:
    """Only the run of this very trigger is adopted."""
    stage.sandbox.play(lambda _, command: PastStep(command, status=20, logs="no\n"))
    with pytest.raises(StateError):
        stage.workspace().load_state()
    stage.play()
    stage.sandbox.faults.add(Fault("lost", method="POST", path="*/run/"))
    assert stage.workspace().load_state().pointer is not None


@pytest.mark.parametrize("shared", [True, False], ids=["one cache", "a cache each"])
def test_many_threads_parse_once(stage: Stage, tmp_path: Path, shared: bool) -> None:
    """Whoever comes while a parse is under way joins it."""
    stage.play(hold=True)
    caches = [stage.cache_dir] * 3 if shared else [tmp_path / str(n) for n in range(3)]
    with ThreadPoolExecutor(4) as pool:
        loads = [
            pool.submit(stage.workspace(cache_dir=cache).load_state, refresh=True)
            for cache in caches
        ]
        until(lambda: bool(stage.sandbox.runs()))
        (run,) = stage.sandbox.runs()
        stage.play()
        stage.sandbox.wait(run["id"], status=3)
        stage.sandbox.release(run["id"])
        assert len({load.result(60).manifest.digest for load in loads}) == 1
    (run,) = stage.sandbox.runs()
    assert run["trigger"]["steps_override"] == ["dbt parse"]


LOAD = """
import sys
from dagster_dbtcloud import DbtCloudWorkspace
account, token, url, project, environment, cache = sys.argv[1:]
workspace = DbtCloudWorkspace(account_id=account, token=token, access_url=url, project_id=project,
    environment_id=environment, cache_dir=cache)
print(workspace.load_state().pointer.to_json())
"""


def test_two_processes_parse_once(stage: Stage) -> None:
    """Two code servers that start at the same moment in an empty environment."""
    stage.play(hold=True)
    box = stage.sandbox
    words = [box.account_id, box.token, box.url, box.project_id, box.environment_id]
    command = [sys.executable, "-c", LOAD, *map(str, words), str(stage.cache_dir)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)
    ]

    def both_have_looked() -> bool:
        # the finished runs: what is looked through before a parse is thought of
        lists = [each for each in box.requests if "status__in=%5B10" in each.query]
        return len(lists) >= 2 and bool(box.runs())

    until(both_have_looked)
    (run,) = box.runs()
    box.wait(run["id"], status=3)
    box.release(run["id"])
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert len(box.runs()) == 1


# --- a given manifest ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["path", "text", "mapping"])
def test_a_given_manifest_needs_no_dbt_cloud(stage: Stage, tmp_path: Path, form: str) -> None:
    """No request at all; the host need not even exist."""
    path = tmp_path / "manifest.json"
    path.write_bytes(stage.manifest)
    given = {"path": path, "text": str(path), "mapping": json.loads(stage.manifest)}[form]
    workspace = stage.workspace(manifest=given, access_url="https://nowhere.invalid")
    specs = workspace.load_asset_specs()
    assert any(spec.key == dg.AssetKey("slow") for spec in specs)
    assert stage.sandbox.requests == ()
    assert workspace.load_state().pointer is None


def test_a_given_file_is_read_once_until_it_changes(stage: Stage, tmp_path: Path) -> None:
    """A sensor looks each half minute; a manifest can have a hundred megabytes."""
    path = tmp_path / "manifest.json"
    path.write_bytes(stage.manifest)
    first = stage.workspace(manifest=path).load_state()
    assert stage.workspace(manifest=path).load_state() is first
    path.write_bytes(stage.another_manifest())
    assert stage.workspace(manifest=path).load_state().manifest.digest != first.manifest.digest


def test_a_given_file_is_read_again_though_size_and_time_are_the_old_ones(
    stage: Stage, tmp_path: Path
) -> None:
    """As after a checkout, or in an image whose files are all of 1970."""
    path = tmp_path / "manifest.json"
    for name in "ab":
        path.write_text(json.dumps(raw_manifest(node(f"model.shop.{name}"))))
        os.utime(path, (1, 1))
        assert list(stage.workspace(manifest=path).load_state().manifest.nodes) == [
            f"model.shop.{name}"
        ]


@pytest.mark.parametrize(
    "name", ["nothing.json", "~no-such-user/nothing.json", "x" * 5000, "file/nothing.json", "\0"]
)
def test_a_given_file_that_is_missing(stage: Stage, tmp_path: Path, name: str) -> None:
    """The error names the path."""
    (tmp_path / "file").touch()
    path = name if name.startswith("~") else tmp_path / name
    with pytest.raises(ConfigError, match=re.escape(f"no manifest file at {path}")):
        stage.workspace(manifest=path).load_state()


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff"])
def test_a_given_file_that_is_broken(stage: Stage, tmp_path: Path, content: bytes) -> None:
    """The error names the path."""
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=r"manifest\.json"):
        stage.workspace(manifest=path).load_state()


# --- the processes of a real deployment ----------------------------------------------------------

DEFINITIONS = """
import dagster as dg
from dagster_dbtcloud import DbtCloudWorkspace, dbt_cloud_assets

workspace = DbtCloudWorkspace(
    account_id=dg.EnvVar("DBT_CLOUD_ACCOUNT_ID"),
    token=dg.EnvVar("DBT_CLOUD_TOKEN"),
    access_url=dg.EnvVar("DBT_CLOUD_ACCESS_URL"),
    project_id=dg.EnvVar("DBT_CLOUD_PROJECT_ID"),
    environment_id=dg.EnvVar("DBT_CLOUD_ENVIRONMENT_ID"),
)

@dbt_cloud_assets(workspace=workspace, select="slow")
def dbt_project(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace):
    context.log.info(f"digest {dbt_cloud.load_state().manifest.digest}")
    yield from dbt_cloud.cli(["build"], context=context).wait()

defs = dg.Definitions(
    assets=[dbt_project],
    resources={"dbt_cloud": workspace},
    jobs=[
        dg.define_asset_job("in_processes", executor_def=dg.multiprocess_executor),
        dg.define_asset_job("in_one", executor_def=dg.in_process_executor),
    ],
)
"""


class Deployment:
    """A web server with its code server, as ``dagster-webserver`` starts them."""

    def __init__(self, url: str, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self._http = httpx.Client(base_url=url, timeout=60, trust_env=False)

    def answers(self) -> bool:
        try:
            return self._http.get("/server_info").is_success
        except httpx.HTTPError:
            return False

    def query(self, text: str, **variables: Any) -> dict[str, Any]:
        answer = self._http.post("/graphql", json={"query": text, "variables": variables})
        data: dict[str, Any] = answer.raise_for_status().json()["data"]
        return data

    def run(self, job: str) -> str:
        """Launch a job as the UI does, wait for its end, and return its log."""
        (node,) = self.query(
            "{ repositoriesOrError { ... on RepositoryConnection "
            "{ nodes { name location { name } } } } }"
        )["repositoriesOrError"]["nodes"]
        selector = {
            "repositoryLocationName": node["location"]["name"],
            "repositoryName": node["name"],
            "pipelineName": job,
        }
        launched = self.query(
            "mutation Launch($params: ExecutionParams!) { "
            "launchPipelineExecution(executionParams: $params) { __typename "
            "... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }",
            params={"mode": "default", "runConfigData": {}, "selector": selector},
        )["launchPipelineExecution"]
        run_id = str(launched["run"]["runId"])

        def over() -> bool:
            run = self.instance.get_run_by_id(run_id)
            return run is not None and run.is_finished

        until(over, seconds=120)
        run = self.instance.get_run_by_id(run_id)
        log = "\n".join(entry.user_message for entry in self.instance.all_logs(run_id))
        assert run is not None
        assert run.is_success, log
        return log

    def close(self) -> None:
        self._http.close()


@contextmanager
def deployed(stage: Stage, folder: Path) -> Iterator[Deployment]:
    """Start Dagster on `DEFINITIONS` with a workspace on the stage."""
    home = folder / "home"
    home.mkdir()
    # without a daemon, runs are launched at once
    (home / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\n"
        "run_coordinator:\n"
        "  module: dagster._core.run_coordinator\n"
        "  class: DefaultRunCoordinator\n"
    )
    (folder / "defs.py").write_text(DEFINITIONS)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        **stage.sandbox.env,
        "DAGSTER_HOME": str(home),
        "DAGSTER_DBTCLOUD_CACHE_DIR": str(stage.cache_dir),
    }
    words = ["-m", "dagster_webserver", "-f", str(folder / "defs.py"), "-p", str(port)]
    with (folder / "webserver.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *words, "-h", "127.0.0.1"],
            cwd=home,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            deployment = Deployment(f"http://127.0.0.1:{port}", instance)
            until(lambda: deployment.answers() or process.poll() is not None)
            assert process.poll() is None, (folder / "webserver.log").read_text()
            yield deployment
            deployment.close()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_run_worker_and_step_process_use_the_code_servers_manifest(
    stage: Stage, tmp_path: Path
) -> None:
    """They ask for no list of runs; without the cache (another machine) they fetch that very one.

    A newer manifest exists by then, and must not come in between.
    """
    served = stage.built()
    digest = stage.workspace().load_state().manifest.digest
    stage.play((SLOW, "success"))
    with deployed(stage, tmp_path) as deployment:
        stage.built(stage.another_manifest())
        stage.sandbox.clear_requests()
        assert f"digest {digest}" in deployment.run("in_processes")
        assert stage.downloads == []
        assert stage.asked("GET", "/runs/") != []
        # the step itself looks once whether an earlier attempt has left a run behind
        lists = [each.query for each in stage.sandbox.requests if each.path.endswith("/runs/")]
        assert [query for query in lists if "created_at__range" not in query] == []

        shutil.rmtree(stage.cache_dir)
        stage.built(stage.another_manifest("yet another"))
        stage.sandbox.clear_requests()
        assert f"digest {digest}" in deployment.run("in_one")
        assert [path.split("/runs/")[1] for path in stage.downloads] == [
            f"{served}/artifacts/manifest.json"
        ]
        # the step itself looks once whether an earlier attempt has left a run behind
        lists = [each.query for each in stage.sandbox.requests if each.path.endswith("/runs/")]
        assert [query for query in lists if "created_at__range" not in query] == []
