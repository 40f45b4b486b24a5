"""A fresh `dg` project with our component: scaffolded, checked, run, watched, and then offline.

The commands are Dagster's own. The usual form calls them in this process, the nightly one as a user
does, with the UI's server.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from dagster_dg_cli.cli import create_dg_cli

from dagster_dbtcloud.sandbox import Sandbox
from dagster_dbtcloud_tests.stage import Stage, until

pytestmark = [
    # Dagster's own commands use parts of Dagster that are in beta or preview ...
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore::dagster.PreviewWarning"),
    # ... and close their event loops and files when they end, which in this process they do not.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

PYPROJECT = """
[project]
name = "shop"
version = "0.1.0"

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "{name}"
"""
DEFINITIONS = """
from pathlib import Path

from dagster import definitions, load_from_defs_folder


@definitions
def defs():
    return load_from_defs_folder(path_within_project=Path(__file__).parent)
"""
TYPE = "dagster_dbtcloud.DbtCloudComponent"
EXAMPLE = Path(__file__).parent.parent / "examples" / "jaffle_shop_yaml"


def fresh_project(root: Path, name: str) -> Path:
    """Write what `create-dagster project` writes."""
    package = root / "src" / name
    (package / "defs").mkdir(parents=True)
    (root / "pyproject.toml").write_text(PYPROJECT.format(name=name))
    (package / "__init__.py").touch()
    (package / "defs" / "__init__.py").touch()
    (package / "definitions.py").write_text(DEFINITIONS)
    return package


def home_in(folder: Path) -> Path:
    home = folder / "home"
    home.mkdir()
    (home / "dagster.yaml").touch()
    return home


def options(sandbox: Sandbox) -> list[str]:
    ids = {
        "--account-id": sandbox.account_id,
        "--project-id": sandbox.project_id,
        "--environment-id": sandbox.environment_id,
        "--access-url": sandbox.url,
    }
    return [str(word) for pair in ids.items() for word in pair]


# --- in this process -----------------------------------------------------------------------------


@pytest.fixture
def desk(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a project, which is to be written, with the variables of a dbt Cloud."""
    stage.built()
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)
    for name, value in stage.sandbox.env.items():
        monkeypatch.setenv(name, value)
    for name in ("DAGSTER_IS_DEV_CLI", "PYTHONPATH"):  # dg sets the one, and both are put back
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setenv("DAGSTER_HOME", str(home_in(tmp_path)))
    monkeypatch.syspath_prepend(str(root / "src"))
    # Dagster leaves out the first entry, which in a process of its own is the script's folder.
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.chdir(root)
    return root


def dg(*words: str) -> str:
    command = create_dg_cli()  # type: ignore[no-untyped-call]  # Dagster's
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_fresh_project(stage: Stage, desk: Path) -> None:
    """Listed, scaffolded, refreshed; then dbt Cloud is gone, and the definitions stay."""
    package = fresh_project(desk, "shop_in_process")
    assert TYPE in dg("list", "components", "--json")
    dg("scaffold", "defs", TYPE, "dbt", *options(stage.sandbox))
    assert stage.sandbox.token not in (package / "defs" / "dbt" / "defs.yaml").read_text()
    dg("utils", "refresh-defs-state")
    (state,) = package.rglob(".local_defs_state/*/state")
    state.write_text("of another version")
    dg("utils", "refresh-defs-state")  # which is what an unreadable state asks for
    stage.sandbox.stop()
    listed = json.loads(dg("list", "defs", "--json"))
    assert {"orders", "customers"} <= {asset["asset_key"] for asset in listed["assets"]}
    assert len(listed["sensors"]) == 1


