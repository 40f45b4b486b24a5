"""How one node looks in Dagster, by default and as users override it."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import dagster as dg
import pytest

from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.errors import ConfigError, ManifestError
from dagster_dbtcloud.specs import UNIQUE_ID, DbtSpecs, ProjectLinks, build_specs
from dagster_dbtcloud.translator import (
    EXPLORE_URL,
    MAX_SQL_LENGTH,
    DagsterDbtTranslator,
    DagsterDbtTranslatorSettings,
    Props,
    group_from_dbt_resource_props_fallback_to_directory,
    validate_translator,
)
from dagster_dbtcloud_tests import spec_zoo
from dagster_dbtcloud_tests.spec_zoo import LEDGER, ORDERS, STG_ORDERS, UNIQUE_ORDER

STG_CUSTOMERS = "model.spec_zoo.stg_customers"
DIM_V1 = "model.spec_zoo.dim_customers.v1"
KEYED = "model.spec_zoo.keyed"
RAW_ORDERS = "source.spec_zoo.raw.raw_orders"
RAW_CUSTOMERS = "source.spec_zoo.raw.raw_customers"

RELATIONSHIP = (
    "test.spec_zoo.relationships_stg_orders_customer_id__customer_id__ref_stg_customers_.430bf21500"
)

LINKS = ProjectLinks(access_url="https://cloud.example.com", account_id=1, project_id=2)


@pytest.fixture(scope="module")
def zoo() -> Manifest:
    return spec_zoo.manifest()


@pytest.fixture(scope="module")
def specs(zoo: Manifest) -> DbtSpecs:
    return build_specs(zoo, translator=DagsterDbtTranslator(), links=LINKS)


def asset(specs: DbtSpecs, unique_id: str) -> dg.AssetSpec:
    (found,) = (spec for spec in specs.asset_specs if spec.metadata[UNIQUE_ID] == unique_id)
    return found


def check(specs: DbtSpecs, unique_id: str) -> dg.AssetCheckSpec:
    (found,) = (spec for spec in specs.check_specs if spec.metadata[UNIQUE_ID] == unique_id)
    return found


def dep_keys(spec: dg.AssetSpec) -> list[str]:
    return [dep.asset_key.to_user_string() for dep in spec.deps]


def text(key: dg.AssetKey) -> str:
    return key.to_user_string()


# -- the same as dagster-dbt, so that nobody loses history ---------------------------------------


def test_assets_are_those_of_dagster_dbt(specs: DbtSpecs) -> None:
    """Keys, groups, tags, owners, dependencies and code versions are what they were."""
    ours = {
        spec.metadata[UNIQUE_ID]: {
            "key": text(spec.key),
            "group": spec.group_name,
            "tags": sorted(tag for tag in spec.tags if not tag.startswith("dagster/kind/")),
            "owners": sorted(spec.owners),
            "deps": sorted(dep_keys(spec)),
            "code_version": spec.code_version,
        }
        for spec in specs.asset_specs
    }
    assert ours == spec_zoo.expected_of_dagster_dbt()["assets"]


def test_checks_are_those_of_dagster_dbt_and_more(specs: DbtSpecs) -> None:
    """Each of its checks is the same; unit tests and tests it had no place for come on top."""
    ours = {
        spec.metadata[UNIQUE_ID]: {
            "asset": text(spec.asset_key),
            "name": spec.name,
            "blocking": spec.blocking,
            "additional_deps": sorted(text(dep.asset_key) for dep in spec.additional_deps),
        }
        for spec in specs.check_specs
    }
    theirs = spec_zoo.expected_of_dagster_dbt()["checks"]
    assert {unique_id: ours[unique_id] for unique_id in theirs} == theirs
    assert ours.keys() - theirs.keys() == {
        "test.spec_zoo.not_null_eph_payments_amount.d996d5c3c2",
        "test.spec_zoo.totals_are_positive.655eee0d93",
        "test.spec_zoo.totals_match_ledger",
        "unit_test.spec_zoo.dim_customers.names_are_kept_v1",
        "unit_test.spec_zoo.dim_customers.names_are_kept_v2",
        "unit_test.spec_zoo.stg_orders.status_is_lowercased",
    }


def test_source_keys_are_those_of_dagster_dbt(specs: DbtSpecs) -> None:
    """Python assets that feed a source keep their key."""
    ours = {unique_id: text(key) for unique_id, key in specs.source_keys.items()}
    assert ours == spec_zoo.expected_of_dagster_dbt()["sources"]


def test_settings_have_the_fields_of_dagster_dbt() -> None:
    """Only the tests of sources are on where dagster-dbt has them off."""
    assert {field.name: field.default for field in fields(DagsterDbtTranslatorSettings)} == {
        "enable_asset_checks": True,
        "enable_duplicate_source_asset_keys": False,
        "enable_code_references": False,
        "enable_dbt_selection_by_name": False,
        "enable_source_tests_as_checks": True,
        "enable_source_metadata": True,
        "enable_dbt_views_as_virtual_assets": False,
    }


# -- what a spec tells ---------------------------------------------------------------------------


def test_metadata_tells_table_columns_and_place_in_dbt_cloud(specs: DbtSpecs) -> None:
    """What Dagster has a word for is under Dagster's key; contracts give column constraints."""
    metadata = asset(specs, ORDERS).metadata
    assert metadata["dagster/table_name"] == "zoo.main.orders"
    assert metadata["dagster/storage_kind"] == "duckdb"
    assert metadata["dagster-dbt/materialization_type"] == "table"
    assert metadata[EXPLORE_URL] == dg.MetadataValue.url(
        "https://cloud.example.com/explore/1/projects/2/environments/production/details/"
        "model.spec_zoo.orders"
    )
    order_id, customer_id, total = metadata["dagster/column_schema"].columns
    assert (order_id.name, order_id.type, order_id.description) == (
        "order_id",
        "integer",
        "The order.",
    )
    assert not order_id.constraints.nullable
    assert customer_id.constraints.nullable
    assert total.constraints.other == ["check total >= 0"]


