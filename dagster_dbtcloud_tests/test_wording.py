"""How a part of a definition is said back to dbt: in few words, and exactly."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.dbt.selection import select as select_nodes
from dagster_dbtcloud.errors import SelectionError
from dagster_dbtcloud.specs import DbtSpecs, build_specs
from dagster_dbtcloud.translator import (
    DagsterDbtTranslator,
    DagsterDbtTranslatorSettings,
)
from dagster_dbtcloud.wording import SHORT_ENOUGH, node_args, unit_tests_alone
from dagster_dbtcloud_tests import spec_zoo
from dagster_dbtcloud_tests.spec_zoo import (
    LEDGER,
    ORDER_OF_LEDGER,
    ORDER_OF_SUMMARY,
    ORDERS,
    SOURCE_TEST,
    STG_ORDERS,
    UNIQUE_ORDER,
    UNIT_TEST,
    built,
)

HASHED = (
    "test.spec_zoo.accepted_values_stg_orders_status__placed__shipped__completed__return_pending__"
    "returned__lost_in_the_post.bf97c0c3ce"
)

NO_CHECKS = DagsterDbtTranslatorSettings(enable_asset_checks=False)


@pytest.fixture(scope="module")
def zoo() -> Manifest:
    return spec_zoo.manifest()


@pytest.fixture(scope="module")
def specs(zoo: Manifest) -> DbtSpecs:
    return build_specs(zoo, translator=DagsterDbtTranslator())


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, "--select fqn:*"),
        ({"select": ""}, "--select fqn:*"),
        ({"select": "tag:a  tag:b,tag:c"}, "--select tag:a tag:b,tag:c"),
        ({"exclude": "a b"}, "--select fqn:* --exclude a b"),
        ({"select": "fqn:*", "selector": "nightly_marts"}, "--selector nightly_marts"),
    ],
)
def test_the_whole_is_said_as_the_definition_says_it(
    specs: DbtSpecs, own: dict[str, Any], expected: str
) -> None:
    """With or without the checks of sources, which Dagster leaves out of "materialize all"."""
    assert node_args(specs, {*specs.asset_keys, *specs.check_keys}, **own) == tuple(
        expected.split()
    )
    keys = set(specs.asset_keys.values())
    checks = {i for i, key in specs.check_keys.items() if key.asset_key in keys}
    assert checks < specs.check_keys.keys()
    assert node_args(specs, {*specs.asset_keys, *checks}, **own) == tuple(expected.split())


SAID = {
    "a model whose name is also a folder": ([ORDERS], "marts.orders", "empty"),
    "the folder, and the model": (
        [ORDERS, "model.spec_zoo.orders_daily", "model.spec_zoo.orders_by_status"],
        "orders orders_by_status orders_daily",
        "empty",
    ),
    "a model without its unit test and tests": ([STG_ORDERS], "stg_orders", "empty"),
    "a model with all that dbt runs with it": (
        [LEDGER, ORDER_OF_LEDGER, "test.spec_zoo.totals_match_ledger"],
        "ledger",
        "eager",
    ),
    "a model with its own checks": (
        [LEDGER, ORDER_OF_LEDGER],
        "ledger has_an_order,ledger+1",
        "empty",
    ),
    "one version": (["model.spec_zoo.dim_customers.v1"], "dim_customers.v1", "empty"),
    "one check of two of its name": ([ORDER_OF_SUMMARY], "has_an_order,ledger_summary+1", "empty"),
    "both of them": ([ORDER_OF_LEDGER, ORDER_OF_SUMMARY], "has_an_order", "empty"),
    "a unit test of one version": (
        ["unit_test.spec_zoo.dim_customers.names_are_kept_v2"],
        "names_are_kept,dim_customers.v2+1",
        "empty",
    ),
    "a test whose alias is hashed": ([HASHED], HASHED.split(".")[2], "empty"),
    "a check of a source": ([SOURCE_TEST], "source_unique_raw_raw_orders_id", "empty"),
    "a seed named like a source": (["seed.spec_zoo.raw_orders"], "raw_orders", "empty"),
    "a snapshot and a check": (
        ["snapshot.spec_zoo.orders_history", UNIQUE_ORDER],
        "orders_history unique_orders_order_id",
        "empty",
    ),
}


@pytest.mark.parametrize("case", SAID)
def test_a_part_is_said_as_shortly_as_is_exact(specs: DbtSpecs, case: str) -> None:
    """In names where names are enough."""
    unique_ids, words, mode = SAID[case]
    args = node_args(specs, unique_ids)
    assert args == ("--select", *words.split(), "--indirect-selection", mode)


@pytest.mark.parametrize("case", SAID)
def test_dbt_takes_the_part_as_we_do(specs: DbtSpecs, case: str) -> None:
    """Real dbt, asked with the same arguments."""
    unique_ids, *_ = SAID[case]
    found = spec_zoo.oracle().ls(list(node_args(specs, unique_ids)))
    assert found == set(unique_ids)


def test_dbt_runs_just_the_part(specs: DbtSpecs) -> None:
    """Real dbt, running: a model without its checks, and checks without their model."""
    checks = sorted([HASHED, SOURCE_TEST, UNIT_TEST])
    args = node_args(specs, checks)
    model, build, test = dbt_runs(
        ["build", *node_args(specs, [STG_ORDERS])], ["build", *args], ["test", *args]
    )
    assert model == {STG_ORDERS: "success"}
    assert test == dict.fromkeys(checks, "pass")
    passed_over = unit_tests_alone(specs.manifest, checks)
    assert passed_over == {UNIT_TEST}
    assert build.keys() == set(checks) - passed_over


def test_a_unit_test_beside_its_model_is_not_alone(zoo: Manifest) -> None:
    """``dbt build`` runs it before the model."""
    assert unit_tests_alone(zoo, [STG_ORDERS, UNIT_TEST, HASHED]) == frozenset()


def dbt_runs(*commands: list[str]) -> list[dict[str, str]]:
    """Return the status of each node that each dbt command ran, after ``dbt seed``."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, json.dumps([["seed"], *commands])],
        cwd=spec_zoo.oracle().dir,
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    return found[1:]


