"""`@dbt_cloud_assets` and the loaders of specs: from a workspace to Dagster definitions.

What runs inside the decorated function is the user's; it usually is one call of
``DbtCloudWorkspace.cli``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import dagster as dg

from dagster_dbtcloud.context import (
    DEFAULT_SELECT,
    EXCLUDE_TAG,
    JOB_TAG,
    SELECT_TAG,
    SELECTOR_TAG,
)
from dagster_dbtcloud.dbt.manifest import collector_at_rest
from dagster_dbtcloud.errors import ConfigError
from dagster_dbtcloud.partitions import PartitionVars, register, time_window_vars
from dagster_dbtcloud.specs import refuse_names
from dagster_dbtcloud.translator import DagsterDbtTranslator
from dagster_dbtcloud.workspace import DbtCloudWorkspace

logger = logging.getLogger("dagster_dbtcloud")


def load_dbt_cloud_asset_specs(
    workspace: DbtCloudWorkspace,
    dagster_dbt_translator: DagsterDbtTranslator | None = None,
    select: str = DEFAULT_SELECT,
    exclude: str = "",
    selector: str = "",
) -> Sequence[dg.AssetSpec]:
    """Return one asset spec for each selected model, seed and snapshot of the workspace.

    Raises: SelectionError, StateError, ManifestError, ConfigError.
    """
    return workspace.load_asset_specs(
        select=select,
        exclude=exclude,
        selector=selector,
        dagster_dbt_translator=dagster_dbt_translator,
    )


def load_dbt_cloud_check_specs(
    workspace: DbtCloudWorkspace,
    dagster_dbt_translator: DagsterDbtTranslator | None = None,
    select: str = DEFAULT_SELECT,
    exclude: str = "",
    selector: str = "",
) -> Sequence[dg.AssetCheckSpec]:
    """Return one check spec for each test of the selected nodes.

    Raises: SelectionError, StateError, ManifestError, ConfigError.
    """
    return workspace.load_check_specs(
        select=select,
        exclude=exclude,
        selector=selector,
        dagster_dbt_translator=dagster_dbt_translator,
    )


def dbt_cloud_assets(
    *,
    workspace: DbtCloudWorkspace,
    select: str = DEFAULT_SELECT,
    exclude: str = "",
    selector: str = "",
    job: int | str | dg.EnvVar | None = None,
    name: str | None = None,
    group_name: str | None = None,
    dagster_dbt_translator: DagsterDbtTranslator | None = None,
    partitions_def: dg.PartitionsDefinition[Any] | None = None,
    partition_vars: PartitionVars | None = time_window_vars,
    backfill_policy: dg.BackfillPolicy | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    op_tags: Mapping[str, Any] | None = None,
    description: str | None = None,
    pool: str | None = None,
    required_resource_keys: set[str] | None = None,
    config_schema: Any | None = None,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Define the selected dbt nodes as assets that the decorated function materializes.

    ::

        @dbt_cloud_assets(workspace=workspace)
        def my_dbt_assets(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace):
            yield from dbt_cloud.cli(["build"], context=context).wait()

    ``select``, ``exclude`` and ``selector`` are dbt's. ``group_name`` replaces the groups that the
    translator gives.

    ``job`` is a job of dbt Cloud by id, digits, name or URL: the assets are those of the selection
    that its commands build, and ``run_job(context=context)`` and ``cli`` run that job.

    With time partitions, a backfill is one run unless ``backfill_policy`` says otherwise.
    ``partition_vars`` gives dbt's vars for the partitions of a step; it is called with the
    context. By default ``min_date`` and ``max_date`` of time partitions (``time_window_vars``);
    None gives none. The other arguments are those of ``dagster.multi_asset``.

    Raises: ConfigError when nothing is selected, or the job cannot be used; SelectionError,
    StateError, ManifestError; ApiError when a job was never seen and dbt Cloud does not answer.
    """
    known = None if job is None else workspace.load_job(job)
    specs = workspace.load_specs(select, exclude, selector, dagster_dbt_translator, job=known)
    if not specs.asset_specs and not specs.check_specs:
        raise ConfigError(
            f"@dbt_cloud_assets selects nothing of {specs.manifest.origin}: select={select!r}, "
            f"exclude={exclude!r}, selector={selector!r}"
            f"{'.' if known is None else f', job {known.name!r}: {list(known.steps)}.'}"
        )
    if known is not None and known.starts:
        logger.warning(
            "The dbt Cloud job %r (%s) is also started by %s: it may run twice.",
            known.name,
            known.id,
            " and ".join(known.starts),
        )
    stand_ins = _stand_ins(specs.asset_specs)
    asset_specs = [_with_deps(spec, stand_ins) for spec in specs.asset_specs]
    if group_name is not None:
        asset_specs = [spec.replace_attributes(group_name=group_name) for spec in asset_specs]
    if partitions_def is not None:
        asset_specs = [
            spec.replace_attributes(partitions_def=partitions_def) for spec in asset_specs
        ]
        if backfill_policy is None and isinstance(
            partitions_def, dg.TimeWindowPartitionsDefinition
        ):
            backfill_policy = dg.BackfillPolicy.single_run()
    decorated = dg.multi_asset(
        name=name,
        specs=asset_specs,
        check_specs=list(specs.check_specs),
        can_subset=True,
        required_resource_keys=required_resource_keys,
        config_schema=config_schema,
        backfill_policy=backfill_policy,
        retry_policy=retry_policy,
        op_tags={
            SELECT_TAG: select,
            EXCLUDE_TAG: exclude,
            SELECTOR_TAG: selector,
            **({} if known is None else {JOB_TAG: str(known.id)}),
            # also without partitions here: the translator may give them, or who maps the specs
            **register(partition_vars),
            **(op_tags or {}),
        },
        description=description,
        pool=pool,
        # dbt tests of sources are checks of assets that are upstream, not ours; and Dagster's own
        # look-up of each check's asset is quadratic
        allow_arbitrary_check_specs=True,
    )

    def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
        with collector_at_rest():
            try:
                definition = decorated(function)
            except dg.DagsterInvalidDefinitionError as refusal:
                refuse_names(specs, refusal)
                raise
            if stand_ins:
                # Dagster takes no ``ins`` for a dependency of which nothing is loaded
                real = {stand_in: key for key, stand_in in stand_ins.items()}
                definition = definition.with_attributes(asset_key_replacements=real)
            return definition

    return decorate