def test_column_tags_that_dagster_cannot_hold_are_left_out(specs: DbtSpecs) -> None:
    """dbt allows any text as a tag."""
    schema = asset(specs, STG_CUSTOMERS).metadata["dagster/column_schema"]
    assert [(column.name, column.type, dict(column.tags)) for column in schema.columns] == [
        ("customer_id", "integer", {"pii": ""}),
        ("name", "?", {}),
    ]


def test_every_asset_is_skippable_and_of_two_kinds(specs: DbtSpecs) -> None:
    """The kinds are dbt Cloud and the warehouse."""
    assert all(spec.skippable for spec in specs.asset_specs)
    assert {frozenset(spec.kinds) for spec in specs.asset_specs} == {
        frozenset({"dbtcloud", "duckdb"})
    }


def test_description_holds_the_raw_code(specs: DbtSpecs) -> None:
    """The words of the project come first."""
    description = asset(specs, ORDERS).description or ""
    assert description.startswith("Orders with what was paid for them.\n\n#### Raw SQL:\n```sql\n")
    assert "{{ ref('stg_orders') }}" in description
    assert asset(specs, "seed.spec_zoo.countries").description == "Where customers live."


@pytest.mark.parametrize(
    ("props", "expected"),
    [
        ({"description": "", "raw_code": ""}, "dbt model m"),
        ({"raw_sql": "select 1"}, "dbt model m\n\n#### Raw SQL:\n```sql\nselect 1\n```"),
        (
            {"raw_code": "x = 1", "language": "python"},
            "dbt model m\n\n#### Raw Python:\n```python\nx = 1\n```",
        ),
        (
            {"raw_code": "-- ```"},
            "dbt model m\n\n#### Raw SQL:\n````sql\n-- ```\n````",
        ),
        (
            {"raw_code": "x" * (MAX_SQL_LENGTH + 1234)},
            (
                "dbt model m\n\n#### Raw SQL:\n"
                f"```sql\n{'x' * MAX_SQL_LENGTH}\n-- ... and 1,234 more characters\n```"
            ),
        ),
    ],
)
def test_description_is_bounded_and_fenced(props: dict[str, Any], expected: str) -> None:
    """Neither a huge query nor one with a fence in it breaks the page."""
    translator = DagsterDbtTranslator()
    assert translator.get_description({"name": "m", "resource_type": "model", **props}) == expected


