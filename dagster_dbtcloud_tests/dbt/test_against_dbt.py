"""The selection engine against real dbt, on the selection zoo."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from dagster_dbtcloud.commands import nodes_of, words_of
from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.dbt.selection import select
from dagster_dbtcloud.errors import SelectionError
from dagster_dbtcloud_tests.dbt.cases import CASES, read_cases, read_lines, select_as_dbt_ls
from dagster_dbtcloud_tests.dbt.generated import Generator
from dagster_dbtcloud_tests.dbt.oracle import Oracle, Refused

APART = {"errors", "known_differences", "runs"}
THEMES = sorted({path.stem for path in CASES.glob("*.txt")} - APART)
HOLLOW = "model.helper.hollow_model"
"""Found by its folder by dbt alone; see known_differences.txt."""
COUNT = int(os.environ.get("DBTCLOUD_GENERATED_CASES", "200"))
SEED = int(os.environ.get("DBTCLOUD_GENERATED_SEED", "1"))
NIGHTLY_PARTS = 20
"""Each of 250 cases with a seed of its own, so that none comes near the time that a test has."""
USUAL_AND_NIGHTLY = pytest.mark.parametrize(
    ("count", "seed"),
    [
        pytest.param(COUNT, SEED, id="usual"),
        *(
            pytest.param(250, SEED + part, id=f"{part}", marks=pytest.mark.nightly)
            for part in range(1, NIGHTLY_PARTS + 1)
        ),
    ],
)


@pytest.mark.parametrize("args", [a for theme in THEMES for a in read_cases(theme)], ids=" ".join)
def test_it_selects_what_dbt_selects(oracle: Oracle, zoo: Manifest, args: list[str]) -> None:
    """Every case of the case files gives the very set that ``dbt ls`` gives."""
    assert select_as_dbt_ls(zoo, args) == oracle.ls(args)


@pytest.mark.parametrize("args", read_cases("errors"), ids=" ".join)
def test_it_refuses_what_dbt_refuses(oracle: Oracle, zoo: Manifest, args: list[str]) -> None:
    """What dbt has no answer for is a SelectionError."""
    with pytest.raises(Refused):
        oracle.ls(args)
    with pytest.raises(SelectionError):
        select_as_dbt_ls(zoo, args)


@pytest.mark.parametrize("line", read_lines("runs"))
def test_a_command_runs_what_dbt_runs(oracle: Oracle, zoo: Manifest, line: str) -> None:
    """What a job's command would build or check is what dbt's own task for it would."""
    assert nodes_of(zoo, line) == frozenset(oracle.command(words_of(line)))


@pytest.mark.parametrize("args", read_cases("known_differences"), ids=" ".join)
def test_a_difference_is_still_one(oracle: Oracle, zoo: Manifest, args: list[str]) -> None:
    """What docs/selection.md lists as different is; if it no longer is, the list is wrong."""
    assert _answer(partial(select_as_dbt_ls, zoo), args) != _answer(oracle.ls, args)


def test_every_yaml_selector_of_the_project_gives_what_dbt_gives(
    oracle: Oracle, zoo: Manifest
) -> None:
    """Each selector of selectors.yml, as the manifest holds it, selects as ``dbt ls`` does."""
    ours = {name: set(select(zoo, selector=name)) for name in zoo.selectors}
    theirs = {name: oracle.ls(["--selector", name]) for name in zoo.selectors}
    assert {n: s - _operations(zoo) for n, s in ours.items()} == theirs


def test_the_task_behind_dbt_ls_is_dbt_ls(oracle: Oracle) -> None:
    """The quick way of asking dbt gives what the whole command gives."""
    for theme in THEMES:
        for args in read_cases(theme)[::40]:
            assert oracle.ls(args) == oracle.runner(args)


@USUAL_AND_NIGHTLY
def test_generated_selections_give_what_dbt_gives(
    oracle: Oracle, zoo: Manifest, count: int, seed: int
) -> None:
    """Random command lines, hundreds or (DBTCLOUD_GENERATED_CASES) thousands, never differ."""
    generator = Generator(zoo, seed=seed)
    differing = []
    for _ in range(count):
        args = generator.options()
        theirs = _answer(oracle.ls, args)
        ours = _answer(partial(select_as_dbt_ls, zoo), args)
        if _differ(ours, theirs):
            differing.append((shlex.join(args), ours, theirs))
    assert differing == []


@USUAL_AND_NIGHTLY
def test_generated_yaml_selectors_give_what_dbt_gives(
    oracle: Oracle, zoo: Manifest, count: int, seed: int
) -> None:
    """Random YAML selectors, as dbt writes them into the manifest, never differ."""
    generator = Generator(zoo, seed=seed)
    differing = []
    for _ in range(max(1, count // 100)):
        selectors = generator.selectors(20)
        with oracle.other_selectors(selectors) as written:
            manifest = Manifest.from_dict({**zoo.raw, "selectors": written}, origin="generated")
            for selector in selectors:
                args = ["--selector", selector["name"]]
                theirs = _answer(oracle.ls, args)
                ours = _answer(partial(select_as_dbt_ls, manifest), args)
                if _differ(ours, theirs):
                    differing.append((selector, ours, theirs))
    assert differing == []


def test_a_default_yaml_selector_stands_in_as_in_dbt(oracle: Oracle, zoo: Manifest) -> None:
    """With neither select nor exclude it is the selection; the mode of the command counts too."""
    selectors: list[dict[str, Any]] = [
        {"name": "other", "definition": "tag:raw"},
        {"name": "usual", "definition": "orders", "default": True},
    ]
    with oracle.other_selectors(selectors) as written:
        manifest = Manifest.from_dict({**zoo.raw, "selectors": written}, origin="generated")
        for line in ("", "--exclude stg_orders", "--select customers", "--selector other", *MODES):
            args = shlex.split(line)
            assert select_as_dbt_ls(manifest, args) == oracle.ls(args)


def test_an_exclude_written_first_is_refused_not_misread(oracle: Oracle, zoo: Manifest) -> None:
    """dbt loses the rest of such a criterion on the way into the manifest; we say so."""
    definition = {"exclude": ["orders"], "method": "tag", "value": "nightly"}
    with oracle.other_selectors([{"name": "s", "definition": definition}]) as written:
        assert oracle.ls(["--selector", "s"])
        manifest = Manifest.from_dict({**zoo.raw, "selectors": written}, origin="generated")
        with pytest.raises(SelectionError, match="write method and value before exclude"):
            select_as_dbt_ls(manifest, ["--selector", "s"])


MODES = [f"--indirect-selection {mode}" for mode in ("cautious", "buildable", "empty")]


def _operations(manifest: Manifest) -> set[str]:
    """Hooks are selectable, but ``dbt ls`` never lists them."""
    return {i for i, node in manifest.nodes.items() if node.resource_type == "operation"}


def _differ(ours: set[str] | str, theirs: set[str] | str) -> bool:
    if isinstance(ours, str) or isinstance(theirs, str):
        return ours != theirs
    return ours ^ theirs not in (set(), {HOLLOW})


def _answer(ask: Callable[[list[str]], set[str]], args: list[str]) -> set[str] | str:
    try:
        return ask(args)
    except (Refused, SelectionError):
        return "refused"
