"""``init``: a project that Dagster loads as it is written."""

from __future__ import annotations

import os
import runpy
import stat
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import tomli

from dagster_dbtcloud_tests.cli.console import Console
from dagster_dbtcloud_tests.stage import Stage

SCRIPTS = Path(sys.executable).parent
FOUND = ("DBT_CLOUD_ACCOUNT_ID", "DBT_CLOUD_PROJECT_ID", "DBT_CLOUD_ENVIRONMENT_ID")


@pytest.fixture(params=["run", "watch"])
def project(request: pytest.FixtureRequest, stage: Stage, console: Console, tmp_path: Path) -> Path:
    """What ``init`` writes of a folder's name and a token."""
    stage.built()
    folder = tmp_path / "My Shop"
    words = ["--watch-only"] if request.param == "watch" else []
    ended = console("init", folder, "--write-token", *words, **dict.fromkeys(FOUND, ""))
    assert ended.code == 0, ended.err
    assert f"{folder}/my_shop/definitions.py" in ended.out.splitlines()
    return folder


def test_the_project_loads(
    stage: Stage, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing but the variables that it wrote."""
    lines = (project / ".env").read_text().splitlines()
    for line in lines:
        if not line.startswith("#"):
            monkeypatch.setenv(*line.split("=", 1))
    monkeypatch.setenv("DAGSTER_DBTCLOUD_CACHE_DIR", str(tmp_path / "cache"))
    defs = runpy.run_path(str(project / "my_shop" / "definitions.py"))["defs"]
    dg.Definitions.validate_loadable(defs)
    assert set(defs.resolve_all_asset_keys()) >= {
        spec.key for spec in stage.workspace().load_asset_specs()
    }
    tool = tomli.loads((project / "pyproject.toml").read_text())["tool"]
    assert tool["dagster"]["module_name"] == "my_shop.definitions"
    assert tool["dg"]["project"]["root_module"] == "my_shop"


@pytest.mark.nightly
@pytest.mark.parametrize(
    "command", [["dagster", "definitions", "validate"], ["dg", "check", "defs"]], ids=" ".join
)
def test_dagsters_own_tools_find_it_valid(
    project: Path, tmp_path: Path, command: list[str]
) -> None:
    """As a user would call them."""
    variables = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    variables |= {"HOME": str(tmp_path), "DAGSTER_DBTCLOUD_CACHE_DIR": str(tmp_path / "cache")}
    variables["PATH"] = f"{SCRIPTS}:{os.environ['PATH']}"
    checked = subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_token_is_kept_only_where_that_is_wanted(
    stage: Stage, console: Console, tmp_path: Path
) -> None:
    """In one file that only the user reads and git ignores; without a terminal it is not."""
    for words, kept in (([], False), (["--write-token"], True)):
        folder = tmp_path / f"shop{len(words)}"
        assert console("init", folder, *words).code == 0
        holding = [
            path.name
            for path in folder.rglob("*")
            if path.is_file() and stage.sandbox.token in path.read_text()
        ]
        assert holding == ([".env"] if kept else [])
        assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
        assert ".env" in (folder / ".gitignore").read_text().split()


def test_a_terminal_is_asked_what_is_not_clear(
    stage: Stage, console: Console, tmp_path: Path
) -> None:
    """By number; without a terminal the choices are listed."""
    second = stage.sandbox.create_project("second")
    stage.sandbox.create_environment("Here", project_id=second, deployment_type="production")
    without = dict.fromkeys(FOUND, "")
    ended = console("init", tmp_path / "shop", **without)
    assert ended.code == 2
    assert f"second ({second})" in ended.err
    ended = console.on_terminal("init", tmp_path / "shop", typed="2\nn\n", **without)
    assert ended.code == 0, ended.plain
    assert "Which project?" in ended.plain
    written = (tmp_path / "shop" / ".env").read_text()
    assert f"DBT_CLOUD_PROJECT_ID={second}\n" in written


@pytest.mark.parametrize(
    ("name", "reason"),
    [("dagster", "such as my_dagster"), ("json", "such as my_json"), ("Class", "--name")],
)
def test_no_package_is_put_in_the_place_of_another(
    console: Console, tmp_path: Path, name: str, reason: str
) -> None:
    """A project named dagster hides Dagster, and replaces it where pip installs the project."""
    ended = console("init", tmp_path / name)
    assert ended.code == 2
    assert reason in ended.err
    assert not (tmp_path / name).exists()
    assert console("init", tmp_path / name, "--name", "our_shop").code == 0


def test_nothing_that_exists_is_touched(console: Console, tmp_path: Path) -> None:
    """All or nothing."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / ".env").write_text("mine")
    ended = console("init", tmp_path / "shop")
    assert ended.code == 2
    assert ".env exists already" in ended.err
    assert [path.name for path in (tmp_path / "shop").iterdir()] == [".env"]
    assert (tmp_path / "shop" / ".env").read_text() == "mine"
