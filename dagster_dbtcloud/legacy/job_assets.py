"""``load_assets_from_dbt_cloud_job``: what a job builds as assets, by functions of a node."""

# No `from __future__ import annotations`: Dagster reads those of ops and resources as objects.

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import dagster as dg

from dagster_dbtcloud.assets import dbt_cloud_assets
from dagster_dbtcloud.errors import ConfigError
from dagster_dbtcloud.legacy.client import DbtCloudResource
from dagster_dbtcloud.legacy.notice import deprecated
from dagster_dbtcloud.legacy.resources import DbtCloudClientResource
from dagster_dbtcloud.translator import DagsterDbtTranslator

NodeInfo = Mapping[str, Any]


class _JobTranslator(DagsterDbtTranslator):
    """The functions of ``load_assets_from_dbt_cloud_job`` as a translator."""

    def __init__(
        self,
        key: Callable[[NodeInfo], dg.AssetKey] | None,
        group: Callable[[NodeInfo], str | None] | None,
        freshness: Callable[[NodeInfo], Any] | None,
        automation: Callable[[NodeInfo], Any] | None,
    ) -> None:
        super().__init__()
        self._key, self._group = key, group
        self._freshness, self._automation = freshness, automation

    def get_asset_key(self, dbt_resource_props: NodeInfo) -> dg.AssetKey:
        if self._key is None:
            return super().get_asset_key(dbt_resource_props)
        return self._key(dbt_resource_props)

    def get_group_name(self, dbt_resource_props: NodeInfo) -> str | None:
        if self._group is None:
            return super().get_group_name(dbt_resource_props)
        return self._group(dbt_resource_props)

    def get_automation_condition(
        self, dbt_resource_props: NodeInfo
    ) -> dg.AutomationCondition[Any] | None:
        if self._automation is None:
            return super().get_automation_condition(dbt_resource_props)
        policy = self._automation(dbt_resource_props)
        if hasattr(policy, "to_automation_condition"):  # an AutoMaterializePolicy
            policy = policy.to_automation_condition()
        condition: dg.AutomationCondition[Any] | None = policy
        return condition

    def get_asset_spec(self, manifest: NodeInfo, unique_id: str, project: Any) -> dg.AssetSpec:
        spec = super().get_asset_spec(manifest, unique_id, project)
        if self._freshness is None:
            return spec
        policy = _present_freshness(self._freshness(self.get_resource_props(manifest, unique_id)))
        return spec if policy is None else spec.replace_attributes(freshness_policy=policy)


def _present_freshness(policy: Any) -> Any:
    """Return the present form of a freshness policy that allows a lag in minutes."""
    minutes = getattr(policy, "maximum_lag_minutes", None)
    if minutes is None:
        return policy
    window = timedelta(minutes=float(minutes))
    cron = getattr(policy, "cron_schedule", None)
    if not cron:
        return dg.FreshnessPolicy.time_window(fail_window=window)
    return dg.FreshnessPolicy.cron(
        deadline_cron=cron,
        lower_bound_delta=window,
        timezone=getattr(policy, "cron_schedule_timezone", None) or "UTC",
    )


def load_assets_from_dbt_cloud_job(
    dbt_cloud: DbtCloudClientResource | dg.ResourceDefinition,
    job_id: int,
    node_info_to_asset_key: Callable[[NodeInfo], dg.AssetKey] | None = None,
    node_info_to_group_fn: Callable[[NodeInfo], str | None] | None = None,
    node_info_to_freshness_policy_fn: Callable[[NodeInfo], Any] | None = None,
    node_info_to_auto_materialize_policy_fn: Callable[[NodeInfo], Any] | None = None,
    partitions_def: dg.PartitionsDefinition[Any] | None = None,
    partition_key_to_vars_fn: Callable[[str], Mapping[str, Any]] | None = None,
    op_tags: Mapping[str, Any] | None = None,
) -> dg.AssetsDefinition:
    """Return the nodes that a dbt Cloud job builds as assets, which running the job materializes.

    The functions get a node's entry in manifest.json, and return its asset key, group, freshness
    policy (``dagster.FreshnessPolicy``, or an older one with ``maximum_lag_minutes``), automation
    condition or ``AutoMaterializePolicy``. ``partition_key_to_vars_fn`` gives dbt's vars for a
    partition. The manifest is that of a run that has been; no run is started to get one while
    there is any. dbt's tests become asset checks.

    Raises: ConfigError, StateError; dagster.Failure, when dbt Cloud does not answer.
    """
    deprecated("load_assets_from_dbt_cloud_job", "@dbt_cloud_assets(workspace=..., job=...)")
    if partition_key_to_vars_fn is not None and partitions_def is None:
        raise ConfigError("partition_key_to_vars_fn needs a partitions_def.")
    resource = _initialized(dbt_cloud)
    workspace = resource.workspace(job_id)
    to_vars = partition_key_to_vars_fn

    def partition_vars(context: Any) -> Mapping[str, Any]:
        return {} if to_vars is None else to_vars(context.partition_key)

    # Steps find the function by its name, and a project may have several such jobs.
    partition_vars.__qualname__ = f"load_assets_from_dbt_cloud_job[{job_id}]"

    @dbt_cloud_assets(
        workspace=workspace,
        job=job_id,
        name=f"dbt_cloud_job_{job_id}",
        dagster_dbt_translator=_JobTranslator(
            node_info_to_asset_key,
            node_info_to_group_fn,
            node_info_to_freshness_policy_fn,
            node_info_to_auto_materialize_policy_fn,
        ),
        partitions_def=partitions_def,
        partition_vars=partition_vars,
        # The vars are of one partition, so is each run.
        backfill_policy=dg.BackfillPolicy.multi_run(1) if to_vars is not None else None,
        op_tags=op_tags,
    )
    def assets(context: dg.AssetExecutionContext) -> Iterator[Any]:
        invocation = workspace.run_job(
            context=context, disable_schedule_on_trigger=resource.disable_schedule_on_trigger
        )
        yield from invocation.wait()

    return assets


def _initialized(dbt_cloud: DbtCloudClientResource | dg.ResourceDefinition) -> DbtCloudResource:
    if isinstance(dbt_cloud, DbtCloudClientResource):
        return dbt_cloud.get_dbt_client()
    if isinstance(dbt_cloud, dg.ResourceDefinition):
        made = dbt_cloud(dg.build_init_resource_context())
        if isinstance(made, DbtCloudResource):
            return made
    raise ConfigError(
        "dbt_cloud takes dbt_cloud_resource.configured({...}) or a DbtCloudClientResource, not "
        f"{type(dbt_cloud).__name__}."
    )
