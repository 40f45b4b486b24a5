"""The example project on the sandbox: a dbt Cloud, a Dagster, and the main job, on one machine.

With ``once`` it plays the whole story headless, through the same web API that the Dagster UI uses,
and tells what happened. It starts child processes and stops every one of them.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from dagster_dbtcloud.clock import Clock, SystemClock
from dagster_dbtcloud.errors import ConfigError, DbtCloudError
from dagster_dbtcloud.sandbox import Sandbox

MODULE = "jaffle_shop.definitions"
UI_PORT = 3000
MARK = "demo.txt"
"""The file that tells a folder of the demo's from one that somebody else has filled."""
JOB_NAME = "Nightly build"
_PATIENCE = 240.0
"""Seconds for each part of the story; a slow machine takes about 30."""


class DemoError(DbtCloudError):
    """A part of the demo did not happen; the message says which, and where to look."""


def find_example() -> Path:
    """Return the example project: of the source tree, or the copy that comes with the package.

    Raises: DemoError.
    """
    package = Path(__file__).resolve().parent
    for place in (package.parent / "examples" / "jaffle_shop", package / "_examples/jaffle_shop"):
        if (place / "dbt_project" / "dbt_project.yml").is_file():
            return place
    raise DemoError("The example project is not installed. Give its folder with --example.")


@dataclass
class Story:
    """What happened, for the table at the end."""

    assets: int = 0
    checks: dict[str, int] = field(default_factory=dict)
    runs: list[tuple[str, str, str]] = field(default_factory=list)  # what, result, link
    recorded: int = 0
    automated: list[str] = field(default_factory=list)


def run_demo(
    *,
    example: Path,
    home: Path,
    port: int | None,
    once: bool,
    console: Console,
    clock: Clock | None = None,
) -> None:
    """Start the sandbox and Dagster on the example; play the story or wait for Ctrl-C.

    ``home`` holds all that the demo writes; it is new, empty, or an earlier demo's. ``port`` is the
    UI's; 0 takes a free one, and so does None when the usual one is taken.

    Raises: ConfigError, for a folder or port that is somebody else's; DemoError.
    """
    clock = clock or SystemClock()
    home = home.resolve()
    if not (example / "dagster.yaml").is_file():
        raise ConfigError(
            f"{example} is not the example project: it has no dagster.yaml. Leave --example out to "
            "take the one that came along."
        )
    port = _port(port, once)
    _take(home, anew=once)
    dagster_home = home / "dagster_home"
    dagster_home.mkdir(parents=True, exist_ok=True)
    shutil.copy(example / "dagster.yaml", dagster_home / "dagster.yaml")
    with ExitStack() as stack:
        console.print("Starting a local dbt Cloud (the sandbox) …")
        sandbox = stack.enter_context(
            Sandbox(project_dir=example / "dbt_project", state_dir=home / "dbt_cloud")
        )
        job_id = _nightly_job(sandbox)
        console.print(f"  dbt Cloud: {sandbox.url}")
        console.print("Running the first dbt Cloud job …")
        first = _run_in_cloud(sandbox, job_id, "The first build", "ui")
        console.print("Starting Dagster …")
        ui = f"http://127.0.0.1:{port}"
        log = home / "dagster.log"
        process = stack.enter_context(dagster_dev(example, dagster_home, sandbox.env, port, log))
        dagster = Dagster(ui, clock, process, log)
        stack.enter_context(dagster)
        dagster.wait_for("the code location", dagster.has_assets)
        console.print(f"  Dagster:   {ui}")
        if once:
            story = _play(dagster, sandbox, job_id, first, console)
            _tell(story, sandbox, ui, console)
        else:
            _explain(sandbox, ui, _write_variables(home, sandbox.env), console)
            with _interruptible():
                process.wait()


def _port(wanted: int | None, once: bool) -> int:
    """Return the UI's port: one that nobody listens on. Raises: ConfigError."""
    if wanted == 0 or (wanted is None and once):
        return free_port()
    try:
        # as servers bind it, so that one which is just closing does not count
        socket.create_server(("127.0.0.1", wanted or UI_PORT)).close()
    except OSError as error:
        if wanted is None:
            return free_port()
        raise ConfigError(
            f"Port {wanted} cannot be had ({error.strerror}); give another --port, or 0 for a free "
            "one."
        ) from error
    return wanted or UI_PORT


