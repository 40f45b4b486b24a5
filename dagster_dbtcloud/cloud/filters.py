"""Which runs tell the truth about an environment's production state; pure, no requests."""

from __future__ import annotations

from dagster_dbtcloud.cloud.models import Run


def why_not_production(run: Run) -> str | None:
    """Say why ``run`` does not describe its environment's real tables; None when it does.

    Needs the run's ``trigger`` (``include_related``); what is absent counts as not overridden.
    A merge job builds the production branch, so it counts; a CI job builds a pull request.
    """
    trigger = run.trigger
    if run.job is not None and run.job.job_type == "ci":
        return "a CI job"
    if trigger is None:
        return None
    if trigger.cause_category == "ci" or trigger.is_pull_request:
        return "a pull request"
    if trigger.schema_override:
        return f"schema override {trigger.schema_override!r}"
    if trigger.git_branch:
        return f"branch override {trigger.git_branch!r}"
    if trigger.target_name_override:
        return f"target override {trigger.target_name_override!r}"
    return None
