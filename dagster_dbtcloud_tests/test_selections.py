"""The helpers that users of dagster-dbt know, on definitions and specs of ours."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_dbtcloud.dbt.selection import select as select_nodes
from dagster_dbtcloud.errors import ConfigError, SelectionError, UnknownNameError
from dagster_dbtcloud.selections import (
    build_dbt_asset_selection,
    build_schedule_from_dbt_selection,
    get_asset_key_for_model,
    get_asset_key_for_source,
    get_asset_keys_by_output_name_for_source,
)
from dagster_dbtcloud.specs import DbtSpecs, build_specs
from dagster_dbtcloud.translator import (
    DagsterDbtTranslator,
    DagsterDbtTranslatorSettings,
    Props,
)
from dagster_dbtcloud_tests import spec_zoo


def definition(specs: DbtSpecs, name: str) -> dg.AssetsDefinition:
    """Return a multi-asset of the specs, as ``@dbt_cloud_assets`` makes it."""

    @dg.multi_asset(
        name=name,
        specs=specs.asset_specs,
        check_specs=specs.check_specs,
        can_subset=True,
        allow_arbitrary_check_specs=True,
    )
    def assets() -> Iterator[Any]:
        yield from ()

    return assets


@pytest.fixture(scope="module")
def specs() -> DbtSpecs:
    return build_specs(spec_zoo.manifest(), translator=DagsterDbtTranslator())


@pytest.fixture(scope="module")
def dbt_assets(specs: DbtSpecs) -> dg.AssetsDefinition:
    return definition(specs, "dbt_assets")


@pytest.fixture(scope="module")
def nightly() -> dg.AssetsDefinition:
    specs = build_specs(
        spec_zoo.manifest(), select="tag:nightly", translator=DagsterDbtTranslator()
    )
    return definition(specs, "nightly")


def resolved(
    selection: dg.AssetSelection, *assets: dg.AssetsDefinition
) -> tuple[set[dg.AssetKey], set[dg.AssetCheckKey]]:
    graph = dg.Definitions(assets=assets).resolve_asset_graph()
    return set(selection.resolve(graph)), set(selection.resolve_checks(graph))


# -- keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("orders", "orders"),
        ("keyed", "warehouse/keyed"),
        ("countries", "countries"),
        ("orders_history", "history/orders_history"),
        ("dim_customers.v1", "dim_customers_v1"),
        ("dim_customers", "dim_customers_v2"),
    ],
)
def test_key_of_a_model(dbt_assets: dg.AssetsDefinition, name: str, key: str) -> None:
    """Of a seed and a snapshot too; of a versioned model the latest, unless it is named."""
    assert get_asset_key_for_model([dbt_assets], name).to_user_string() == key


def test_key_of_a_model_outside_of_the_definition(nightly: dg.AssetsDefinition) -> None:
    """Its manifest knows the whole project."""
    assert get_asset_key_for_model([nightly], "ledger") == dg.AssetKey("ledger")


def test_keys_are_found_in_specs_and_in_several_definitions(
    specs: DbtSpecs, dbt_assets: dg.AssetsDefinition, nightly: dg.AssetsDefinition
) -> None:
    """As ``load_dbt_cloud_asset_specs`` gives them; mapped ones as they are now."""
    assert get_asset_key_for_model(specs.asset_specs, "keyed").path == ["warehouse", "keyed"]
    assert get_asset_key_for_model([nightly, dbt_assets], "ledger") == dg.AssetKey("ledger")
    moved = [spec.replace_attributes(key=["moved", *spec.key.path]) for spec in specs.asset_specs]
    assert get_asset_key_for_model(moved, "orders") == dg.AssetKey(["moved", "orders"])


def test_keys_are_those_of_the_definitions_translator() -> None:
    """Also for nodes that are not in it."""

    class Prefixed(DagsterDbtTranslator):
        def get_asset_key(self, dbt_resource_props: Props) -> dg.AssetKey:
            return super().get_asset_key(dbt_resource_props).with_prefix("p")

    specs = build_specs(spec_zoo.manifest(), select="orders", translator=Prefixed())
    assets = [definition(specs, "prefixed")]
    assert get_asset_key_for_model(assets, "ledger") == dg.AssetKey(["p", "ledger"])
    assert get_asset_key_for_source(assets, "legacy").path == ["p", "legacy_system", "payments"]


def test_a_model_of_two_packages_is_the_one_in_the_definition() -> None:
    """If both are, the name says too little."""

    def change(raw: dict[str, Any]) -> None:
        spec_zoo.put(raw, spec_zoo.LEDGER, "model.other.orders", alias="orders")
        spec_zoo.meta(raw, "model.other.orders", {"asset_key": ["other", "orders"]})

    manifest = spec_zoo.changed(change)
    one = build_specs(manifest, select="package:other", translator=DagsterDbtTranslator())
    found = get_asset_key_for_model([definition(one, "one")], "orders")
    assert found == dg.AssetKey(["other", "orders"])
    both = build_specs(manifest, translator=DagsterDbtTranslator())
    with pytest.raises(UnknownNameError, match=r"model\.other\.orders, model\.spec_zoo\.orders"):
        get_asset_key_for_model([definition(both, "both")], "orders")


def test_keys_of_a_source(dbt_assets: dg.AssetsDefinition) -> None:
    """Under the output names that dagster-dbt gives."""
    assert get_asset_keys_by_output_name_for_source([dbt_assets], "raw") == {
        "source_spec_zoo_raw_raw_customers": dg.AssetKey(["raw", "raw_customers"]),
        "source_spec_zoo_raw_raw_orders": dg.AssetKey(["raw", "raw_orders"]),
    }
    assert get_asset_key_for_source([dbt_assets], "legacy").path == ["legacy_system", "payments"]
    assert get_asset_key_for_source([dbt_assets], "unused").path == ["unused", "nobody_reads_me"]


def test_a_dependency_both_ways_makes_one_graph(dbt_assets: dg.AssetsDefinition) -> None:
    """A Python asset that feeds a source, and one that reads a model."""

    @dg.asset(key=get_asset_key_for_source([dbt_assets], "legacy"))
    def payments() -> None: ...

    @dg.asset(deps=[get_asset_key_for_model([dbt_assets], "ledger")])
    def report() -> None: ...

    graph = dg.Definitions(assets=[dbt_assets, payments, report]).resolve_asset_graph()
    assert graph.get(payments.key).child_keys == {dg.AssetKey("orders")}
    assert graph.get(report.key).parent_keys == {dg.AssetKey("ledger")}


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (
            lambda assets: get_asset_key_for_model(assets, "order"),
            "There is no dbt model, seed or snapshot 'order'. Did you mean orders",
        ),
        (
            lambda assets: get_asset_key_for_model(assets, "eph_payments"),
            "There is no dbt model, seed or snapshot 'eph_payments'.",
        ),
        (
            lambda assets: get_asset_key_for_source(assets, "rew"),
            "There is no dbt source 'rew'. Did you mean raw?",
        ),
        (
            lambda assets: get_asset_key_for_source(assets, "raw"),
            "The source 'raw' has more than one table: raw/raw_customers, raw/raw_orders. Use",
        ),
    ],
)
def test_unknown_names_are_refused(
    dbt_assets: dg.AssetsDefinition, call: Any, complaint: str
) -> None:
    """With what may have been meant; catching KeyError works as with dagster-dbt."""
    with pytest.raises(KeyError) as caught:
        call([dbt_assets])
    assert str(caught.value).startswith(complaint)
    assert isinstance(caught.value, ConfigError)


def test_a_project_without_sources_says_so() -> None:
    """Nothing could have been meant."""
    specs = build_specs(spec_zoo.changed(spec_zoo.chain(1)), translator=DagsterDbtTranslator())
    with pytest.raises(UnknownNameError, match="The dbt project has no sources"):
        get_asset_key_for_source(specs.asset_specs, "raw")


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (dg.AssetSpec("a"), r"must be a list, as in \[my_dbt_assets\], not AssetSpec"),
        ("orders", "Expected an AssetsDefinition or an AssetSpec"),
        ([], "dbt_assets is empty"),
        ([dg.AssetSpec("a")], "The spec of a was not made from a dbt Cloud workspace"),
    ],
)
def test_what_are_no_dbt_assets_is_refused(given: Any, complaint: str) -> None:
    """A definition that is not in a list is the usual case."""
    with pytest.raises(ConfigError, match=complaint):
        get_asset_key_for_model(given, "orders")


# -- selections ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "select", ["fqn:*", "tag:nightly", "stg_orders", "source:raw+", "@ledger", "test_type:unit"]
)
def test_selection_holds_what_dbt_would_run(
    specs: DbtSpecs, dbt_assets: dg.AssetsDefinition, select: str
) -> None:
    """The assets, and of the checks just those whose tests run with them."""
    assets, checks = resolved(build_dbt_asset_selection([dbt_assets], select), dbt_assets)
    expected = select_nodes(specs.manifest, select=select)
    assert assets == {key for i, key in specs.asset_keys.items() if i in expected}
    assert checks == {key for i, key in specs.check_keys.items() if i in expected}


def test_selection_excludes_and_takes_yaml_selectors(dbt_assets: dg.AssetsDefinition) -> None:
    """In dbt's words."""
    assets, checks = resolved(
        build_dbt_asset_selection(
            [dbt_assets], "tag:nightly", dbt_exclude="stg_customers resource_type:test"
        ),
        dbt_assets,
    )
    assert {key.path[-1] for key in assets} == {"orders", "keyed"}
    assert checks == set()
    selection = build_dbt_asset_selection([dbt_assets], dbt_selector="nightly_marts")
    assert resolved(selection, dbt_assets)[0] == assets


