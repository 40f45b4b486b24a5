"""Dagster's own floor: the specs of the project, made from literals, as short as Dagster allows.

What they say is what dagster_dbtcloud makes of the project's manifest (a test compares the two),
but for what only a manifest can tell. There is no dbt, no file and no network in it.
"""

from __future__ import annotations

import hashlib

import dagster as dg

from benchmarks import project


def specs(models: int) -> tuple[list[dg.AssetSpec], list[dg.AssetCheckSpec]]:
    """Return the asset specs and check specs of a project with so many models."""
    return (
        [_asset(number, models) for number in range(models)],
        [_check(number, t, models) for number in range(models) for t in range(project.TESTS)],
    )


def definitions(models: int) -> dg.Definitions:
    """Return them as one definition, with the switch that makes Dagster check them fastest."""
    asset_specs, check_specs = specs(models)

    @dg.multi_asset(
        name="dbt",
        specs=asset_specs,
        check_specs=check_specs,
        can_subset=True,
        allow_arbitrary_check_specs=True,
    )
    def assets():  # type: ignore[no-untyped-def]  # to Dagster, None is one output
        ...

    return dg.Definitions(assets=[assets])


def _asset(number: int, models: int) -> dg.AssetSpec:
    name, unique_id, code = (
        project.model_name(number),
        project.model_id(number),
        project.raw_code(number),
    )
    deps: list[dg.AssetDep] = [
        dg.AssetDep(dg.AssetKey([project.model_name(parent)]))
        for parent in project.parents(number, models)
    ]
    if not deps:
        table = project.source_name(number // project.SOURCE_EVERY)
        deps.append(
            dg.AssetDep(
                dg.AssetKey(["raw", table]), metadata={"dagster/table_name": f"raw.shop.{table}"}
            )
        )
    return dg.AssetSpec(
        key=dg.AssetKey([name]),
        deps=deps,
        description=f"{project.description(number)}\n\n#### Raw SQL:\n```sql\n{code}\n```",
        metadata={
            "dagster-dbt/materialization_type": "table",
            "dagster/column_schema": dg.TableSchema(
                columns=[
                    dg.TableColumn(column, data_type, description)
                    for column, data_type, description in project.columns(number)
                ]
            ),
            "dagster/table_name": f"analytics.prod.{name}",
            "dagster_dbtcloud/unique_id": unique_id,
            "dagster_dbtcloud/manifest": "0123456789ab",
            "dagster_dbtcloud/environment": "3",
            "dagster/storage_kind": "snowflake",
            "dagster_dbtcloud/explore_url": dg.MetadataValue.url(
                "https://cloud.getdbt.com/explore/1/projects/2/environments/production/details/"
                + unique_id
            ),
        },
        skippable=True,
        code_version=hashlib.sha1(code.encode(), usedforsecurity=False).hexdigest(),
        tags=dict.fromkeys(project.tags(number), ""),
        kinds={"dbtcloud", "snowflake"},
    )


def _check(number: int, test: int, models: int) -> dg.AssetCheckSpec:
    others = project.test_parents(number, test, models)[:-1]
    return dg.AssetCheckSpec(
        name=project.test_name(number, test),
        asset=dg.AssetKey([project.model_name(number)]),
        additional_deps=[
            dg.AssetDep(dg.AssetKey([unique_id.split(".")[2]])) for unique_id in others
        ],
        blocking=True,
        metadata={
            "dagster_dbtcloud/unique_id": project.test_id(number, test),
            "dagster_dbtcloud/manifest": "0123456789ab",
            "dagster_dbtcloud/environment": "3",
        },
    )
