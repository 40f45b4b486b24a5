"""The older, job-based API of dagster-dbt's dbt Cloud integration, for those who come from it.

It is thin: requests, runs and results are those of the other rooms, with their safety. New code has
better ways (docs/migration.md); each name here says which, once, as a DeprecationWarning.
"""

from dagster_dbtcloud.legacy.client import DbtCloudOutput, DbtCloudResource, DbtCloudRunStatus
from dagster_dbtcloud.legacy.job_assets import load_assets_from_dbt_cloud_job
from dagster_dbtcloud.legacy.resources import (
    DbtCloudClientResource,
    DbtCloudRunOpConfig,
    dbt_cloud_resource,
    dbt_cloud_run_op,
)

__all__ = [
    "DbtCloudClientResource",
    "DbtCloudOutput",
    "DbtCloudResource",
    "DbtCloudRunOpConfig",
    "DbtCloudRunStatus",
    "dbt_cloud_resource",
    "dbt_cloud_run_op",
    "load_assets_from_dbt_cloud_job",
]