def test_automation_is_read_from_meta(specs: DbtSpecs) -> None:
    """``automation_condition``, and the older policy in today's words."""
    assert asset(specs, KEYED).automation_condition == dg.AutomationCondition.eager()
    rolling = asset(specs, "model.spec_zoo.rolling_totals").automation_condition
    assert rolling == dg.AutomationCondition.on_cron("0 6 * * *")
    assert asset(specs, ORDERS).automation_condition is None


@pytest.mark.parametrize(
    ("dagster", "expected"),
    [
        ({"automation_condition": "eager"}, dg.AutomationCondition.eager()),
        ({"automation_condition": {"type": "on_missing"}}, dg.AutomationCondition.on_missing()),
        ({"auto_materialize_policy": {"type": "eager"}}, dg.AutomationCondition.eager()),
        ({"auto_materialize_policy": {"type": "unheard of"}}, None),
    ],
)
def test_automation_words(dagster: dict[str, Any], expected: object) -> None:
    """Each word that meta may hold."""
    props = {"meta": {"dagster": dagster}, "config": {}}
    assert DagsterDbtTranslator().get_automation_condition(props) == expected


@pytest.mark.filterwarnings("ignore:.*any_downstream_conditions")
def test_a_lazy_policy_waits_for_what_is_downstream() -> None:
    """In Dagster's own translation of it, which is in beta there."""
    props = {"meta": {"dagster": {"auto_materialize_policy": {"type": "lazy"}}}, "config": {}}
    found = DagsterDbtTranslator().get_automation_condition(props)
    assert found == dg.AutomationCondition.any_downstream_conditions()


@pytest.mark.parametrize(
    ("dagster", "complaint"),
    [
        ("a text", "meta.dagster must be a mapping, not 'a text'"),
        ({"asset_key": {"a": 1}}, "meta.dagster.asset_key must be a list of texts"),
        ({"asset_key": [1]}, "meta.dagster.asset_key must be a list of texts"),
        ({"automation_condition": "hourly"}, "must be eager, on_missing or"),
        ({"automation_condition": {"type": "on_cron"}}, "must be eager, on_missing or"),
        ({"group": "not a name"}, "not a name"),
        ({"owners": ["nobody"]}, "nobody"),
    ],
)
def test_bad_meta_is_refused_with_node_and_file(dagster: object, complaint: str) -> None:
    """The message says where to look."""
    manifest = spec_zoo.changed(lambda raw: spec_zoo.meta(raw, ORDERS, dagster))
    with pytest.raises((ConfigError, dg.DagsterInvalidDefinitionError)) as caught:
        build_specs(manifest, translator=DagsterDbtTranslator())
    assert complaint in str(caught.value)
    assert "model.spec_zoo.orders (models/marts/orders.sql)" in str(caught.value)


def test_fallback_group_is_the_top_folder(zoo: Manifest) -> None:
    """For those who assign ``get_group_name`` to it."""
    group = group_from_dbt_resource_props_fallback_to_directory
    assert group(zoo.nodes[ORDERS].properties) == "marts"
    assert group(zoo.nodes[KEYED].properties) == "curated"
    assert group(zoo.nodes["seed.spec_zoo.countries"].properties) is None


