"""Run dbt Cloud from Dagster."""
