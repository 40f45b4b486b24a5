"""``state:`` against real dbt: the zoo compared with other manifests of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.dbt.selection import LIST_TYPES, select
from dagster_dbtcloud.errors import SelectionError
from dagster_dbtcloud_tests.dbt.builders import manifest_of, node
from dagster_dbtcloud_tests.dbt.generated import other_manifest
from dagster_dbtcloud_tests.dbt.oracle import Oracle

KINDS = [
    *("new", "old", "modified", "unmodified", "modified.body", "modified.configs"),
    *("modified.persisted_descriptions", "modified.relation", "modified.macros"),
    "modified.contract",
]
SELECTIONS = [*(f"state:{kind}" for kind in KINDS), "+state:modified,tag:marts state:new+1"]
DATED = {"model.zoo.metricflow_time_spine"}
"""dbt compares the date in its meta with the text that the other manifest has for it."""
ROUNDS = max(3, int(os.environ.get("DBTCLOUD_GENERATED_CASES", "0")) // 100)


def differing(oracle: Oracle, manifest: Manifest, other: Manifest, into: Path) -> list[object]:
    """Ask dbt and us what changed since ``other``; return where the answers differ."""
    (into / "manifest.json").write_text(json.dumps(other.raw), encoding="utf-8")
    types = [*LIST_TYPES, "analysis"]
    found: list[object] = []
    for text in SELECTIONS:
        theirs = oracle.ls(["--select", text, "--state", str(into)])
        ours = select(manifest, select=text, previous=other, resource_types=types)
        if (ours ^ theirs) - DATED:
            found.append((text, sorted(ours - theirs), sorted(theirs - ours)))
    return found


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_what_changed_is_what_dbt_says_changed(
    oracle: Oracle, zoo: Manifest, tmp_path: Path, seed: int
) -> None:
    """Manifests with random things otherwise give the sets that ``dbt ls --state`` gives."""
    raw = json.loads(oracle.manifest.read_bytes())
    other = Manifest.from_dict(other_manifest(raw, seed), origin="before")
    assert differing(oracle, zoo, other, tmp_path) == []


def test_a_date_in_the_configuration_is_no_change_here(
    oracle: Oracle, zoo: Manifest, tmp_path: Path
) -> None:
    """To dbt it always is one; the difference is on the list in docs/selection.md."""
    (tmp_path / "manifest.json").write_bytes(oracle.manifest.read_bytes())
    args = ["--select", "state:modified", "--indirect-selection", "empty"]
    assert oracle.ls([*args, "--state", str(tmp_path)]) == DATED
    assert not select(zoo, select="state:modified", previous=zoo)


def test_nothing_changed_since_the_same_manifest(zoo: Manifest) -> None:
    """A manifest compared with itself has all nodes old and unmodified."""
    for kind in KINDS:
        expected = set(zoo.nodes) if kind in ("old", "unmodified") else set()
        assert (
            select(zoo, select=f"state:{kind}", previous=zoo, indirect_selection="empty")
            == expected
        )


def test_a_changed_macro_changes_all_that_calls_it_however_far() -> None:
    """Callers of callers count, and a macro that is gone counts too."""

    def macro(sql: str, *calls: str) -> dict[str, object]:
        return {"macro_sql": sql, "depends_on": {"macros": list(calls)}}

    def calling(name: str) -> dict[str, object]:
        return {"nodes": [], "macros": [name]}

    nodes = [
        node("model.shop.a", depends_on=calling("macro.shop.top")),
        node("model.shop.b", depends_on=calling("macro.shop.gone")),
        node("model.shop.c", depends_on=calling("macro.shop.same")),
    ]
    top = macro("top", "macro.shop.low")
    same = macro("same", "macro.shop.same")
    new = {"macro.shop.top": top, "macro.shop.low": macro("new"), "macro.shop.same": same}
    old = {**new, "macro.shop.low": macro("old"), "macro.shop.gone": macro("gone")}
    now, before = (manifest_of(*nodes, macros=macros) for macros in (new, old))
    expected = {"model.shop.a", "model.shop.b"}
    assert select(now, select="state:modified.macros", previous=before) == expected
    assert select(now, select="state:modified", previous=before) == expected


def test_an_unknown_kind_of_change_is_refused() -> None:
    """The error points at it and names the close ones."""
    shop = manifest_of(node("model.shop.a"))
    with pytest.raises(SelectionError, match="Did you mean 'modified'") as refused:
        select(shop, select="a state:modifed+", previous=shop)
    assert refused.value.position == 8