RUN = """
import json, sys
from dbt.cli.main import dbtRunner
runs = [
    dbtRunner().invoke(["--quiet", *args]).result.results
    for args in json.loads(sys.argv[1])
]
print(json.dumps([
    {r.node.unique_id: str(r.status) for r in sorted(run, key=lambda r: r.node.unique_id)}
    for run in runs
]))
"""


def assert_exact(specs: DbtSpecs, wanted: set[str], args: tuple[str, ...]) -> None:
    """Assert that our engine takes from the definition just what was wanted."""
    options: dict[str, list[str]] = {}
    for word in args:
        if word.startswith("--"):
            options[word] = values = []
        else:
            values.append(word)
    (mode,) = options.get("--indirect-selection", ["eager"])
    found = select_nodes(
        specs.manifest,
        select=options["--select"],
        exclude=options.get("--exclude", []),
        indirect_selection=mode,
    )
    assert found & (specs.asset_keys.keys() | specs.check_keys.keys()) == wanted


@pytest.mark.parametrize("seed", range(40))
def test_any_part_is_said_exactly(specs: DbtSpecs, seed: int) -> None:
    """Whatever a user picks."""
    dice = random.Random(seed)  # noqa: S311
    all_ids = sorted({*specs.asset_keys, *specs.check_keys})
    wanted = set(dice.sample(all_ids, dice.randint(1, len(all_ids) - 10)))
    assert_exact(specs, wanted, node_args(specs, wanted))


@pytest.fixture(scope="module")
def many() -> DbtSpecs:
    """A thousand models in five folders, each with a test."""

    def change(raw: dict[str, Any]) -> None:
        test = raw["nodes"][UNIQUE_ORDER]
        spec_zoo.chain(1_000)(raw)
        for number in range(1_000):
            unique_id, name = f"test.big.t.{number:010x}", f"unique_m{number}_id"
            raw["nodes"][unique_id] = {
                **test,
                "unique_id": unique_id,
                "package_name": "big",
                "name": name,
                "fqn": ["big", f"folder{number % 5}", name],
                "attached_node": f"model.big.m{number}",
                "depends_on": {"nodes": [f"model.big.m{number}"]},
            }

    return built(spec_zoo.changed(change))


def folder(specs: DbtSpecs, *numbers: int) -> set[str]:
    wanted = {f"folder{number}" for number in numbers}
    return {i for i, node in specs.manifest.nodes.items() if node.fqn[1] in wanted}


LONG: dict[str, tuple[Callable[[DbtSpecs], set[str]], str, str]] = {
    "assets without checks": (
        lambda specs: set(specs.asset_keys),
        "--select big,resource_type:model",
        "empty",
    ),
    "checks without assets": (
        lambda specs: set(specs.check_keys),
        "--select big,resource_type:test",
        "empty",
    ),
    "two folders": (
        lambda specs: folder(specs, 1, 3),
        "--select big.folder1 big.folder3",
        "empty",
    ),
    "two folders without their checks": (
        lambda specs: folder(specs, 1, 3) & specs.asset_keys.keys(),
        "--select big.folder1,resource_type:model big.folder3,resource_type:model",
        "empty",
    ),
    "all but one check": (
        lambda specs: {*specs.asset_keys, *specs.check_keys} - {f"test.big.t.{7:010x}"},
        "--select fqn:* --exclude unique_m7_id",
        "empty",
    ),
    "all but one model": (
        lambda specs: {*specs.asset_keys, *specs.check_keys} - {"model.big.m7"},
        "--select fqn:* --exclude m7",
        "empty",
    ),
}