def test_views_can_be_virtual_assets(zoo: Manifest) -> None:
    """As in dagster-dbt, a setting; Dagster warns that this is a preview of its own."""
    settings = DagsterDbtTranslatorSettings(enable_dbt_views_as_virtual_assets=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        specs = build_specs(zoo, translator=DagsterDbtTranslator(settings))
    assert asset(specs, STG_ORDERS).is_virtual
    assert "view" in asset(specs, STG_ORDERS).kinds
    assert not asset(specs, ORDERS).is_virtual


def test_code_references_are_refused(zoo: Manifest) -> None:
    """dbt Cloud has the files, this machine does not."""
    settings = DagsterDbtTranslatorSettings(enable_code_references=True)
    with pytest.raises(ConfigError, match="needs the dbt project on disk"):
        build_specs(zoo, translator=DagsterDbtTranslator(settings))


# -- dependencies --------------------------------------------------------------------------------


def test_dependencies_lead_through_ephemeral_models(specs: DbtSpecs) -> None:
    """To the nearest ancestors that are built, each named once, in the order of the code."""
    assert dep_keys(asset(specs, ORDERS)) == ["stg_orders", "legacy_system/payments"]


def test_dependency_on_a_source_tells_columns(specs: DbtSpecs) -> None:
    """What describes the node rather than the table stays with the node."""
    (dep,) = asset(specs, STG_CUSTOMERS).deps
    assert "dagster/column_schema" in dep.metadata
    assert not [name for name in dep.metadata if name.startswith("dagster_dbtcloud/")]


def test_dependency_on_a_source_can_be_bare(zoo: Manifest) -> None:
    """By a setting."""
    settings = DagsterDbtTranslatorSettings(enable_source_metadata=False)
    specs = build_specs(zoo, translator=DagsterDbtTranslator(settings))
    (dep,) = asset(specs, STG_CUSTOMERS).deps
    assert not dep.metadata


def test_sources_that_share_a_key_are_one_bare_dependency() -> None:
    """Which of the two tables it would describe is not known."""

    def share(raw: dict[str, Any]) -> None:
        for source in (RAW_ORDERS, RAW_CUSTOMERS):
            spec_zoo.meta(raw, source, {"asset_key": ["landed"]})
        raw["nodes"][STG_ORDERS]["depends_on"]["nodes"] = [RAW_ORDERS, RAW_CUSTOMERS]

    settings = DagsterDbtTranslatorSettings(enable_duplicate_source_asset_keys=True)
    specs = build_specs(spec_zoo.changed(share), translator=DagsterDbtTranslator(settings))
    (dep,) = asset(specs, STG_ORDERS).deps
    assert text(dep.asset_key) == "landed"
    assert not dep.metadata


@pytest.mark.parametrize("value", [None, "", "absent"])
def test_names_that_a_manifest_leaves_out_are_those_of_the_id(value: str | None) -> None:
    """An override that reads them finds them, too."""

    class Reads(DagsterDbtTranslator):
        def get_group_name(self, dbt_resource_props: Props) -> str:
            names = ("unique_id", "resource_type", "package_name", "name")
            return str(dbt_resource_props[names[1]]) + str(all(map(dbt_resource_props.get, names)))

    def change(raw: dict[str, Any]) -> None:
        raw["nodes"][STG_ORDERS]["depends_on"]["nodes"] = [RAW_ORDERS, DIM_V1]
        for unique_id, entry in {**raw["nodes"], **raw["sources"]}.items():
            if unique_id not in (STG_ORDERS, RAW_ORDERS, DIM_V1, UNIQUE_ORDER):
                continue
            for name in ("resource_type", "package_name", "name", "source_name", "alias"):
                entry[name] = value
                if value == "absent":
                    del entry[name]

    specs = build_specs(spec_zoo.changed(change), translator=Reads())
    assert specs.asset_keys[STG_ORDERS] == dg.AssetKey("stg_orders")
    assert specs.asset_keys[DIM_V1] == dg.AssetKey("dim_customers_v1")
    assert specs.check_keys[UNIQUE_ORDER].name == "unique_orders_order_id"
    assert asset(specs, STG_ORDERS).group_name == "modelTrue"
    assert dep_keys(asset(specs, STG_ORDERS)) == ["raw/raw_orders", "dim_customers_v1"]


def test_half_a_character_stops_nothing() -> None:
    """A file whose name is no UTF-8 has such ones in its unique id, and so in the manifest."""
    half = "model.spec_zoo.caf\udce9"

    def change(raw: dict[str, Any]) -> None:
        spec_zoo.put(raw, LEDGER, half, upon=[], raw_code="select '\udce9'")
        spec_zoo.put(raw, UNIQUE_ORDER, "test.spec_zoo.t\udce9", upon=[half], attached_node=half)
        spec_zoo.put(raw, UNIQUE_ORDER, "test.spec_zoo.u\udce9", upon=[half], attached_node=half)
        raw["nodes"]["test.spec_zoo.t\udce9"]["name"] = "u_"

    changed = spec_zoo.changed(change)
    specs = build_specs(changed, translator=DagsterDbtTranslator(), links=LINKS)
    assert asset(specs, half).code_version
    assert len({specs.check_keys[f"test.spec_zoo.{name}\udce9"] for name in "tu"}) == 2


def test_models_of_other_projects_are_upstream_only() -> None:
    """dbt writes some into the manifest without a file, and may only name others."""

    def mesh(raw: dict[str, Any]) -> None:
        spec_zoo.put(raw, LEDGER, "model.elsewhere.shared", upon=[], original_file_path="", path="")
        raw["nodes"][STG_ORDERS]["depends_on"]["nodes"] += [
            "model.elsewhere.shared",
            "model.elsewhere.unseen",
            "model.elsewhere.dim.v3",
            "source.elsewhere.raw.table",
            "macro.elsewhere.nothing",
        ]

    specs = build_specs(spec_zoo.changed(mesh), translator=DagsterDbtTranslator())
    assert dep_keys(asset(specs, STG_ORDERS)) == [
        "raw/raw_orders",
        "shared",
        "unseen",
        "dim_v3",
        "raw/table",
    ]
    assert not [i for i in specs.asset_keys if "elsewhere" in i]


def test_models_of_other_projects_are_shown_to_overrides() -> None:
    """So that their keys can be those of the other project's assets."""

    class Prefixed(DagsterDbtTranslator):
        def get_asset_key(self, dbt_resource_props: Props) -> dg.AssetKey:
            key = super().get_asset_key(dbt_resource_props)
            return key.with_prefix(dbt_resource_props["package_name"])

    def mesh(raw: dict[str, Any]) -> None:
        raw["nodes"][STG_ORDERS]["depends_on"]["nodes"] = ["model.elsewhere.unseen"]

    specs = build_specs(spec_zoo.changed(mesh), translator=Prefixed())
    assert dep_keys(asset(specs, STG_ORDERS)) == ["elsewhere/unseen"]


def test_disabled_parents_are_no_dependencies() -> None:
    """A disabled model is never built."""

    def change(raw: dict[str, Any]) -> None:
        raw["nodes"][STG_ORDERS]["depends_on"]["nodes"].append("model.spec_zoo.switched_off")

    specs = build_specs(spec_zoo.changed(change), translator=DagsterDbtTranslator())
    assert dep_keys(asset(specs, STG_ORDERS)) == ["raw/raw_orders"]


def test_functions_stand_for_what_they_read() -> None:
    """They are no assets here."""

    def change(raw: dict[str, Any]) -> None:
        raw["functions"]["function.spec_zoo.f"] = {
            "unique_id": "function.spec_zoo.f",
            "resource_type": "function",
            "name": "f",
            "package_name": "spec_zoo",
            "fqn": ["spec_zoo", "f"],
            "depends_on": {"nodes": ["seed.spec_zoo.countries"]},
        }
        raw["nodes"][STG_ORDERS]["depends_on"]["nodes"].append("function.spec_zoo.f")

    specs = build_specs(spec_zoo.changed(change), translator=DagsterDbtTranslator())
    assert dep_keys(asset(specs, STG_ORDERS)) == ["raw/raw_orders", "countries"]


def test_deep_chains_do_not_recurse() -> None:
    """Twice as long as Python could recurse: of models asked from below, of ephemeral models."""
    deep = spec_zoo.changed(spec_zoo.chain(2_000))
    last = DagsterDbtTranslator().get_asset_spec(deep.raw, "model.big.m1999", None)
    assert dep_keys(last) == ["m1998"]
    inlined = spec_zoo.changed(spec_zoo.chain(2_000, materialized="ephemeral"))
    last = DagsterDbtTranslator().get_asset_spec(inlined.raw, "model.big.m1999", None)
    assert dep_keys(last) == ["m0"]


def test_a_cycle_is_refused() -> None:
    """Only a damaged manifest has one; dbt refuses it."""

    def tie(raw: dict[str, Any]) -> None:
        raw["nodes"][STG_ORDERS]["depends_on"]["nodes"] = [ORDERS]

    with pytest.raises(ManifestError, match="has a cycle through model"):
        build_specs(spec_zoo.changed(tie), translator=DagsterDbtTranslator())


# -- which asset a test is a check of ------------------------------------------------------------


@pytest.mark.parametrize(
    ("test_id", "key", "others"),
    [
        ("test.spec_zoo.no_future_orders", "stg_orders", []),  # its only parent
        (
            RELATIONSHIP,
            "stg_orders",  # where it was declared, though the other is named first
            ["stg_customers"],
        ),
        ("test.spec_zoo.totals_match_ledger", "orders", ["ledger"]),  # the first that it reads
        ("test.spec_zoo.summary_is_complete", "ledger_summary", ["orders"]),  # by meta.dagster.ref
        # Of an ephemeral model: the first of the nearest assets above.
        (
            "test.spec_zoo.totals_are_positive.655eee0d93",
            "stg_orders",
            ["legacy_system/payments"],
        ),
        ("test.spec_zoo.not_null_eph_payments_amount.d996d5c3c2", "legacy_system/payments", []),
        ("test.spec_zoo.source_unique_raw_raw_orders_id.0de38b1856", "raw/raw_orders", []),
        ("unit_test.spec_zoo.dim_customers.names_are_kept_v1", "dim_customers_v1", []),
    ],
)
def test_home_of_a_test(specs: DbtSpecs, test_id: str, key: str, others: list[str]) -> None:
    """One rule after the other, in this order of the documentation."""
    spec = check(specs, test_id)
    assert text(spec.asset_key) == key
    assert [text(dep.asset_key) for dep in spec.additional_deps] == others


def test_severity_and_meta_decide_what_blocks() -> None:
    """A warning never blocks in dbt; ``meta.dagster.blocking`` has the last word."""

    def change(raw: dict[str, Any]) -> None:
        spec_zoo.meta(raw, UNIQUE_ORDER, {"blocking": False})

    specs = build_specs(spec_zoo.changed(change), translator=DagsterDbtTranslator())
    assert not check(specs, UNIQUE_ORDER).blocking
    assert not check(specs, "test.spec_zoo.no_future_orders").blocking
    assert check(specs, "unit_test.spec_zoo.stg_orders.status_is_lowercased").blocking


def test_check_description_is_that_of_the_test(specs: DbtSpecs) -> None:
    """dbt has had a field for it since 1.9; before, people wrote it into meta."""
    declared = check(specs, "test.spec_zoo.not_null_stg_customers_customer_id.e2cfb1f9aa")
    assert declared.description == "Nobody goes nameless."
    in_meta = check(specs, "test.spec_zoo.no_future_orders")
    assert in_meta.description == "Orders are never placed in the future."


def test_a_ref_to_nowhere_is_reported_and_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    """A renamed model must not take the whole code location down."""

    def change(raw: dict[str, Any]) -> None:
        spec_zoo.meta(raw, "test.spec_zoo.summary_is_complete", {"ref": {"name": "renamed"}})

    with caplog.at_level(logging.WARNING, logger="dagster_dbtcloud"):
        specs = build_specs(spec_zoo.changed(change), translator=DagsterDbtTranslator())
    assert text(check(specs, "test.spec_zoo.summary_is_complete").asset_key) == "orders"
    assert "meta.dagster.ref names {'name': 'renamed'}" in caplog.text


def test_a_ref_names_version_and_package() -> None:
    """As ``ref`` does in dbt."""

    def change(raw: dict[str, Any]) -> None:
        ref = {"name": "dim_customers", "package": "spec_zoo", "version": 1}
        test = raw["nodes"]["test.spec_zoo.summary_is_complete"]
        test["depends_on"]["nodes"].append("model.spec_zoo.dim_customers.v1")
        spec_zoo.meta(raw, "test.spec_zoo.summary_is_complete", {"ref": ref})

    specs = build_specs(spec_zoo.changed(change), translator=DagsterDbtTranslator())
    assert text(check(specs, "test.spec_zoo.summary_is_complete").asset_key) == "dim_customers_v1"


# -- overrides -----------------------------------------------------------------------------------


class Everything(DagsterDbtTranslator):
    """Overrides each of the finer methods, and does not call ``__init__``."""

    def __init__(self) -> None:
        pass

    def get_asset_key(self, dbt_resource_props: Props) -> dg.AssetKey:
        return super().get_asset_key(dbt_resource_props).with_prefix("p")

    def get_description(self, dbt_resource_props: Props) -> str:
        return f"about {dbt_resource_props['name']}"

    def get_metadata(self, dbt_resource_props: Props) -> Mapping[str, Any]:
        return {"path": dbt_resource_props["original_file_path"]}

    def get_tags(self, dbt_resource_props: Props) -> Mapping[str, str]:
        return {"type": dbt_resource_props["resource_type"]}

    def get_group_name(self, dbt_resource_props: Props) -> str | None:
        return str(dbt_resource_props["fqn"][1])

    def get_code_version(self, dbt_resource_props: Props) -> str | None:  # noqa: ARG002
        return "v1"

    def get_owners(self, dbt_resource_props: Props) -> Sequence[str] | None:
        group = dbt_resource_props.get("group")
        return [f"team:{group['name']}"] if group else None

    def get_automation_condition(
        self,
        dbt_resource_props: Props,  # noqa: ARG002
    ) -> dg.AutomationCondition[Any] | None:
        return dg.AutomationCondition.on_missing()

    def get_partitions_def(
        self,
        dbt_resource_props: Props,  # noqa: ARG002
    ) -> dg.PartitionsDefinition[Any] | None:
        return dg.DailyPartitionsDefinition("2026-01-01")

    def get_partition_mapping(
        self,
        dbt_resource_props: Props,  # noqa: ARG002
        dbt_parent_resource_props: Props,
    ) -> dg.PartitionMapping | None:
        if dbt_parent_resource_props["resource_type"] == "source":
            return None
        return dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1)


