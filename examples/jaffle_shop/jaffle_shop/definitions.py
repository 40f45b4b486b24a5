"""A shop's data: a Python loader, dbt in dbt Cloud, a Python report, and what starts them.

Which dbt Cloud is used is said by environment variables alone: the sandbox on this machine, or a
real account (see README.md).
"""

import hashlib
import json
import os
from datetime import datetime, timedelta, timezone

import dagster as dg

from dagster_dbtcloud import (
    DbtCloudCredentials,
    DbtCloudWorkspace,
    build_dbt_cloud_polling_sensor,
    build_schedule_from_dbt_selection,
    dbt_cloud_assets,
    get_asset_key_for_model,
    get_asset_key_for_source,
)

workspace = DbtCloudWorkspace(
    credentials=DbtCloudCredentials(
        account_id=os.getenv("DBT_CLOUD_ACCOUNT_ID"),
        token=os.getenv("DBT_CLOUD_TOKEN"),
        access_url=os.getenv("DBT_CLOUD_ACCESS_URL"),
    ),
    project_id=os.getenv("DBT_CLOUD_PROJECT_ID"),
    environment_id=os.getenv("DBT_CLOUD_ENVIRONMENT_ID"),
)


# --- dbt: every model, seed and snapshot is an asset, every test a check


@dbt_cloud_assets(workspace=workspace)
def jaffle_shop_dbt_assets(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace):
    yield from dbt_cloud.cli(args=["build"], context=context).wait()


# Each of them is built again soon after something that it reads has changed.
dbt_assets = jaffle_shop_dbt_assets.map_asset_specs(
    lambda spec: spec.replace_attributes(automation_condition=dg.AutomationCondition.eager())
)


# --- upstream: a Python asset fills the table that dbt knows as source('web', 'visits')


class Day(dg.Config):
    """Which day to load: YYYY-MM-DD, or nothing for yesterday."""

    day: str = ""


@dg.asset(
    key=get_asset_key_for_source([dbt_assets], "web"),
    group_name="raw",
    kinds={"python"},
    description="Loads one day of the web site's visits, through a dbt operation.",
)
def web_visits(
    context: dg.AssetExecutionContext, config: Day, dbt_cloud: DbtCloudWorkspace
) -> dg.MaterializeResult:
    day = config.day or f"{datetime.now(timezone.utc) - timedelta(days=1):%Y-%m-%d}"
    visits = read_web_log(day)
    operation = dbt_cloud.cli(
        args=["run-operation", "load_visits", "--args", json.dumps({"day": day, "visits": visits})],
        context=context,
    )
    for _ in operation.wait():  # an operation builds nothing, so it has no results to hand on
        pass
    return dg.MaterializeResult(
        metadata={
            "day": day,
            "rows": len(visits),
            "pages": sum(pages for _, pages in visits),
        }
    )


def read_web_log(day: str) -> list[tuple[int, int]]:
    """Return (customer, pages) for each customer who came on ``day``.

    Your own loader goes here. This one invents visits, the same ones each time for the same day;
    that the rows travel to the warehouse inside a dbt command is fine for a few dozen of them.
    """
    dice = hashlib.sha256(day.encode()).digest()
    return [(customer, 1 + dice[customer] % 9) for customer in range(1, 25) if dice[customer] > 96]


# --- downstream: a Python asset on top of dbt's models


REPORTED = [
    get_asset_key_for_model([dbt_assets], model) for model in ("orders", "customers", "engagement")
]


@dg.asset(
    deps=REPORTED,
    group_name="reports",
    kinds={"python"},
    automation_condition=dg.AutomationCondition.eager(),
    description="When and by which dbt Cloud run the models of the Monday page were last built.",
)
def monday_report(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    lines = ["| model | built | dbt Cloud run |", "|---|---|---|"]
    for key in REPORTED:
        event = context.instance.get_latest_materialization_event(key)
        if event is None or event.asset_materialization is None:
            lines.append(f"| {key.to_user_string()} | never | |")
            continue
        built = datetime.fromtimestamp(event.timestamp, tz=timezone.utc)
        metadata = event.asset_materialization.metadata
        run_id, url = metadata.get("dbt_cloud_run_id"), metadata.get("dbt_cloud_run")
        run = f"[{run_id.value}]({url.value})" if run_id and url else "?"
        lines.append(f"| {key.to_user_string()} | {built:%Y-%m-%d %H:%M:%S} UTC | {run} |")
    return dg.MaterializeResult(metadata={"report": dg.MetadataValue.md("\n".join(lines))})


# --- what starts them

nightly = build_schedule_from_dbt_selection(
    [dbt_assets],
    job_name="nightly",
    cron_schedule="0 3 * * *",
    dbt_selector="nightly",
)

automation = dg.AutomationConditionSensorDefinition(
    name="automation",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=10,
)

# Records what dbt Cloud ran by itself: its own schedules, people, CI.
polling = build_dbt_cloud_polling_sensor(
    workspace=workspace,
    default_sensor_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=10,
)


defs = dg.Definitions(
    assets=[web_visits, dbt_assets, monday_report],
    schedules=[nightly],
    sensors=[automation, polling],
    resources={"dbt_cloud": workspace},
)