def test_selection_stays_inside_the_definition(nightly: dg.AssetsDefinition) -> None:
    """It is the common part of what the definition and the selection take."""
    selection = build_dbt_asset_selection([nightly], "+ledger")
    assert {key.path[-1] for key in resolved(selection, nightly)[0]} == {"orders"}


def test_selection_goes_on_in_dagster(dbt_assets: dg.AssetsDefinition) -> None:
    """With what is downstream, of dbt or not."""

    @dg.asset(deps=[get_asset_key_for_model([dbt_assets], "ledger")])
    def report() -> None: ...

    selection = build_dbt_asset_selection([dbt_assets], "ledger").downstream()
    assets, _ = resolved(selection, dbt_assets, report)
    assert {key.path[-1] for key in assets} == {"ledger", "ledger_summary", "report"}


def test_selection_of_specs_is_of_assets(specs: DbtSpecs) -> None:
    """Observed assets have no checks in Dagster that could be run."""
    selection = build_dbt_asset_selection(specs.asset_specs, "stg_orders")
    graph = dg.Definitions(assets=specs.asset_specs).resolve_asset_graph()
    assert set(selection.resolve(graph)) == {dg.AssetKey("stg_orders")}


@pytest.mark.filterwarnings("ignore:.*the table name matches")
def test_checks_of_a_source_follow_it_to_the_asset_with_its_table() -> None:
    """Dagster moves them once it knows all definitions."""
    manifest = spec_zoo.changed(lambda raw: raw["nodes"].pop("seed.spec_zoo.raw_payments"))
    assets = definition(build_specs(manifest, translator=DagsterDbtTranslator()), "dbt_assets")
    landed = dg.AssetSpec("landed", metadata={"dagster/table_name": "zoo.main.raw_payments"})
    graph = dg.Definitions(assets=[assets, landed]).resolve_asset_graph()
    selection = build_dbt_asset_selection([assets], "test_name:not_null,eph_payments+1")
    moved = dg.AssetCheckKey(landed.key, "not_null_eph_payments_amount")
    assert selection.resolve_checks(graph) == {moved}


