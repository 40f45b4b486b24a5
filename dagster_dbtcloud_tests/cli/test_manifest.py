"""``manifest``, ``select``, ``assets`` and ``artifacts``: what is told, and what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.dbt.selection import LIST_TYPES, select
from dagster_dbtcloud.sandbox import PastStep
from dagster_dbtcloud_tests.cli.console import Console
from dagster_dbtcloud_tests.stage import Stage


@pytest.fixture
def file(stage: Stage, tmp_path: Path) -> Path:
    """The manifest on this machine."""
    path = tmp_path / "manifest.json"
    path.write_bytes(stage.manifest)
    return path


def test_the_manifest_is_told_written_and_printed(
    stage: Stage, console: Console, tmp_path: Path
) -> None:
    """To the byte."""
    run = stage.built()
    told = json.loads(console("manifest", "--json").out)
    assert told["run_id"] == run
    assert told["digest"] == Manifest.from_bytes(stage.manifest, origin="a test").digest
    target = tmp_path / "m.json"
    assert console("manifest", "-o", target).code == 0
    assert target.read_bytes() == stage.manifest
    assert console("manifest", "-o", "-").out.encode() == stage.manifest


def test_the_manifest_of_a_run_that_is_named(stage: Stage, console: Console) -> None:
    """Also of one that is not production's newest."""
    first = stage.built(stage.another_manifest())
    stage.built()
    assert console("manifest", "--run", first, "-o", "-").out.encode() == stage.another_manifest()
    ended = console("manifest", "--run", "7")
    assert (ended.code, ended.out) == (2, "")


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ([], {}),
        (["orders+"], {"select": ["orders+"]}),
        (["+orders", "customers"], {"select": ["+orders", "customers"]}),
        (["--exclude", "resource_type:test"], {"exclude": "resource_type:test"}),
        (
            ["orders", "--indirect-selection", "empty"],
            {"select": "orders", "indirect_selection": "empty"},
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_select_means_what_the_library_means(
    stage: Stage, alone: Console, file: Path, words: list[str], options: dict[str, Any]
) -> None:
    """A file needs neither dbt Cloud nor a token."""
    ended = alone("select", *words, "--manifest", file)
    manifest = Manifest.from_bytes(stage.manifest, origin="a test")
    wanted = select(manifest, resource_types=LIST_TYPES, **options)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines() == sorted(wanted)
    assert ended.out


def test_select_warns_of_what_matches_nothing(alone: Console, file: Path) -> None:
    """As dbt does; an empty answer is not a failure."""
    ended = alone("select", "ordres", "--manifest", file)
    assert (ended.code, ended.out) == (0, "")
    assert "Did you mean 'orders'" in ended.err
    assert "Nothing is selected." in ended.err


def test_select_knows_types_and_an_earlier_state(alone: Console, file: Path) -> None:
    """``--resource-type``, ``--exclude-resource-type`` and ``--state``, as dbt has them."""

    def types(*options: str) -> set[str]:
        ended = alone("select", *options, "--manifest", file)
        return {line.partition(".")[0] for line in ended.out.splitlines()}

    assert types("--resource-type", "model") == {"model"}
    assert types() - types("--exclude-resource-type", "test") == {"test"}
    assert types("--resource-type", "all") == types("--resource-type", "default")
    same = alone("select", "state:modified", "--state", file, "--manifest", file)
    assert same.out == ""


def test_assets_are_those_of_the_code_location(stage: Stage, console: Console) -> None:
    """Keys, dependencies and checks, from the environment's manifest."""
    stage.built()
    found = {each["key"]: each for each in json.loads(console("assets", "--json").out)}
    workspace = stage.workspace()
    specs = workspace.load_specs()
    assert set(found) == {spec.key.to_user_string() for spec in specs.asset_specs}
    assert sum(len(each["checks"]) for each in found.values()) == len(specs.check_specs)
    only = json.loads(console("assets", "orders", "--json").out)
    assert [each["unique_id"] for each in only] == ["model.tiny.orders"]


def test_artifacts_are_listed_and_downloaded(
    stage: Stage, console: Console, tmp_path: Path
) -> None:
    """All, some, of one step, or one to stdout."""
    compiled = "compiled/tiny/models/orders.sql"
    run = stage.put(
        PastStep("dbt build", artifacts={"manifest.json": stage.manifest, compiled: "select 1"}),
        PastStep("dbt docs generate", artifacts={"catalog.json": {"nodes": {}}}),
    )
    assert console("artifacts", "list", run).out.split() == ["catalog.json"]
    both = console("artifacts", "list", run, "--step", 4).out.split()
    assert sorted(both) == [compiled, "manifest.json"]
    target = tmp_path / "kept"
    ended = console("artifacts", "download", run, "--step", 4, "-o", target)
    assert sorted(ended.out.split()) == [str(target / path) for path in sorted(both)]
    assert (target / compiled).read_text() == "select 1"
    piped = console("artifacts", "download", run, "catalog.json", "-o", "-")
    assert json.loads(piped.out) == {"nodes": {}}
    assert json.loads(console("artifacts", "list", run, "--json").out) == ["catalog.json"]


@pytest.mark.parametrize("path", ["nope.json", "../secret", "/etc/hosts"])
def test_an_artifact_that_is_not_there(
    stage: Stage, console: Console, tmp_path: Path, path: str
) -> None:
    """One line, and nothing is written, inside or outside of the folder."""
    ended = console("artifacts", "download", stage.built(), path, "-o", tmp_path / "kept")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    assert not (tmp_path / "kept").exists()