@pytest.mark.parametrize("case", LONG)
def test_a_long_part_is_said_by_folders_or_by_what_is_missing(many: DbtSpecs, case: str) -> None:
    """A command must stay short enough to send and to read."""
    choose, words, mode = LONG[case]
    wanted = choose(many)
    args = node_args(many, wanted)
    assert_exact(many, wanted, args)
    assert args == (*words.split(), "--indirect-selection", mode)


def test_half_of_a_large_project_is_said_once_per_asset(many: DbtSpecs) -> None:
    """The checks of the assets go without saying."""
    models = set(random.Random(1).sample(sorted(many.asset_keys), 500))  # noqa: S311
    wanted = models | {i for i in many.check_keys if many.manifest.nodes[i].attached_node in models}
    args = node_args(many, wanted)
    assert_exact(many, wanted, args)
    assert len(args) == len(models) + 3
    assert len(" ".join(args)) > SHORT_ENOUGH


def test_the_own_selection_without_the_rest_needs_select(many: DbtSpecs) -> None:
    """dbt would silently ignore an ``--exclude`` beside a ``--selector``."""
    wanted = {*many.asset_keys, *many.check_keys} - {"model.big.m7"}
    args = node_args(many, wanted, selector="everything")
    assert "--selector" not in args
    assert_exact(many, wanted, args)


def test_tests_come_along_where_there_are_no_checks(zoo: Manifest) -> None:
    """The user said that tests are no checks, not that they should not run."""
    specs = build_specs(zoo, translator=DagsterDbtTranslator(NO_CHECKS))
    assert node_args(specs, [ORDERS]) == ("--select", "marts.orders")
    assert node_args(specs, specs.asset_keys) == ("--select", "fqn:*")


def test_names_that_a_command_line_cannot_hold_are_said_by_wildcards() -> None:
    """dbt has no quoting for blanks and commas."""

    def change(raw: dict[str, Any]) -> None:
        name = "is it unique, really?"
        raw["nodes"][UNIQUE_ORDER].update(name=name, fqn=["spec_zoo", "marts", name])

    specs = built(spec_zoo.changed(change))
    args = node_args(specs, [UNIQUE_ORDER])
    assert args[1] == "is?it?unique??really?"
    assert_exact(specs, {UNIQUE_ORDER}, args)


def test_names_like_files_are_said_as_names() -> None:
    """``x.sql`` alone would be a file to dbt."""

    def change(raw: dict[str, Any]) -> None:
        raw["nodes"][UNIQUE_ORDER].update(name="x.sql", fqn=["spec_zoo", "marts", "x.sql"])

    specs = built(spec_zoo.changed(change))
    assert node_args(specs, [UNIQUE_ORDER])[1] == "fqn:x.sql"


def test_tests_of_sources_with_one_name_are_told_apart_by_the_source() -> None:
    """As those of models are by the model."""

    def change(raw: dict[str, Any]) -> None:
        for unique_id, node in raw["nodes"].items():
            if unique_id.startswith("test.spec_zoo.source_unique_raw"):
                node.update(name="same", fqn=["spec_zoo", "staging", "same"])

    specs = built(spec_zoo.changed(change))
    args = node_args(specs, [SOURCE_TEST])
    assert args[1] == "same,source:spec_zoo.raw.raw_orders+1"
    assert_exact(specs, {SOURCE_TEST}, args)


def test_what_dbt_cannot_tell_apart_is_refused() -> None:
    """Same name, folder, type and parents; both together are fine."""
    twin = "test.spec_zoo.unique_orders_order_id.0000000000"

    def change(raw: dict[str, Any]) -> None:
        fqn = raw["nodes"][UNIQUE_ORDER]["fqn"]
        spec_zoo.put(raw, UNIQUE_ORDER, twin, upon=[ORDERS], fqn=fqn)

    specs = built(spec_zoo.changed(change))
    with pytest.raises(SelectionError, match="cannot tell these from other nodes") as caught:
        node_args(specs, [twin])
    assert twin in str(caught.value)
    assert_exact(specs, {twin, UNIQUE_ORDER}, node_args(specs, [twin, UNIQUE_ORDER]))


def test_nothing_selected_is_refused(specs: DbtSpecs) -> None:
    """dbt would take everything."""
    with pytest.raises(SelectionError, match="Nothing is selected"):
        node_args(specs, [])