def test_the_example_in_yaml(stage: Stage, desk: Path) -> None:
    """Its files as they stand; what it says of dbt's assets is in Dagster."""
    shutil.copytree(EXAMPLE, desk, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
    importlib.invalidate_caches()
    listed = json.loads(dg("list", "defs", "--json"))
    assets = {asset["asset_key"]: asset for asset in listed["assets"]}
    assert {"orders", "customers", "monday_report"} <= set(assets)
    assert assets["orders"]["automation_condition"]["label"] == "eager"
    assert [job["name"] for job in listed["schedules"]] == ["nightly"]
    assert stage.asked("POST", "/run/") == []


# --- as a user does ------------------------------------------------------------------------------


class Shell:
    """A shell in the project's folder; `dg` is the one beside this Python."""

    def __init__(self, root: Path, home: Path, sandbox: Sandbox) -> None:
        self.root = root
        here = str(Path(__file__).parent.parent)
        self.env = {
            **os.environ,
            **sandbox.env,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([here, str(root / "src")]),
            "DAGSTER_HOME": str(home),
            "DAGSTER_DISABLE_TELEMETRY": "yes",
        }

    def dg(self, *words: str, ok: bool = True) -> str:
        done = subprocess.run(
            ["dg", *words], cwd=self.root, env=self.env, capture_output=True, text=True, timeout=240
        )
        assert (done.returncode == 0) is ok, done.stdout + done.stderr
        return done.stdout + done.stderr

    @contextmanager
    def dev(self) -> Iterator[str]:
        """Run `dg dev`; give the address of its GraphQL."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = ["dg", "dev", "--port", str(port)]
        process = subprocess.Popen(words, cwd=self.root, env=self.env, stdin=subprocess.DEVNULL)
        try:
            address = f"http://127.0.0.1:{port}"
            until(lambda: answers(f"{address}/server_info"), seconds=120)
            yield f"{address}/graphql"
        finally:
            process.terminate()
            process.wait(timeout=60)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def ask(address: str, query: str, **variables: object) -> Any:
    body = {"query": query, "variables": variables}
    return httpx.post(address, json=body, timeout=120).json()["data"]


REPOSITORIES = """
{ repositoriesOrError { ... on RepositoryConnection {
    nodes { name location { name } sensors { name } assetNodes { assetKey { path } } } } } }
"""
TICK = """
mutation($selector: SensorSelector!) { sensorDryRun(selectorData: $selector, cursor: null) {
    ... on DryRunInstigationTick { evaluationResult { skipReason error { message } } } } }
"""


@pytest.fixture
def shell(sandbox: Sandbox, tmp_path: Path) -> Shell:
    """A shell in a fresh project with our component."""
    root = tmp_path / "project"
    fresh_project(root, "shop")
    shell = Shell(root, home_in(tmp_path), sandbox)
    shell.dg("scaffold", "defs", TYPE, "dbt", *options(sandbox))
    return shell


@pytest.mark.nightly
def test_a_fresh_project_as_a_user_meets_it(shell: Shell) -> None:
    """Every command in a process of its own, real dbt, and the UI's server."""
    shell.dg("check", "defs")
    assert "RUN_SUCCESS" in shell.dg("launch", "--assets", "orders")
    with shell.dev() as address:
        (repository,) = ask(address, REPOSITORIES)["repositoriesOrError"]["nodes"]
        assert ["orders"] in [node["assetKey"]["path"] for node in repository["assetNodes"]]
        selector = {
            "repositoryName": repository["name"],
            "repositoryLocationName": repository["location"]["name"],
            "sensorName": repository["sensors"][0]["name"],
        }
        tick = ask(address, TICK, selector=selector)["sensorDryRun"]["evaluationResult"]
        assert tick["error"] is None
        assert "recorded by the Dagster step that started it" in tick["skipReason"]


@pytest.mark.nightly
def test_a_fresh_project_offline(shell: Shell, sandbox: Sandbox) -> None:
    """After the first refresh, with no dbt Cloud at the address of the YAML."""
    shell.dg("utils", "refresh-defs-state")
    yaml = shell.root / "src" / "shop" / "defs" / "dbt" / "defs.yaml"
    yaml.write_text(yaml.read_text().replace(sandbox.url, "http://127.0.0.1:9"))
    shell.dg("check", "defs")
    assert "orders" in shell.dg("list", "defs", "--json")
    refused = shell.dg("utils", "refresh-defs-state", ok=False)
    assert "StateError" in refused
