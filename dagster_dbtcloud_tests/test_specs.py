"""Which specs a definition has, and how a part of them is said back to dbt."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_dbtcloud import DbtCloudWorkspace, dbt_cloud_assets, load_dbt_cloud_asset_specs
from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.errors import ConfigError, ManifestError
from dagster_dbtcloud.specs import (
    MANIFEST,
    UNIQUE_ID,
    DbtSpecs,
    build_specs,
    manifest_of,
    specs_of,
)
from dagster_dbtcloud.translator import (
    DagsterDbtTranslator,
    DagsterDbtTranslatorSettings,
    Props,
)
from dagster_dbtcloud_tests import spec_zoo
from dagster_dbtcloud_tests.dbt.builders import node, raw_manifest
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

RAW_ORDERS = "source.spec_zoo.raw.raw_orders"
RAW_CUSTOMERS = "source.spec_zoo.raw.raw_customers"

NO_CHECKS = DagsterDbtTranslatorSettings(enable_asset_checks=False)


@pytest.fixture(scope="module")
def zoo() -> Manifest:
    return spec_zoo.manifest()


@pytest.fixture(scope="module")
def specs(zoo: Manifest) -> DbtSpecs:
    return build_specs(zoo, translator=DagsterDbtTranslator())


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


def test_no_two_checks_are_one_even_where_a_name_ends_in_the_others_hash() -> None:
    """Dagster would keep one of the two and never tell."""

    def change(raw: dict[str, Any]) -> None:
        for digest, name in (("a" * 10, "t"), ("b" * 10, f"t_{'c' * 10}"), ("c" * 10, "t")):
            unique_id = f"test.spec_zoo.{digest[:3]}.{digest}"
            spec_zoo.put(raw, UNIQUE_ORDER, unique_id, upon=[ORDERS], attached_node=ORDERS)
            raw["nodes"][unique_id]["name"] = name

    keys = [spec.key for spec in built(spec_zoo.changed(change)).check_specs]
    assert len(keys) == len(set(keys))


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


@pytest.mark.parametrize(
    "name", ["café", "a b", "a/b", "type", "class", "é__é", "é-é.é", "\0", "\n"]
)
def test_a_key_that_dagster_takes_for_no_step_is_refused_with_its_node(name: str) -> None:
    """Without a step it takes them all; dbt names sources and seeds as warehouses and files do."""
    model, source = "model.shop.m", "source.shop.raw.t"
    models = raw_manifest(node("model.shop.fine"), node(model, name=name))
    odd = {**node("source.shop.t"), "unique_id": source, "source_name": name}
    sources = raw_manifest(node("model.shop.fine", source), sources={source: odd})
    for raw, unique_id in ((models, model), (sources, source)):
        workspace = DbtCloudWorkspace(
            account_id=1,
            token="t",
            project_id=2,
            environment_id=3,
            manifest=raw,
            access_url="https://ab123.us1.dbt.com",
        )
        assert len(load_dbt_cloud_asset_specs(workspace=workspace)) in (1, 2)
        if unique_id == source and name in ("type", "class"):
            continue  # the table's name makes another word of it
        with pytest.raises(ConfigError, match="Dagster does not take this key") as refused:
            dbt_cloud_assets(workspace=workspace, name="shop")(lambda: None)
        assert f"{unique_id} (models/" in str(refused.value)


def test_a_check_of_a_name_that_dagster_does_not_take_is_refused_with_its_test(
    zoo: Manifest, tmp_path: Path
) -> None:
    """An override's; those by default hold only what it takes."""

    class Named(DagsterDbtTranslator):
        def get_asset_check_spec(
            self,
            asset_spec: dg.AssetSpec,
            manifest: Mapping[str, Any],
            unique_id: str,
            project: Any,
        ) -> dg.AssetCheckSpec | None:
            if unique_id != UNIQUE_ORDER:
                return super().get_asset_check_spec(asset_spec, manifest, unique_id, project)
            return dg.AssetCheckSpec("is it unique?", asset=asset_spec.key)

    (tmp_path / "manifest.json").write_text(json.dumps(zoo.raw, default=dict))
    workspace = DbtCloudWorkspace(
        account_id=1,
        token="t",
        project_id=2,
        environment_id=3,
        manifest=tmp_path / "manifest.json",
        cache_dir=tmp_path,
        access_url="https://ab123.us1.dbt.com",
    )
    assets = dbt_cloud_assets(workspace=workspace, name="zoo", dagster_dbt_translator=Named())
    with pytest.raises(ConfigError, match=rf"orders:is it unique\?: {UNIQUE_ORDER} \(models/"):
        assets(lambda: None)


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


@pytest.mark.parametrize(
    ("method", "given", "complaint"),
    [
        ("get_asset_key", None, "CheckError"),
        ("get_asset_key", 3, "CheckError"),
        ("get_description", 3, 'Param "description" is not a str'),
        ("get_metadata", "text", "TypeError"),
        ("get_tags", ["a"], "CheckError"),
        ("get_tags", {"not a tag!": ""}, "not a tag!"),
        ("get_owners", 3, 'Param "owners" is not a Sequence'),
        ("get_owners", (each for each in "ab"), 'Param "owners" is not a Sequence'),
        ("get_owners", ["nobody"], "Invalid owner 'nobody'"),
        ("get_group_name", 3, "TypeError"),
        ("get_group_name", "not a group!", "is not a valid asset group name"),
        ("get_automation_condition", "eager", "CheckError"),
        ("get_partitions_def", "daily", "CheckError"),
        ("get_asset_spec", KeyError("their_key"), "KeyError: 'their_key'"),
        ("get_asset_check_spec", ZeroDivisionError("theirs"), "ZeroDivisionError: theirs"),
    ],
)
def test_whatever_an_override_gives_or_raises_the_node_is_named(
    zoo: Manifest, method: str, given: object, complaint: str
) -> None:
    """Its own error stays below, for whoever wrote it."""

    def override(*_: object) -> object:
        if isinstance(given, Exception):
            raise given
        return given

    translator = type("Odd", (DagsterDbtTranslator,), {method: override})()
    with pytest.raises((ConfigError, dg.DagsterInvalidDefinitionError)) as caught:
        build_specs(zoo, translator=translator)
    place = r"\w+\.spec_zoo\.\S+ \((models|seeds|snapshots|tests)/\S+\): "
    assert re.match(place, str(caught.value)), str(caught.value)
    assert complaint in str(caught.value)
    assert caught.value.__cause__ is not None


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