def test_every_finer_method_is_honoured(zoo: Manifest) -> None:
    """Also in a class that does not call ``__init__``."""
    spec = asset(build_specs(zoo, translator=Everything()), LEDGER)
    assert text(spec.key) == "p/ledger"
    assert dep_keys(spec) == ["p/orders"]
    assert spec.description == "about ledger"
    assert spec.metadata["path"] == "models/marts/finance/ledger.sql"
    assert spec.tags["type"] == "model"
    assert spec.group_name == "marts"
    assert spec.code_version == "v1"
    assert spec.owners == ["team:finance"]
    assert spec.automation_condition == dg.AutomationCondition.on_missing()
    assert spec.partitions_def == dg.DailyPartitionsDefinition("2026-01-01")


def test_every_finer_method_but_the_key_may_return_none(zoo: Manifest) -> None:
    """As with dagster-dbt, so that a branch of an override without a return is no error."""
    methods = [name for name in vars(Everything) if name.startswith("get_")]
    nothing = {name: lambda *_: None for name in methods if name != "get_asset_key"}
    Nothing = type("Nothing", (DagsterDbtTranslator,), nothing)
    specs = build_specs(zoo, translator=Nothing())
    ledger = asset(specs, LEDGER)
    assert ledger.metadata["dagster_dbtcloud/unique_id"] == LEDGER
    assert (ledger.description, ledger.group_name, ledger.code_version) == (None, None, None)