def _take(home: Path, *, anew: bool) -> None:
    """Make the demo's folder, empty if the story is told ``anew``. Raises: ConfigError."""
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        if not (home / MARK).is_file():
            raise ConfigError(
                f"{home} is not a folder of the demo's, and it is not empty; name another --home."
            )
        if anew:
            shutil.rmtree(home)
    home.mkdir(parents=True, exist_ok=True)
    (home / MARK).write_text("Written by `dagster-dbtcloud demo`. The folder may be deleted.\n")


def _play(
    dagster: Dagster, sandbox: Sandbox, job_id: int, first: Mapping[str, Any], console: Console
) -> Story:
    story = Story()
    story.runs.append(("dbt Cloud: first build", first["status_humanized"], first["href"]))
    keys = dagster.asset_keys()
    story.assets = len(keys)

    console.print(f"Materializing all {len(keys)} assets through Dagster …")
    run_id = dagster.launch(keys)
    status = dagster.wait_for_run(run_id)
    story.runs.append(("Dagster: all assets", status, f"{dagster.url}/runs/{run_id}"))
    if status != "SUCCESS":
        raise DemoError(f"Dagster run {run_id} ended as {status}: {dagster.url}/runs/{run_id}")
    built = {each.dbt_cloud_run for each in dagster.materializations().values()} - {None}
    for own in sandbox.runs():
        if own["id"] in built and own["id"] != first["id"]:
            link = own["href"]
            story.runs.append(("dbt Cloud: started by Dagster", own["status_humanized"], link))

    console.print("Starting a job in dbt Cloud, behind Dagster's back …")
    seen = set(dagster.automated_runs())
    dbt_assets = {key for key, facts in dagster.materializations().items() if facts.dbt_cloud_run}
    nightly = _run_in_cloud(sandbox, job_id, "Nightly, by dbt Cloud's own schedule", "scheduled")
    story.runs.append(("dbt Cloud: by itself", nightly["status_humanized"], nightly["href"]))

    console.print("Waiting for the polling sensor to record it …")
    dagster.wait_for(
        "the polling sensor to record it",
        lambda: dbt_assets == dagster.recorded_of(nightly["id"]),
    )
    story.recorded = len(dagster.recorded_of(nightly["id"]))

    console.print("Waiting for declarative automation to react …")
    dagster.wait_for(
        "declarative automation to react", lambda: bool(dagster.automated_runs().keys() - seen)
    )
    for automated, assets in dagster.automated_runs().items():
        if automated not in seen:
            status = dagster.wait_for_run(automated)
            link = f"{dagster.url}/runs/{automated}"
            story.automated.extend(assets)
            story.runs.append(("Dagster: declarative automation", status, link))
    story.checks = dagster.checks()
    return story


def _tell(story: Story, sandbox: Sandbox, ui: str, console: Console) -> None:
    console.print()
    console.print("[bold]What happened[/bold]")
    wide = max(len(what) for what, _, _ in story.runs)
    for what, result, link in story.runs:
        console.print(f"  {what:<{wide}}  {result:<8}  {link}", soft_wrap=True)
    checks = ", ".join(f"{count} {word}" for word, count in sorted(story.checks.items()))
    facts = {
        "assets": str(story.assets),
        "checks": checks or "none",
        "recorded by the polling sensor": f"{story.recorded} assets",
        "built by declarative automation": ", ".join(story.automated),
        "dbt Cloud runs": str(len(sandbox.runs())),
    }
    for name, value in facts.items():
        console.print(f"  {name}: {value}", soft_wrap=True)
    console.print(f"Dagster was at {ui}; everything is stopped again.")


def _explain(sandbox: Sandbox, ui: str, variables: Path, console: Console) -> None:
    console.print()
    console.print(f"[bold]Dagster[/bold]    {ui}/asset-groups")
    console.print(f"[bold]dbt Cloud[/bold]  {sandbox.url}  (the sandbox: real dbt on DuckDB)")
    console.print()
    console.print("Try: Lineage > Materialize all; then open the run.")
    console.print(f"Try: in dbt Cloud, start the job {JOB_NAME!r} again:")
    path = f"api/v2/accounts/{sandbox.account_id}/jobs/{_nightly_job(sandbox)}/run/"
    console.print(
        f"     . {variables}; curl -H 'Content-Type: application/json' "
        '-H "Authorization: Token $DBT_CLOUD_TOKEN" -d \'{"cause": "by hand"}\' '
        f"{sandbox.url}/{path}",
        soft_wrap=True,
        markup=False,
    )
    console.print("     Within half a minute the polling sensor shows it in Dagster.")
    console.print("Ctrl-C stops everything.")


