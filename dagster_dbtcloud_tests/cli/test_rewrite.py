"""``migrate``: imports of dagster-dbt become ours, everything else stays as it is written."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dagster_dbtcloud
from dagster_dbtcloud import DbtCloudWorkspace, legacy
from dagster_dbtcloud.cli import rewrite
from dagster_dbtcloud.cli.rewrite import Uses, rewrite_python, rewrite_yaml, shared_move, uses_of
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud_tests.cli.console import Console


def rewritten(text: str) -> tuple[str, list[str]]:
    """Return the new text of a file by itself, and the reasons of what is left."""
    result = rewrite_python(text, shared=shared_move([], uses_of(text)))
    if not any("not Python" in each.reason for each in result.left):
        ast.parse(result.text)
    return result.text, [f"{each.line}: {each.reason}" for each in result.left]


def cases() -> Iterator[Any]:
    """Yield (before, after) of each case in rewrite_cases.txt."""
    text = (Path(__file__).parent / "rewrite_cases.txt").read_text(encoding="utf-8")
    for case in text.split("=== ")[1:]:
        name, _, content = case.partition("\n")
        before, _, after = content.partition("---\n")
        yield pytest.param(before, after, id=name)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize(("before", "after"), list(cases()))
def test_an_import_is_rewritten_where_it_stands(before: str, after: str, line_end: str) -> None:
    """Comments, order, line ends and everything else are kept, and nothing is left to do."""
    before, after = (text.replace("\n", line_end) for text in (before, after))
    assert rewritten(before) == (after, [])
    assert rewritten(after) == (after, [])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("from dagster_dbt.cloud_v2 import *", "everything (*)"),
        ("from dagster_dbt.cloud_v2.types import DbtCloudRun", "DbtCloudRun of"),
        ("from dagster_dbt import cloud_v2", "a module is imported"),
        ("import dagster_dbt\nf(dagster_dbt)\ndagster_dbt.DbtCloudWorkspace", "as a whole"),
        ("import dagster_dbt as d\nd.DbtCloudWorkspace\nd.dbt_assets", "d stands for names"),
        ("x = 1; from dagster_dbt import DbtCloudWorkspace, dbt_assets", "by hand"),
        ("from dagster_dbt import (DbtCloudWorkspace, # a\n dbt_assets)", "by hand"),
        ("patch('dagster_dbt.cloud_v2.DbtCloudWorkspace')", "a text names"),
        ("import_module('dagster_dbt.cloud_v2.resources')", "a text names"),
        ("from dagster_dbt import DagsterDbtCloudJobInvariantViolationError", "DbtCloudError"),
        ("from dagster_dbt import (", "not Python"),
        ("\0", "not Python"),
    ],
)
def test_what_needs_a_person_is_said_and_left(text: str, reason: str) -> None:
    """With the line, and without touching it."""
    after, left = rewritten(text)
    assert after == text
    assert any(reason in each for each in left)


def test_methods_of_other_names_are_pointed_at() -> None:
    """Each with its name here, which is one; the older API has some of them, and keeps them."""
    calls = (
        "manifest = workspace.get_or_fetch_workspace_data().manifest\n"
        "DbtCloudCliInvocation.run(1)\n"
        "(client.\n list_jobs())\n"
        "other.run()\n"
    )
    _, left = rewritten(f"from dagster_dbt.cloud_v2.resources import DbtCloudWorkspace\n{calls}")
    assert [each.partition(" has")[0] for each in left] == [
        "2: get_or_fetch_workspace_data",
        "3: DbtCloudCliInvocation.run",
        "5: list_jobs",
    ]
    assert "workspace.load_state()" in left[0]
    _, left = rewritten(f"from dagster_dbt import DbtCloudClientResource\n{calls}")
    assert left == []
    for advice in rewrite._METHODS.values():
        for owner, name in re.findall(r"(workspace|client)\.(\w+)\(", advice):
            assert hasattr(DbtCloudWorkspace if owner == "workspace" else DbtCloudClient, name)


def test_keys_of_other_names_are_pointed_at() -> None:
    """Where dbt Cloud's assets have them; those of dbt Core keep theirs."""
    text = 'from dagster_dbt import {}\nfind = spec.metadata["dagster_dbt/unique_id"]\n'
    _, left = rewritten(text.format("dbt_cloud_assets"))
    assert left == ["2: the key dagster_dbt/unique_id is dagster_dbtcloud/unique_id here"]
    assert rewritten(text.format("dbt_assets"))[1] == []


