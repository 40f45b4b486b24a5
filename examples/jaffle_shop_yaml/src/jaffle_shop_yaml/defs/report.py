"""What is written in Python: an asset on top of dbt's models, and a schedule."""

import dagster as dg


@dg.asset(
    deps=["orders", "customers"],
    group_name="reports",
    kinds={"python"},
    automation_condition=dg.AutomationCondition.eager(),
)
def monday_report(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """By which dbt Cloud run the models of the Monday page were last built."""
    lines = []
    for model in ("orders", "customers"):
        event = context.instance.get_latest_materialization_event(dg.AssetKey(model))
        built = event.asset_materialization if event else None
        run = built.metadata.get("dbt_cloud_run_id") if built else None
        lines.append(f"- {model}: {run.value if run else 'not yet'}")
    return dg.MaterializeResult(metadata={"report": dg.MetadataValue.md("\n".join(lines))})


nightly = dg.ScheduleDefinition(
    name="nightly",
    target=dg.AssetSelection.kind("dbtcloud"),
    cron_schedule="0 3 * * *",
)
