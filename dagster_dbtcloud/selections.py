"""Helpers around dbt Cloud assets: keys for dependencies both ways, asset selections, schedules.

They work on definitions and specs that exist already; they read no dbt Cloud and build no specs.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import dagster as dg

from dagster_dbtcloud.dbt.selection import select as select_nodes
from dagster_dbtcloud.errors import ConfigError, UnknownNameError
from dagster_dbtcloud.specs import UNIQUE_ID, DbtSpecs, specs_of
from dagster_dbtcloud.translator import ASSET_TYPES, reading_of

DbtAssets = dg.AssetsDefinition | dg.AssetSpec
"""What ``@dbt_cloud_assets`` makes, or one of what ``load_dbt_cloud_asset_specs`` gives."""


def get_asset_key_for_model(dbt_assets: Sequence[DbtAssets], model_name: str) -> dg.AssetKey:
    """Return the asset key of a dbt model, seed or snapshot, to depend on it::

        @asset(deps=[get_asset_key_for_model([my_dbt_assets], "customers")])

    A versioned model is named with its version, as in ``customers.v2``; without it, its latest
    version is meant. Raises: UnknownNameError if there is none, or more than one.
    """
    sets = _sets(dbt_assets)
    by_name: dict[str, dict[str, DbtSpecs]] = {}
    for specs in sets:
        for unique_id, node in specs.manifest.nodes.items():
            if node.resource_type in ASSET_TYPES and node.materialized != "ephemeral":
                for name in _names(node.name, node.version, node.latest_version):
                    by_name.setdefault(name, {}).setdefault(unique_id, specs)
    found = by_name.get(model_name, {})
    if not found:
        raise UnknownNameError(
            f"There is no dbt model, seed or snapshot {model_name!r}.{_close(model_name, by_name)}"
        )
    # Two packages may have a model of one name; the one that is in the definition is meant.
    declared = _declared(dbt_assets)
    keys = {unique_id: declared[unique_id] for unique_id in found if unique_id in declared} or {
        unique_id: _key(specs, unique_id) for unique_id, specs in found.items()
    }
    if len(keys) > 1:
        raise UnknownNameError(
            f"{model_name!r} is the name of several nodes: {', '.join(sorted(keys))}."
        )
    return next(iter(keys.values()))


def get_asset_key_for_source(dbt_assets: Sequence[DbtAssets], source_name: str) -> dg.AssetKey:
    """Return the asset key of a dbt source that has one table, to produce it in Dagster::

        @asset(key=get_asset_key_for_source([my_dbt_assets], "raw_orders"))

    Raises: UnknownNameError if there is no such source, or it has more tables.
    """
    keys = get_asset_keys_by_output_name_for_source(dbt_assets, source_name)
    if len(keys) > 1:
        raise UnknownNameError(
            f"The source {source_name!r} has more than one table:"
            f" {', '.join(sorted(key.to_user_string() for key in keys.values()))}."
            " Use get_asset_keys_by_output_name_for_source."
        )
    return next(iter(keys.values()))


def get_asset_keys_by_output_name_for_source(
    dbt_assets: Sequence[DbtAssets], source_name: str
) -> Mapping[str, dg.AssetKey]:
    """Return the asset keys of all tables of a dbt source, each under a name for its output::

        @multi_asset(outs={
            name: AssetOut(key=key)
            for name, key in get_asset_keys_by_output_name_for_source([my_assets], "raw").items()
        })

    Raises: UnknownNameError if there is no such source.
    """
    tables: dict[str, dg.AssetKey] = {}
    known: set[str] = set()
    for specs in _sets(dbt_assets):
        for unique_id, key in specs.source_keys.items():
            name = specs.manifest.nodes[unique_id].source_name or ""
            known.add(name)
            if name == source_name:
                tables[_output_name(unique_id)] = key
    if not tables:
        hint = _close(source_name, known)
        if not known:
            hint = " The dbt project has no sources."
        raise UnknownNameError(f"There is no dbt source {source_name!r}.{hint}")
    return tables


def build_dbt_asset_selection(
    dbt_assets: Sequence[DbtAssets],
    dbt_select: str = "fqn:*",
    dbt_exclude: str | None = "",
    dbt_selector: str | None = "",
) -> dg.AssetSelection:
    """Return the assets and checks of ``dbt_assets`` that dbt would select.

    The checks are those whose tests dbt would run with them, no others. What comes downstream in
    Dagster can be added: ``build_dbt_asset_selection([my_dbt_assets], "tag:daily").downstream()``.

    Raises: SelectionError; ConfigError.
    """
    selected: dict[str, Collection[str]] = {}
    for specs in _sets(dbt_assets):
        selected.setdefault(
            specs.manifest.digest,
            select_nodes(
                specs.manifest,
                select=dbt_select,
                exclude=dbt_exclude or "",
                selector=dbt_selector or "",
            ),
        )
    assets: list[dg.AssetKey] = []
    checks: list[dg.AssetCheckKey] = []
    of_sources: list[dg.AssetCheckKey] = []
    declared: set[dg.AssetCheckKey] = set()
    for item in dbt_assets:
        wanted = selected[specs_of(item).manifest.digest]
        if isinstance(item, dg.AssetSpec):
            assets += [item.key] * (_unique_id(item) in wanted)
            continue
        assets += [spec.key for spec in item.specs if _unique_id(spec) in wanted]
        declared.update(item.check_keys)
        for check in item.check_specs:
            if _unique_id(check) in wanted:
                (checks if check.asset_key in item.keys else of_sources).append(check.key)
    selection = dg.AssetSelection.assets(*assets).without_checks()
    if checks:
        selection |= dg.AssetSelection.checks(*checks)
    if of_sources:
        selection |= _SourceChecks(frozenset(of_sources), frozenset(declared))
    return selection


@dataclass(frozen=True)
class _SourceChecks(dg.AssetSelection):
    """Checks on sources, wherever Dagster has moved them.

    When all definitions are known, Dagster takes a source for the asset that has its table name,
    and moves its checks there; a plain selection of the keys they had would be refused.
    """

    wanted: frozenset[dg.AssetCheckKey]
    declared: frozenset[dg.AssetCheckKey]

    def resolve_inner(
        self,
        asset_graph: Any,  # noqa: ARG002
        allow_missing: bool,  # noqa: ARG002
    ) -> AbstractSet[dg.AssetKey]:
        return frozenset()

    def resolve_checks_inner(
        self,
        asset_graph: Any,
        allow_missing: bool,  # noqa: ARG002
    ) -> AbstractSet[dg.AssetCheckKey]:
        present: AbstractSet[dg.AssetCheckKey] = asset_graph.asset_check_keys
        moved = {key.name for key in self.wanted - present}
        return (self.wanted & present) | {
            key for key in present - self.declared if key.name in moved
        }


def build_schedule_from_dbt_selection(
    dbt_assets: Sequence[DbtAssets],
    job_name: str,
    cron_schedule: str,
    dbt_select: str = "fqn:*",
    dbt_exclude: str | None = "",
    dbt_selector: str = "",
    schedule_name: str | None = None,
    tags: Mapping[str, Any] | None = None,
    config: dg.RunConfig | None = None,
    execution_timezone: str | None = None,
    default_status: dg.DefaultScheduleStatus = dg.DefaultScheduleStatus.STOPPED,
) -> dg.ScheduleDefinition:
    """Return a schedule whose job materializes what ``build_dbt_asset_selection`` selects."""
    return dg.ScheduleDefinition(
        name=schedule_name,
        cron_schedule=cron_schedule,
        job=dg.define_asset_job(
            name=job_name,
            selection=build_dbt_asset_selection(dbt_assets, dbt_select, dbt_exclude, dbt_selector),
            config=config,
            tags=tags,
        ),
        execution_timezone=execution_timezone,
        default_status=default_status,
    )


def _sets(dbt_assets: Sequence[DbtAssets]) -> list[DbtSpecs]:
    if isinstance(dbt_assets, (dg.AssetsDefinition, dg.AssetSpec)) or not isinstance(
        dbt_assets, Sequence
    ):
        raise ConfigError(
            f"dbt_assets must be a list, as in [my_dbt_assets], not {type(dbt_assets).__name__}."
        )
    if not dbt_assets:
        raise ConfigError("dbt_assets is empty: give at least one definition or spec.")
    sets = {id(specs): specs for specs in map(specs_of, dbt_assets)}
    return list(sets.values())


def _declared(dbt_assets: Iterable[DbtAssets]) -> dict[str, dg.AssetKey]:
    """Return the asset keys as they are now, by unique id: a definition may have changed them."""
    return {
        _unique_id(spec): spec.key
        for item in dbt_assets
        for spec in (item.specs if isinstance(item, dg.AssetsDefinition) else [item])
    }


def _unique_id(spec: dg.AssetSpec | dg.AssetCheckSpec) -> str:
    value = (spec.metadata or {}).get(UNIQUE_ID)
    return value.text or "" if isinstance(value, dg.TextMetadataValue) else str(value)


def _names(name: str, version: object, latest: object) -> list[str]:
    if version is None:
        return [name]
    return [f"{name}.v{version}", *([name] if version == latest else [])]


def _key(specs: DbtSpecs, unique_id: str) -> dg.AssetKey:
    return reading_of(specs.translator, specs.manifest.raw).key(unique_id)


def _output_name(unique_id: str) -> str:
    return unique_id.replace(".", "_").replace("-", "_").replace("*", "_star")


def _close(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f" Did you mean {' or '.join(close)}?" if close else ""