def _write_variables(home: Path, variables: Mapping[str, str]) -> Path:
    """Write the variables to export to a file that only its owner can read."""
    path = home / "sandbox.env"
    path.touch(mode=0o600)
    path.write_text("".join(f"export {name}={value}\n" for name, value in variables.items()))
    return path


def _nightly_job(sandbox: Sandbox) -> int:
    for job in sandbox.jobs():
        if job["name"] == JOB_NAME:
            return int(job["id"])
    return int(sandbox.create_job(JOB_NAME, ["dbt build"]))


def _run_in_cloud(sandbox: Sandbox, job_id: int, cause: str, category: str) -> dict[str, Any]:
    run_id = sandbox.trigger(job_id, cause=cause, cause_category=category)
    run: dict[str, Any] = sandbox.wait(run_id, timeout=_PATIENCE)
    if run["status"] != 10:
        raise DemoError(f"dbt Cloud run {run_id} ended as {run['status_humanized']}: {run['href']}")
    return run


# --- Dagster, from outside -----------------------------------------------------------------------


@contextmanager
def dagster_dev(
    example: Path,
    dagster_home: Path,
    variables: Mapping[str, str],
    port: int,
    log: Path,
    *,
    module: str = MODULE,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``dagster dev`` on a module in the folder ``example``; end it with its children."""
    environment = {
        **os.environ,
        **variables,
        "DAGSTER_HOME": str(dagster_home),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(example), os.environ.get("PYTHONPATH")])),
    }
    command = [sys.executable, "-m", "dagster", "dev", "-m", module]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own words only
            [*command, "-h", "127.0.0.1", "-p", str(port)],
            env=environment,
            cwd=dagster_home,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # a shell that starts us in the background ignores SIGINT, and its children would too
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        try:
            yield process
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End ``dagster dev`` and all its children; ask first."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@dataclass(frozen=True)
class _Facts:
    """The newest materialization of an asset."""

    dbt_cloud_run: int | None
    dagster_run: str


class Dagster:
    """The web API that the Dagster UI itself uses (GraphQL over HTTP)."""

    def __init__(self, url: str, clock: Clock, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url = url
        self._clock = clock
        self._process = process
        self._log = log
        self._http = httpx.Client(base_url=url, timeout=60, trust_env=False)

    def __enter__(self) -> Dagster:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def query(self, text: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer = self._http.post(
            "/graphql", json={"query": text, "variables": dict(variables or {})}
        )
        body: dict[str, Any] = answer.raise_for_status().json()
        if body.get("errors"):
            raise DemoError(f"Dagster's web API: {body['errors'][0]['message']}")
        data: dict[str, Any] = body["data"]
        return data

    def wait_for(self, what: str, happened: Callable[[], bool]) -> None:
        deadline = self._clock.monotonic() + _PATIENCE
        while self._clock.monotonic() < deadline:
            if self._process.poll() is not None:
                raise DemoError(f"Dagster stopped while waiting for {what}. {self._end_of_log()}")
            try:
                if happened():
                    return
            except httpx.TransportError:
                pass  # the web server is not up yet
            self._clock.sleep(0.5)
        raise DemoError(f"Waited {_PATIENCE:g} s for {what}, in vain. {self._end_of_log()}")

    def _end_of_log(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-30:]
        return f"The end of {self._log}:\n" + "\n".join(lines)

    def has_assets(self) -> bool:
        errors = self.query(
            "{ workspaceOrError { ... on Workspace { locationEntries "
            "{ locationOrLoadError { ... on PythonError { message } } } } } }"
        )["workspaceOrError"].get("locationEntries", [])
        for entry in errors:
            message = (entry["locationOrLoadError"] or {}).get("message")
            if message:
                raise DemoError(f"The code location does not load: {message}")
        return bool(self.asset_keys())

    def asset_keys(self) -> list[list[str]]:
        nodes = self.query("{ assetNodes { assetKey { path } isMaterializable } }")["assetNodes"]
        return [node["assetKey"]["path"] for node in nodes if node["isMaterializable"]]

    def materializations(self) -> dict[str, _Facts]:
        """Return the newest materialization of each asset that has one."""
        nodes = self.query(
            "{ assetNodes { assetKey { path } assetMaterializations(limit: 1) { runId "
            "metadataEntries { label ... on TextMetadataEntry { text } } } } }"
        )["assetNodes"]
        found = {}
        for node in nodes:
            for event in node["assetMaterializations"]:
                values = {entry["label"]: entry for entry in event["metadataEntries"]}
                run = values.get("dbt_cloud_run_id", {}).get("text")
                key = "/".join(node["assetKey"]["path"])
                found[key] = _Facts(int(run) if run else None, event["runId"])
        return found

    def recorded_of(self, run_id: int) -> set[str]:
        """Return the assets that have a materialization from this dbt Cloud run."""
        nodes = self.query(
            "{ assetNodes { assetKey { path } assetMaterializations(limit: 20) { "
            "metadataEntries { label ... on TextMetadataEntry { text } } } } }"
        )["assetNodes"]
        return {
            "/".join(node["assetKey"]["path"])
            for node in nodes
            for event in node["assetMaterializations"]
            for entry in event["metadataEntries"]
            if entry["label"] == "dbt_cloud_run_id" and entry.get("text") == str(run_id)
        }

    def checks(self) -> dict[str, int]:
        """Count the newest evaluations of all checks by their status."""
        nodes = self.query(
            "{ assetNodes { assetChecksOrError { ... on AssetChecks { checks { name "
            "executionForLatestMaterialization { status evaluation { severity } } } } } } }"
        )["assetNodes"]
        counts: dict[str, int] = {}
        for node in nodes:
            for check in node["assetChecksOrError"].get("checks", []):
                execution = check["executionForLatestMaterialization"] or {"status": "not run"}
                status = execution["status"].lower()
                if (execution.get("evaluation") or {}).get("severity") == "WARN":
                    status = "warned"
                counts[status] = counts.get(status, 0) + 1
        return counts

    def launch(self, keys: list[list[str]]) -> str:
        repository = self.query(
            "{ repositoriesOrError { ... on RepositoryConnection "
            "{ nodes { name location { name } } } } }"
        )["repositoriesOrError"]["nodes"][0]
        answer = self.query(
            "mutation Launch($params: ExecutionParams!) { "
            "launchPipelineExecution(executionParams: $params) { __typename "
            "... on LaunchRunSuccess { run { runId } } ... on PythonError { message } "
            "... on InvalidSubsetError { message } } }",
            {
                "params": {
                    "mode": "default",
                    "runConfigData": {},
                    "selector": {
                        "repositoryLocationName": repository["location"]["name"],
                        "repositoryName": repository["name"],
                        "pipelineName": "__ASSET_JOB",
                        "assetSelection": [{"path": path} for path in keys],
                    },
                }
            },
        )["launchPipelineExecution"]
        if "run" not in answer:
            raise DemoError(f"Dagster did not launch: {answer}")
        run_id: str = answer["run"]["runId"]
        return run_id

    def wait_for_run(self, run_id: str) -> str:
        status = ""

        def is_over() -> bool:
            nonlocal status
            answer = self.query(
                "query Run($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }",
                {"id": run_id},
            )
            status = answer["runOrError"]["status"]
            return status in ("SUCCESS", "FAILURE", "CANCELED")

        self.wait_for(f"Dagster run {run_id}", is_over)
        return status

    def terminate(self, run_id: str) -> None:
        """Terminate a run, as the UI's button does."""
        answer = self.query(
            "mutation Stop($id: String!) { terminateRun(runId: $id) { __typename } }",
            {"id": run_id},
        )
        kind = answer["terminateRun"]["__typename"]
        if kind != "TerminateRunSuccess":
            raise DemoError(f"Dagster did not terminate run {run_id}: {kind}")

    def automated_runs(self) -> dict[str, list[str]]:
        """Return the runs that declarative automation started, with the assets of each."""
        runs = self.query(
            "{ runsOrError(limit: 20) { ... on Runs { results { runId tags { key } "
            "assetSelection { path } } } } }"
        )["runsOrError"]["results"]
        return {
            run["runId"]: ["/".join(key["path"]) for key in run["assetSelection"] or ()]
            for run in runs
            if any(tag["key"] == "dagster/from_automation_condition" for tag in run["tags"])
        }


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the wait, quietly."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, previous)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