def test_partition_mappings_go_to_dependencies_and_to_oneself(zoo: Manifest) -> None:
    """A node asks for a dependency on itself in its meta."""
    mapping = dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1)
    specs = build_specs(zoo, translator=Everything())
    rolling = asset(specs, "model.spec_zoo.rolling_totals")
    assert {text(key): found for key, found in rolling.partition_mappings.items()} == {
        "p/orders": mapping,
        "p/rolling/rolling_totals": mapping,
    }
    assert asset(specs, STG_ORDERS).partition_mappings == {}


class Moved(DagsterDbtTranslator):
    """Gives one model another key in ``get_asset_spec``, as users of dagster-dbt do."""

    def get_asset_spec(
        self, manifest: Mapping[str, Any], unique_id: str, project: Any
    ) -> dg.AssetSpec:
        spec = super().get_asset_spec(manifest, unique_id, project)
        props = self.get_resource_props(manifest, unique_id)
        if props["name"] in ("orders", "raw_orders"):
            return spec.replace_attributes(key=spec.key.with_prefix("moved"), group_name="moved")
        return spec


def test_a_key_replaced_in_the_spec_is_that_of_dependencies_and_checks(zoo: Manifest) -> None:
    """Other nodes use what ``get_asset_spec`` gave, not what ``get_asset_key`` would."""
    specs = build_specs(zoo, translator=Moved())
    assert text(asset(specs, ORDERS).key) == "moved/orders"
    assert asset(specs, ORDERS).group_name == "moved"
    assert dep_keys(asset(specs, LEDGER)) == ["moved/orders"]
    assert dep_keys(asset(specs, STG_ORDERS)) == ["moved/raw/raw_orders"]
    assert text(check(specs, UNIQUE_ORDER).asset_key) == "moved/orders"
    (other,) = check(specs, "test.spec_zoo.summary_is_complete").additional_deps
    assert text(other.asset_key) == "moved/orders"