def _stand_ins(specs: Sequence[dg.AssetSpec]) -> dict[dg.AssetKey, dg.AssetKey]:
    """Return other keys for parents that Dagster would call by one name, all but the first of each.

    It names the inputs of a step by the joined parts of the key: of ``raw/b_c`` and ``raw_b/c``
    it would forget one, and the order of the steps with it.
    """
    own = {spec.key for spec in specs}
    first: dict[str, dg.AssetKey] = {}
    stand_ins = {}
    for key in (dep.asset_key for spec in specs for dep in spec.deps):
        name = re.sub(r"[-.]", "_", "_".join(key.path))
        if key not in own and first.setdefault(name, key) != key:
            digest = sha256(key.to_string().encode()).hexdigest()
            stand_ins[key] = dg.AssetKey([*key.path, digest])
    return stand_ins


def _with_deps(spec: dg.AssetSpec, stand_ins: Mapping[dg.AssetKey, dg.AssetKey]) -> dg.AssetSpec:
    if not any(dep.asset_key in stand_ins for dep in spec.deps):
        return spec
    deps = [
        dg.AssetDep(
            stand_ins.get(dep.asset_key, dep.asset_key), partition_mapping=dep.partition_mapping
        )
        for dep in spec.deps
    ]
    return spec.replace_attributes(deps=deps)