def test_a_bad_selection_is_refused(dbt_assets: dg.AssetsDefinition) -> None:
    """When it is written, not when it runs."""
    with pytest.raises(SelectionError, match="'tags' is not a selection method"):
        build_dbt_asset_selection([dbt_assets], "tags:nightly")


def test_schedule_materializes_the_selection(dbt_assets: dg.AssetsDefinition) -> None:
    """With everything that the job and the schedule may be told."""
    schedule = build_schedule_from_dbt_selection(
        [dbt_assets],
        job_name="nightly_job",
        cron_schedule="0 3 * * *",
        dbt_select="tag:nightly",
        dbt_exclude="keyed",
        schedule_name="nightly",
        tags={"team": "core"},
        config=dg.RunConfig(ops={}),
        execution_timezone="Europe/Oslo",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    assert (schedule.name, schedule.cron_schedule) == ("nightly", "0 3 * * *")
    assert schedule.execution_timezone == "Europe/Oslo"
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    definitions = dg.Definitions(assets=[dbt_assets], schedules=[schedule])
    job = definitions.resolve_job_def("nightly_job")
    assert job.tags["team"] == "core"
    keys = job.asset_layer.selected_asset_keys
    assert {key.path[-1] for key in keys} == {"orders", "stg_customers"}


DOCS = Path(__file__).parent.parent / "docs" / "translator.md"


def test_the_code_of_the_docs_runs(dbt_assets: dg.AssetsDefinition) -> None:
    """Each block alone, as somebody copies it."""
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        namespace: dict[str, Any] = {"my_dbt_assets": dbt_assets}
        exec(compile(block, str(DOCS), "exec"), namespace)  # noqa: S102
        for name, found in namespace.items():
            if isinstance(found, type) and found.__module__ == "builtins":
                specs = build_specs(spec_zoo.manifest(), translator=found())
                assert specs.asset_specs, name


def test_the_docs_tell_the_settings() -> None:
    """With their defaults."""
    rows = re.findall(r"^\| `(enable_\w+)` \| \W*(true|false)", DOCS.read_text("utf-8"), re.M)
    assert {name: default == "true" for name, default in rows} == {
        field.name: field.default for field in dataclasses.fields(DagsterDbtTranslatorSettings)
    }