def test_the_translator_is_asked_once_per_node(zoo: Manifest) -> None:
    """However many nodes depend on it."""
    asked: Counter[str] = Counter()

    class Counting(DagsterDbtTranslator):
        def get_asset_spec(
            self, manifest: Mapping[str, Any], unique_id: str, project: Any
        ) -> dg.AssetSpec:
            asked[unique_id] += 1
            return super().get_asset_spec(manifest, unique_id, project)

        def get_asset_check_spec(
            self,
            asset_spec: dg.AssetSpec,
            manifest: Mapping[str, Any],
            unique_id: str,
            project: Any,
        ) -> dg.AssetCheckSpec | None:
            asked[unique_id] += 1
            return super().get_asset_check_spec(asset_spec, manifest, unique_id, project)

    specs = build_specs(zoo, translator=Counting())
    assert set(asked) == {*specs.asset_keys, *specs.check_keys, *specs.source_keys}
    assert set(asked.values()) == {1}


def test_one_translator_serves_two_manifests() -> None:
    """What it remembers of one is not taken for the other."""
    translator = DagsterDbtTranslator()
    one = spec_zoo.changed(lambda raw: spec_zoo.meta(raw, ORDERS, {"asset_key": ["one"]}))
    other = spec_zoo.changed(lambda raw: spec_zoo.meta(raw, ORDERS, {"asset_key": ["other"]}))
    for _ in range(2):
        for manifest, key in ((one, "one"), (other, "other")):
            assert dep_keys(translator.get_asset_spec(manifest.raw, LEDGER, None)) == [key]


