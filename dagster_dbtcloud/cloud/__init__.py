"""The dbt Cloud service over HTTP: what it offers, and how to ask for it.

This floor knows nothing of Dagster, nor of what stands in dbt's artifacts.
"""

from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.models import (
    Account,
    Environment,
    Job,
    Project,
    Run,
    RunStatus,
    RunStep,
    RunTrigger,
    TriggerRun,
)
from dagster_dbtcloud.cloud.urls import DbtCloudUrl, normalize_access_url, parse_url

__all__ = [
    "Account",
    "DbtCloudClient",
    "DbtCloudUrl",
    "Environment",
    "Job",
    "Project",
    "Run",
    "RunStatus",
    "RunStep",
    "RunTrigger",
    "TriggerRun",
    "normalize_access_url",
    "parse_url",
]
