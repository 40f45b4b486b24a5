"""The copy of the project that runs see, and the profile written beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dagster_dbtcloud.sandbox import ProjectError
from dagster_dbtcloud.sandbox.checkout import needs_packages, sync, write_profile


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    for name, text in {
        "dbt_project.yml": "name: shop\nprofile: shop\ntarget-path: build\n",
        "models/a.sql": "select 1",
        "models/deep/b.sql": "select 2",
        "build/manifest.json": "{}",
        "logs/dbt.log": "",
        "dbt_packages/x/dbt_project.yml": "name: x",
        ".git/HEAD": "ref",
        "shop.duckdb": "rows",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_code_is_copied_and_nothing_else(project: Path, tmp_path: Path) -> None:
    """Not what dbt writes, not the warehouse, not git; packages only where they are wanted."""
    checkout = tmp_path / "checkout"
    sync(project, checkout)
    code = {"dbt_project.yml", "models/a.sql", "models/deep/b.sql"}
    assert files(checkout) == code
    (project / "packages.yml").write_text("packages:\n  - package: x/y\n")
    sync(project, checkout)
    assert files(checkout) == code | {"packages.yml", "dbt_packages/x/dbt_project.yml"}


def test_a_sync_follows_changes_and_keeps_what_runs_made(project: Path, tmp_path: Path) -> None:
    """Removed models go, a warehouse beside them stays; the commit id follows the content."""
    checkout = tmp_path / "checkout"
    first = sync(project, checkout)
    assert re.fullmatch("[0-9a-f]{40}", first)
    assert sync(project, checkout) == first
    (checkout / "relative.duckdb").write_text("rows")
    (project / "models/a.sql").write_text("select 11")
    (project / "models/deep/b.sql").unlink()
    assert sync(project, checkout) != first
    assert (checkout / "models/a.sql").read_text() == "select 11"
    assert files(checkout) == {"dbt_project.yml", "models/a.sql", "relative.duckdb"}
    (project / "models/a.sql").write_text("select 1")
    (project / "models/deep").mkdir(exist_ok=True)
    (project / "models/deep/b.sql").write_text("select 2")
    assert sync(project, checkout) == first


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("packages.yml", "packages: []", False),
        ("packages.yml", "packages: [{package: x/y}]", True),
        ("dependencies.yml", "projects: [{name: x}]", False),
        ("dependencies.yml", "packages: [{package: x/y}]", True),
        ("packages.yml", "{", True),
        ("packages.yml", "", False),
    ],
)
def test_packages_are_wanted_only_where_named(
    tmp_path: Path, name: str, text: str, wanted: bool
) -> None:
    """A malformed file is for dbt to complain about."""
    (tmp_path / name).write_text(text)
    assert needs_packages(tmp_path) is wanted


def profile(project: Path, target: str, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"threads": 3, "schema": None, **changes}
    folder = project.parent / "profiles"
    warehouse = project.parent / "w.duckdb"
    write_profile(project, folder, warehouse=warehouse, target_name=target, **settings)
    written = yaml.safe_load((folder / "profiles.yml").read_text())["shop"]
    assert isinstance(written, dict)
    return {"target": written["target"], **written["outputs"][written["target"]]}


def test_the_project_s_own_profile_is_used(project: Path) -> None:
    """Jinja stays as it is; threads and schema are replaced; other targets are there."""
    (project / "profiles.yml").write_text(
        "shop:\n  target: dev\n  outputs:\n"
        "    dev: {type: duckdb, path: \"{{ env_var('X') }}\", schema: main, threads: 1}\n"
        "    prod: {type: duckdb, path: p.duckdb, schema: prod}\n"
    )
    dev = {"type": "duckdb", "path": "{{ env_var('X') }}", "schema": "main", "threads": 3}
    assert profile(project, "default") == {"target": "dev", **dev}
    assert profile(project, "")["target"] == "dev"
    assert profile(project, "prod")["path"] == "p.duckdb"
    assert profile(project, "ci") == {"target": "ci", **dev}
    assert profile(project, "prod", schema="pr_5", threads=8)["schema"] == "pr_5"


def test_without_a_profile_the_sandbox_has_a_warehouse(project: Path) -> None:
    """DuckDB, in the file that the sandbox names."""
    found = profile(project, "default")
    assert (found["type"], found["path"]) == ("duckdb", str(project.parent / "w.duckdb"))


@pytest.mark.parametrize("text", ["{", "[]", "other: {outputs: {dev: {}}}", "shop: {target: dev}"])
def test_an_unusable_profile_is_named(project: Path, text: str) -> None:
    """The step's log shows the message."""
    (project / "profiles.yml").write_text(text)
    with pytest.raises(ProjectError, match=r"profiles\.yml"):
        profile(project, "default")