def test_an_overridden_auto_materialize_policy_still_counts(zoo: Manifest) -> None:
    """Dagster deprecates the class, users may still have it."""

    class Policy:
        def to_automation_condition(self) -> dg.AutomationCondition[Any]:
            return dg.AutomationCondition.on_missing()

    class Older(DagsterDbtTranslator):
        def get_auto_materialize_policy(self, dbt_resource_props: Props) -> Any:
            return Policy() if dbt_resource_props["name"] == "orders" else None

    specs = build_specs(zoo, translator=Older())
    assert asset(specs, ORDERS).automation_condition == dg.AutomationCondition.on_missing()
    assert asset(specs, LEDGER).automation_condition is None


def test_unit_tests_have_tags_and_meta_like_tests(zoo: Manifest) -> None:
    """Overrides of checks were written before unit tests were checks."""
    unit_test = "unit_test.spec_zoo.stg_orders.status_is_lowercased"
    props = DagsterDbtTranslator().get_resource_props(zoo.raw, unit_test)
    assert (props["tags"], props["meta"]) == ([], {})


def test_an_unknown_id_is_refused(zoo: Manifest) -> None:
    """An override that asks for a node by a wrong id gets told."""
    with pytest.raises(ConfigError, match=r"There is no model\.spec_zoo\.nobody"):
        DagsterDbtTranslator().get_resource_props(zoo.raw, "model.spec_zoo.nobody")


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (DagsterDbtTranslator, "is the class DagsterDbtTranslator, not an instance"),
        (None, "must be an instance of dagster_dbtcloud.DagsterDbtTranslator, not builtins.None"),
        (
            type("T", (), {"__module__": "dagster_dbt.dagster_dbt_translator"})(),
            "inherit from dagster_dbtcloud.DagsterDbtTranslator instead",
        ),
    ],
)
def test_what_is_no_translator_is_refused(given: object, complaint: str) -> None:
    """The class instead of an instance, nothing, or the one of dagster-dbt."""
    with pytest.raises(ConfigError, match=complaint):
        validate_translator(given)
