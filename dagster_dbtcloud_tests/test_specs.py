"""Which specs a definition has, and how a part of them is said back to dbt."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dagster as dg
import pytest

from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.dbt.selection import select as select_nodes
from dagster_dbtcloud.errors import ConfigError, ManifestError, SelectionError
from dagster_dbtcloud.specs import (
    MANIFEST,
    SHORT_ENOUGH,
    UNIQUE_ID,
    DbtSpecs,
    build_specs,
    manifest_of,
    node_args,
    selection_args,
    specs_of,
    unit_tests_alone,
)
from dagster_dbtcloud.translator import (
    DagsterDbtTranslator,
    DagsterDbtTranslatorSettings,
    Props,
)
from dagster_dbtcloud_tests import spec_zoo
from dagster_dbtcloud_tests.spec_zoo import LEDGER, ORDERS, STG_ORDERS, UNIQUE_ORDER

RAW_ORDERS = "source.spec_zoo.raw.raw_orders"
RAW_CUSTOMERS = "source.spec_zoo.raw.raw_customers"
SOURCE_TEST = "test.spec_zoo.source_unique_raw_raw_orders_id.0de38b1856"
UNIT_TEST = "unit_test.spec_zoo.stg_orders.status_is_lowercased"
ORDER_OF_LEDGER = "test.spec_zoo.has_an_order.6d82a7f613"
ORDER_OF_SUMMARY = "test.spec_zoo.has_an_order.bfc2f2131c"
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


def built(manifest: Manifest, **selection: Any) -> DbtSpecs:
    return build_specs(manifest, translator=DagsterDbtTranslator(), **selection)


def names(specs: DbtSpecs) -> set[str]:
    return {check.name for check in specs.check_specs}


# -- which nodes have a spec ---------------------------------------------------------------------


def test_only_what_dbt_builds_is_an_asset(specs: DbtSpecs) -> None:
    """Models, seeds and snapshots, private ones and each version; nothing inlined or disabled."""
    assert set(specs.asset_keys) == {
        "model.spec_zoo.dim_customers.v1",
        "model.spec_zoo.dim_customers.v2",
        "model.spec_zoo.keyed",
        "model.spec_zoo.ledger",
        "model.spec_zoo.ledger_summary",
        "model.spec_zoo.orders",
        "model.spec_zoo.orders_by_status",
        "model.spec_zoo.orders_daily",
        "model.spec_zoo.rolling_totals",
        "model.spec_zoo.stg_customers",
        "model.spec_zoo.stg_orders",
        "seed.spec_zoo.countries",
        "seed.spec_zoo.raw_customers",
        "seed.spec_zoo.raw_orders",
        "seed.spec_zoo.raw_payments",
        "snapshot.spec_zoo.orders_history",
    }


def test_every_test_but_those_of_unread_sources_is_a_check(zoo: Manifest, specs: DbtSpecs) -> None:
    """Dagster has no place for a check of an asset that nothing in the definition reads."""
    tests = {i for i, node in zoo.nodes.items() if node.resource_type in ("test", "unit_test")}
    assert tests - specs.check_keys.keys() == {
        "test.spec_zoo.source_not_null_unused_nobody_reads_me_code.ca2351d3c9"
    }


def test_specs_and_keys_tell_the_same(specs: DbtSpecs) -> None:
    """Whoever has the one finds the other."""
    assert {s.metadata[UNIQUE_ID]: s.key for s in specs.asset_specs} == specs.asset_keys
    assert {c.metadata[UNIQUE_ID]: c.key for c in specs.check_specs} == specs.check_keys


@pytest.mark.parametrize(
    ("selection", "assets", "checks"),
    [
        ({"select": "ledger"}, {"ledger"}, {"has_an_order"}),
        ({"select": "tag:nightly", "exclude": "stg_customers keyed"}, {"orders"}, None),
        ({"selector": "nightly_marts"}, {"orders", "keyed"}, None),
        ({"select": "resource_type:seed"}, None, {"unique_countries_code"}),
        ({"select": "marts.orders", "exclude": "resource_type:test"}, {"orders"}, set()),
        ({"select": "tag:nobody"}, set(), set()),
    ],
)
def test_selection_is_that_of_dbt(
    zoo: Manifest, selection: Mapping[str, str], assets: set[str] | None, checks: set[str] | None
) -> None:
    """A check comes with its asset, if dbt would run its test."""
    specs = built(zoo, **selection)
    if assets is not None:
        assert {zoo.nodes[unique_id].name for unique_id in specs.asset_keys} == assets
    if checks is not None:
        assert names(specs) == checks


def test_a_check_goes_where_its_asset_is(zoo: Manifest) -> None:
    """dbt runs the test with either model; only one definition may hold the check."""
    other = built(zoo, select="stg_customers")
    assert not [name for name in names(other) if name.startswith("relationships_")]


def test_source_checks_go_where_the_source_is_read(zoo: Manifest) -> None:
    """With the models alone dbt does not run them; with ``fqn:*`` it does."""
    assert SOURCE_TEST not in built(zoo, select="stg_orders").check_keys
    assert SOURCE_TEST in built(zoo, select="stg_orders source:raw").check_keys
    assert SOURCE_TEST not in built(zoo, select="ledger source:raw").check_keys


def test_settings_turn_checks_off(zoo: Manifest) -> None:
    """Those of sources alone, or all."""
    settings = DagsterDbtTranslatorSettings(enable_source_tests_as_checks=False)
    specs = build_specs(zoo, translator=DagsterDbtTranslator(settings))
    assert not [name for name in names(specs) if name.startswith("source_")]
    assert UNIQUE_ORDER in specs.check_keys
    assert not build_specs(zoo, translator=DagsterDbtTranslator(NO_CHECKS)).check_specs


def test_dagster_takes_the_specs(specs: DbtSpecs) -> None:
    """In a subsettable multi-asset, with the checks of its own assets."""
    own = set(specs.asset_keys.values())

    @dg.multi_asset(
        specs=specs.asset_specs,
        check_specs=[check for check in specs.check_specs if check.asset_key in own],
        can_subset=True,
    )
    def dbt_assets() -> Iterator[Any]:
        yield from ()

    assert dbt_assets.keys == own
    assert dg.Definitions(assets=[dbt_assets]).resolve_asset_graph().asset_check_keys


# -- clashes -------------------------------------------------------------------------------------


def test_two_nodes_of_one_key_are_refused() -> None:
    """Both are named, with their files, and what to do."""
    manifest = spec_zoo.changed(lambda raw: spec_zoo.meta(raw, LEDGER, {"asset_key": ["orders"]}))
    with pytest.raises(ManifestError) as caught:
        built(manifest)
    message = str(caught.value)
    assert "changed zoo: these nodes have the same asset key" in message
    assert "orders: model.spec_zoo.ledger (models/marts/finance/ledger.sql)" in message
    assert "orders: model.spec_zoo.orders (models/marts/orders.sql)" in message
    assert "meta.dagster.asset_key" in message


def test_a_key_that_is_also_a_sources_is_refused() -> None:
    """The asset would depend on itself, or on the wrong table."""
    manifest = spec_zoo.changed(
        lambda raw: spec_zoo.meta(raw, RAW_ORDERS, {"asset_key": ["orders"]})
    )
    with pytest.raises(ManifestError, match=r"source\.spec_zoo\.raw\.raw_orders"):
        built(manifest)


def test_keys_that_give_one_output_name_are_refused() -> None:
    """Dagster would say so without naming the nodes."""

    def change(raw: dict[str, Any]) -> None:
        spec_zoo.meta(raw, LEDGER, {"asset_key": ["a", "b"]})
        spec_zoo.meta(raw, ORDERS, {"asset_key": ["a__b"]})

    with pytest.raises(ManifestError, match=r"a/b: model\.spec_zoo\.ledger"):
        built(spec_zoo.changed(change))


def test_sources_may_share_a_key_if_told_so() -> None:
    """A setting of the translator, as in dagster-dbt."""

    def share(raw: dict[str, Any]) -> None:
        for source in (RAW_ORDERS, RAW_CUSTOMERS):
            spec_zoo.meta(raw, source, {"asset_key": ["landed"]})

    manifest = spec_zoo.changed(share)
    with pytest.raises(ManifestError, match="enable_duplicate_source_asset_keys=True"):
        built(manifest)
    settings = DagsterDbtTranslatorSettings(enable_duplicate_source_asset_keys=True)
    specs = build_specs(manifest, translator=DagsterDbtTranslator(settings))
    assert specs.source_keys[RAW_ORDERS] == specs.source_keys[RAW_CUSTOMERS]


def test_checks_of_one_name_are_told_apart() -> None:
    """A data test keeps its name; others of its asset get the hash of their id."""

    def change(raw: dict[str, Any]) -> None:
        spec_zoo.put(
            raw, UNIQUE_ORDER, "test.spec_zoo.status_is_lowercased", upon=[STG_ORDERS],
            attached_node=STG_ORDERS,
        )  # fmt: skip
        raw["nodes"][ORDER_OF_LEDGER]["attached_node"] = ORDERS
        raw["nodes"][ORDER_OF_LEDGER]["depends_on"]["nodes"] = [ORDERS]
        raw["nodes"][ORDER_OF_SUMMARY]["attached_node"] = ORDERS
        raw["nodes"][ORDER_OF_SUMMARY]["depends_on"]["nodes"] = [ORDERS]

    specs = built(spec_zoo.changed(change))
    assert specs.check_keys["test.spec_zoo.status_is_lowercased"].name == "status_is_lowercased"
    assert specs.check_keys[UNIT_TEST].name == "status_is_lowercased_7fa6cd56ef"
    assert specs.check_keys[ORDER_OF_LEDGER].name == "has_an_order"
    assert specs.check_keys[ORDER_OF_SUMMARY].name == "has_an_order_bfc2f2131c"


def test_a_check_does_not_take_the_output_name_of_an_asset() -> None:
    """A test ``daily`` of ``orders`` beside a model ``orders_daily``."""

    def change(raw: dict[str, Any]) -> None:
        spec_zoo.put(
            raw, UNIQUE_ORDER, "test.spec_zoo.daily.0123456789", upon=[ORDERS],
            attached_node=ORDERS,
        )  # fmt: skip

    specs = built(spec_zoo.changed(change))
    assert specs.check_keys["test.spec_zoo.daily.0123456789"].name == "daily_0123456789"


def test_names_of_checks_hold_only_what_dagster_allows() -> None:
    """dbt takes any text as the name of a test."""
    manifest = spec_zoo.changed(
        lambda raw: raw["nodes"][UNIQUE_ORDER].update(name="is it unique, really?")
    )
    assert built(manifest).check_keys[UNIQUE_ORDER].name == "is_it_unique__really_"


# -- overrides that go too far -------------------------------------------------------------------


class Careless(DagsterDbtTranslator):
    def get_asset_spec(
        self, manifest: Mapping[str, Any], unique_id: str, project: Any
    ) -> dg.AssetSpec:
        spec = super().get_asset_spec(manifest, unique_id, project)
        return spec.replace_attributes(metadata={"mine": 1})

    def get_asset_check_spec(
        self,
        asset_spec: dg.AssetSpec,
        manifest: Mapping[str, Any],
        unique_id: str,
        project: Any,  # noqa: ARG002
    ) -> dg.AssetCheckSpec | None:
        name = self.get_resource_props(manifest, unique_id)["name"]
        return dg.AssetCheckSpec(name, asset=asset_spec.key, metadata={"mine": 2})


def test_metadata_that_an_override_dropped_is_put_back(zoo: Manifest) -> None:
    """Without the unique id nothing finds its way back to dbt."""
    specs = build_specs(zoo, translator=Careless())
    stamp = {MANIFEST: zoo.digest[:12]}
    assert [dict(spec.metadata) for spec in specs.asset_specs] == [
        {"mine": 1, UNIQUE_ID: unique_id, **stamp} for unique_id in specs.asset_keys
    ]
    assert [dict(check.metadata) for check in specs.check_specs] == [
        {"mine": 2, UNIQUE_ID: unique_id, **stamp} for unique_id in specs.check_keys
    ]


def test_an_override_may_make_a_test_a_check_of_another_parent(zoo: Manifest) -> None:
    """It is asked for each asset that the test touches until it says yes, as in dagster-dbt."""

    class Last(DagsterDbtTranslator):
        def get_asset_check_spec(
            self,
            asset_spec: dg.AssetSpec,
            manifest: Mapping[str, Any],
            unique_id: str,
            project: Any,
        ) -> dg.AssetCheckSpec | None:
            if unique_id != "test.spec_zoo.totals_match_ledger":
                return super().get_asset_check_spec(asset_spec, manifest, unique_id, project)
            if asset_spec.key == dg.AssetKey("ledger"):
                return dg.AssetCheckSpec("totals", asset=asset_spec.key)
            return None

    specs = build_specs(zoo, translator=Last())
    key = specs.check_keys["test.spec_zoo.totals_match_ledger"]
    assert key == dg.AssetCheckKey(dg.AssetKey("ledger"), "totals")


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("a text", "gave 'a text' for test.spec_zoo."),
        (dg.AssetCheckSpec("c", asset="elsewhere"), "to elsewhere, but was asked for a check of"),
    ],
)
def test_a_wrong_check_spec_is_refused(zoo: Manifest, given: Any, complaint: str) -> None:
    """The override is named, and the test."""

    class Wrong(DagsterDbtTranslator):
        def get_asset_check_spec(
            self,
            asset_spec: dg.AssetSpec,  # noqa: ARG002
            manifest: Mapping[str, Any],  # noqa: ARG002
            unique_id: str,  # noqa: ARG002
            project: Any,  # noqa: ARG002
        ) -> dg.AssetCheckSpec | None:
            return given  # type: ignore[no-any-return]

    with pytest.raises(ConfigError) as caught:
        build_specs(zoo, translator=Wrong())
    assert str(caught.value).startswith("Wrong.get_asset_check_spec gave ")
    assert complaint in str(caught.value)


def test_a_wrong_asset_spec_is_refused(zoo: Manifest) -> None:
    """A forgotten ``return`` is the usual case."""

    class Forgetful(DagsterDbtTranslator):
        def get_asset_spec(
            self,
            manifest: Mapping[str, Any],  # noqa: ARG002
            unique_id: str,  # noqa: ARG002
            project: Any,  # noqa: ARG002
        ) -> dg.AssetSpec:
            return None  # type: ignore[return-value]

    with pytest.raises(ConfigError, match=r"Forgetful\.get_asset_spec gave None for "):
        build_specs(zoo, translator=Forgetful())


# -- the way back to the manifest ----------------------------------------------------------------


def test_specs_lead_back_to_their_manifest(zoo: Manifest, specs: DbtSpecs) -> None:
    """From a definition as from each spec."""
    definition = dg.AssetsDefinition(specs=specs.asset_specs)
    assert manifest_of(definition).digest == zoo.digest
    assert manifest_of(specs.asset_specs[0]).digest == zoo.digest
    assert manifest_of(specs.check_specs[0]).digest == zoo.digest


def test_two_translators_of_one_manifest_are_told_apart(zoo: Manifest) -> None:
    """By the keys that they give."""

    class Prefixed(DagsterDbtTranslator):
        def get_asset_key(self, dbt_resource_props: Props) -> dg.AssetKey:
            return super().get_asset_key(dbt_resource_props).with_prefix("p")

    prefixed, plain = build_specs(zoo, translator=Prefixed()), built(zoo)
    for specs in (prefixed, plain):
        assert specs_of(dg.AssetsDefinition(specs=specs.asset_specs)).asset_keys == (
            specs.asset_keys
        )


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (dg.AssetSpec("foreign"), "The spec of foreign was not made from a dbt Cloud workspace"),
        (
            dg.AssetsDefinition(specs=[dg.AssetSpec(name) for name in "abcde"]),
            "The definition of a, b, c and 2 more was not made from a dbt Cloud workspace",
        ),
        ("orders", "Expected an AssetsDefinition or an AssetSpec of dbt Cloud assets"),
    ],
)
def test_what_is_not_ours_is_refused(given: Any, complaint: str) -> None:
    """It is named, and what to pass instead."""
    with pytest.raises(ConfigError, match=complaint):
        manifest_of(given)


# -- back to dbt ---------------------------------------------------------------------------------


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
    args = selection_args(
        specs,
        asset_keys=keys,
        check_keys={key for key in specs.check_keys.values() if key.asset_key in keys},
        **own,
    )
    assert args == tuple(expected.split())


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
        selection_args(specs, asset_keys=[], check_keys=[])


def test_foreign_keys_are_refused(specs: DbtSpecs) -> None:
    """They are named."""
    with pytest.raises(ConfigError, match="elsewhere/x is not made from this dbt project"):
        selection_args(specs, asset_keys=[dg.AssetKey(["elsewhere", "x"])], check_keys=[])
