"""The account as a Dagster resource, in both of its older forms, and the op that runs a job."""

# No `from __future__ import annotations`: Dagster reads those of ops and resources as objects.

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
from pydantic import Field

from dagster_dbtcloud.clock import Clock
from dagster_dbtcloud.legacy.client import (
    DEFAULT_POLL_INTERVAL,
    DbtCloudOutput,
    DbtCloudResource,
    as_run,
)
from dagster_dbtcloud.legacy.notice import deprecated
from dagster_dbtcloud.translator import ASSET_TYPES
from dagster_dbtcloud.workspace import DEFAULT_ACCESS_URL


class DbtCloudClientResource(dg.ConfigurableResource[Any], dg.IAttachDifferentObjectToOpContext):
    """The account as a Dagster resource; ops get a ``DbtCloudResource``.

    ::

        DbtCloudClientResource(
            auth_token=dg.EnvVar("DBT_CLOUD_API_TOKEN"),
            account_id=dg.EnvVar.int("DBT_CLOUD_ACCOUNT_ID"),
        )
    """

    auth_token: dg.ResourceDependency[Any]
    account_id: dg.ResourceDependency[Any]
    dbt_cloud_host: dg.ResourceDependency[Any]
    clock: dg.ResourceDependency[Any]
    disable_schedule_on_trigger: bool = Field(
        default=True, description="Whether the schedule of a job that is triggered is taken off."
    )

    def __init__(
        self,
        *,
        account_id: Any,
        auth_token: Any = None,
        api_token: Any = None,
        disable_schedule_on_trigger: bool = True,
        request_max_retries: int = 3,
        request_retry_delay: float = 0.25,
        dbt_cloud_host: Any = DEFAULT_ACCESS_URL,
        clock: Clock | None = None,
    ) -> None:
        del request_max_retries, request_retry_delay
        token = auth_token if auth_token is not None else api_token
        del auth_token, api_token
        super().__init__(
            auth_token=token,
            account_id=account_id,
            dbt_cloud_host=dbt_cloud_host,
            clock=clock,
            disable_schedule_on_trigger=disable_schedule_on_trigger,
        )

    def __repr__(self) -> str:
        return "DbtCloudClientResource()"

    __str__ = __repr__

    def get_dbt_client(self, log: logging.Logger | None = None) -> DbtCloudResource:
        """Return the client; inside a run it writes to the run's log."""
        return DbtCloudResource(
            auth_token=self.auth_token,
            account_id=self.account_id,
            disable_schedule_on_trigger=self.disable_schedule_on_trigger,
            dbt_cloud_host=self.dbt_cloud_host,
            log=log,
            clock=self.clock,
        )

    def get_object_to_set_on_execution_context(self) -> DbtCloudResource:
        return self.get_dbt_client(self.get_resource_context().log)


class _DbtCloudResourceDefinition(dg.ResourceDefinition):
    """Also to be called with the configuration by name, as some documentation has it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args or not kwargs or "init_context" in kwargs:
            return super().__call__(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self.configured(kwargs)


def _make_resource(context: dg.InitResourceContext) -> DbtCloudResource:
    config = context.resource_config
    return DbtCloudResource(
        auth_token=config.get("auth_token") or config.get("api_token"),
        account_id=config["account_id"],
        disable_schedule_on_trigger=config["disable_schedule_on_trigger"],
        dbt_cloud_host=config["dbt_cloud_host"],
        log=context.log,
    )


dbt_cloud_resource = _DbtCloudResourceDefinition(
    resource_fn=_make_resource,
    config_schema={
        "auth_token": dg.Field(dg.StringSource, is_required=False),
        "api_token": dg.Field(dg.StringSource, is_required=False),
        "account_id": dg.Field(dg.IntSource),
        "disable_schedule_on_trigger": dg.Field(bool, default_value=True),
        "request_max_retries": dg.Field(int, default_value=3, description="Not used."),
        "request_retry_delay": dg.Field(float, default_value=0.25, description="Not used."),
        "dbt_cloud_host": dg.Field(dg.StringSource, default_value=DEFAULT_ACCESS_URL),
    },
    description="A dbt Cloud account: its jobs and runs.",
)
"""The account as a resource of the older kind: ``dbt_cloud_resource.configured({...})``."""


# --- the op --------------------------------------------------------------------------------------


class DbtCloudRunOpConfig(dg.Config):
    """What ``dbt_cloud_run_op`` is configured with."""

    job_id: int = Field(description="The dbt Cloud job to run.")
    poll_interval: float = Field(default=DEFAULT_POLL_INTERVAL, description="Not used.")
    poll_timeout: float | None = Field(
        default=None, description="Seconds after which the run is cancelled. Default: no limit."
    )
    yield_materializations: bool = Field(
        default=True, description="Whether what the run built is materialized in Dagster."
    )
    asset_key_prefix: list[str] = Field(
        default=["dbt"], description="What stands before the unique id in the asset keys."
    )


@dg.op(
    required_resource_keys={"dbt_cloud"},
    ins={"start_after": dg.In(dg.Nothing)},
    out=dg.Out(DbtCloudOutput, description="The finished run and dbt's results."),
    tags={"dagster/compute_kind": "dbt_cloud"},
)
def dbt_cloud_run_op(context: dg.OpExecutionContext, config: DbtCloudRunOpConfig) -> Iterator[Any]:
    """Run a dbt Cloud job to its end, and materialize what it built::

        run_nightly = dbt_cloud_run_op.configured({"job_id": 54321}, name="run_nightly")

        @dg.job(resource_defs={"dbt_cloud": my_dbt_cloud_resource})
        def nightly():
            run_nightly()

    Raises: dagster.Failure, when the run does not succeed.
    """
    deprecated("dbt_cloud_run_op", "DbtCloudWorkspace.run_job in an op or in @dbt_cloud_assets")
    output = context.resources.dbt_cloud.run_job_and_poll(
        config.job_id, poll_interval=config.poll_interval, poll_timeout=config.poll_timeout
    )
    if config.yield_materializations:
        for result in output.result.get("results", ()):
            unique_id = str(result.get("unique_id"))
            built = result.get("status") in ("success", "warn")
            if built and unique_id.split(".")[0] in ASSET_TYPES:
                yield dg.AssetMaterialization(
                    asset_key=[*config.asset_key_prefix, *unique_id.split(".")],
                    description=f"dbt node {unique_id}",
                    metadata=_metadata(result, output),
                )
    run = as_run(output.run_details)
    times = {"created_at": run.created_at, "started_at": run.started_at}
    yield dg.Output(
        output,
        metadata={
            **{
                name: value.isoformat()
                for name, value in {**times, "finished_at": run.finished_at}.items()
                if value is not None
            },
            "total_duration": str(output.run_details.get("duration") or ""),
            "run_duration": str(output.run_details.get("run_duration") or ""),
        },
    )


def _metadata(result: Mapping[str, Any], output: DbtCloudOutput) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "Status": str(result.get("status")),
        "Execution Time (seconds)": float(result.get("execution_time") or 0.0),
        "dbt_cloud_run_id": str(output.run_id),
    }
    if output.run_details.get("href"):
        metadata["dbt_cloud_run"] = dg.MetadataValue.url(output.run_details["href"])
    return metadata