def test_names_that_are_not_here_do_not_make_it_core() -> None:
    """What belongs to dbt Cloud's modules says what the shared names are for."""
    text = (
        "from dagster_dbt import DagsterDbtTranslator\n"
        "from dagster_dbt.cloud_v2.types import DbtCloudRun\n"
    )
    after, left = rewritten(text)
    assert after.startswith("from dagster_dbtcloud import DagsterDbtTranslator\n")
    assert [each.partition(" ")[2].split()[0] for each in left] == ["DbtCloudRun"]


def test_names_for_core_and_cloud_alike_are_asked_about() -> None:
    """The translator of a file that uses both may be either's."""
    text = "from dagster_dbt import DagsterDbtTranslator, DbtCloudWorkspace, dbt_assets\n"
    after, left = rewritten(text)
    assert after == (
        "from dagster_dbt import DagsterDbtTranslator, dbt_assets\n"
        "from dagster_dbtcloud import DbtCloudWorkspace\n"
    )
    assert left[0].startswith("1: DagsterDbtTranslator may be meant for dbt Core or for dbt Cloud")


@pytest.mark.parametrize(
    ("others", "moves"),
    [([Uses(True, False)], True), ([Uses(True, True)], False), ([Uses(False, False)], False)],
)
def test_a_file_with_shared_names_alone_goes_with_the_others(
    others: list[Uses], moves: bool
) -> None:
    """A module of translators belongs to what the project uses."""
    assert shared_move(others, uses_of("from dagster_dbt import DagsterDbtTranslator")) is moves


def test_component_types_are_rewritten() -> None:
    """In any of the forms that YAML has for a text."""
    text = (
        "type: dagster_dbt.DbtCloudComponent  # ours\n---\n"
        "components:\n  - type: 'dagster_dbt.cloud_v2.component.DbtCloudComponent'\n"
        "    type: dagster_dbt.DbtProjectComponent\n"
        "    type: dagster_dbt.cloud_v2.Other\n"
        "description: 'type: dagster_dbt.DbtCloudComponent'\n"
    )
    result = rewrite_yaml(text)
    assert result.text == text.replace(
        "type: dagster_dbt.DbtCloudComponent  #", "type: dagster_dbtcloud.DbtCloudComponent  #"
    ).replace("dagster_dbt.cloud_v2.component.", "dagster_dbtcloud.")
    assert [each.line for each in result.left] == [6, 7]
    for text in (
        "type: dagster_dbt.DbtCloudComponent\r\n",
        '- type: "dagster_dbt.DbtCloudComponent"',
    ):
        assert rewrite_yaml(text).text == text.replace("dagster_dbt.", "dagster_dbtcloud.")
    flow = rewrite_yaml("{type: dagster_dbt.DbtCloudComponent}")
    assert "place of its own" in flow.left[0].reason


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of somebody else's."""
    folder = tmp_path / "shop"
    (folder / ".venv").mkdir(parents=True)
    (folder / "defs").mkdir()
    (folder / ".venv" / "a.py").write_text("from dagster_dbt import DbtCloudWorkspace\n")
    (folder / "a.py").write_bytes(
        b"# -*- coding: latin-1 -*-\r\nfrom dagster_dbt import DbtCloudWorkspace # \xe9\r\n"
    )
    (folder / "t.py").write_text("from dagster_dbt import DagsterDbtTranslator\n")
    (folder / "defs" / "defs.yaml").write_text("type: dagster_dbt.DbtCloudComponent\n")
    return folder


def test_without_write_a_diff_is_printed(alone: Console, project: Path) -> None:
    """And no file is touched; the exit code is 0, since nothing is left to a person."""
    before = {path: path.read_bytes() for path in project.rglob("*.*") if path.is_file()}
    ended = alone("migrate", project)
    assert ended.code == 0
    assert ended.out.count("\n+from dagster_dbtcloud import") == 2
    assert "3 files to change" in ended.err
    assert before == {path: path.read_bytes() for path in before}


def test_with_write_files_change_in_their_own_encoding(alone: Console, project: Path) -> None:
    """Once: the second time there is nothing to do."""
    assert alone("migrate", project, "--write").code == 0
    assert (project / "a.py").read_bytes() == (
        b"# -*- coding: latin-1 -*-\r\nfrom dagster_dbtcloud import DbtCloudWorkspace # \xe9\r\n"
    )
    assert "dagster_dbtcloud" in (project / "t.py").read_text()
    assert "dagster_dbtcloud" in (project / "defs" / "defs.yaml").read_text()
    assert "dagster_dbtcloud" not in (project / ".venv" / "a.py").read_text()
    again = alone("migrate", project, "--write")
    assert (again.code, again.out) == (0, "")
    assert "0 files changed, 0 places to look at" in again.err


def test_the_exit_code_tells_that_a_person_is_needed(alone: Console, project: Path) -> None:
    """file:line: reason, as compilers say it; requirements are never changed."""
    (project / "b.py").write_text("\nfrom dagster_dbt.cloud_v2.types import DbtCloudRun\n")
    (project / "pyproject.toml").write_text('dependencies = [\n  "dagster-dbt>=0.26",\n]\n')
    ended = alone("migrate", project, "--write")
    assert ended.code == 1
    assert f"{project}/b.py:2: DbtCloudRun of dagster_dbt.cloud_v2.types" in ended.err
    assert f"{project}/pyproject.toml:2: require dagster-dbtcloud" in ended.err


def test_what_is_found_in_a_real_tree(alone: Console, project: Path) -> None:
    """Environments of any name are passed by; what cannot be changed is pointed at."""
    line = "from dagster_dbt import DbtCloudWorkspace\n"
    (project / "my_env" / "lib").mkdir(parents=True)
    (project / "my_env" / "pyvenv.cfg").touch()
    (project / "my_env" / "lib" / "a.py").write_text(line)
    (project / "stub.pyi").write_text(line)
    (project / "inside.py").symlink_to(project / "a.py")
    (project / "gone.py").symlink_to(project / "nowhere.py")
    (project.parent / "outside.py").write_text(line)
    (project / "link.py").symlink_to(project.parent / "outside.py")
    (project / "bad.py").write_bytes(line.encode() + b"# \xff")
    (project / "note.ipynb").write_text(
        '{"source": [\n"from dagster_dbt import DbtCloudWorkspace"]}'
    )
    (project / "requirements").mkdir()
    for name in ("requirements/base.txt", "requirements-dev.txt", "Pipfile"):
        (project / name).write_text("x\ndagster-dbt==0.28\n")
    ended = alone("migrate", project, "--write")
    assert ended.code == 1
    said = {each.split(": ")[0]: each for each in ended.err.splitlines()[:-1]}
    assert {place.removeprefix(f"{project}/") for place in said} == {
        "link.py:1",
        "bad.py:1",
        "note.ipynb:2",
        "requirements/base.txt:2",
        "requirements-dev.txt:2",
        "Pipfile:2",
    }
    assert (project.parent / "outside.py").read_text() == line
    assert (project / "my_env" / "lib" / "a.py").read_text() == line
    assert "dagster_dbtcloud" in (project / "stub.pyi").read_text()


def test_every_name_that_moves_is_there() -> None:
    """A rewritten import works."""
    for name, module in rewrite._CLOUD.items():
        assert name in (dagster_dbtcloud if module == rewrite.NEW else legacy).__all__
    assert set(dagster_dbtcloud.__all__) >= rewrite._SHARED
