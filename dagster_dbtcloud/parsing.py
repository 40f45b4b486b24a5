"""A first manifest: ``dbt parse`` in the ad hoc job, once for all processes that want one.

Only where no run of the environment has left a manifest (``state.py`` decides that).
"""

from __future__ import annotations

import logging
from contextlib import suppress
from uuid import uuid4

from dagster_dbtcloud.clock import Clock
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.models import ACTIVE_STATUSES, Run, TriggerRun
from dagster_dbtcloud.errors import ApiError, StateError
from dagster_dbtcloud.following import follow
from dagster_dbtcloud.starting import start_run

_CAUSE = "Dagster needs a manifest: no run of this environment has one"

logger = logging.getLogger("dagster_dbtcloud")


def parse_project(client: DbtCloudClient, job_id: int, *, clock: Clock) -> Run:
    """Run ``dbt parse`` in dbt Cloud and wait for it; a parse that is under way is joined.

    Raises: StateError, when the project cannot be parsed; ApiError.
    """
    run = _under_way(client, job_id)
    if run is None:
        trigger = TriggerRun(cause=f"{_CAUSE} [{uuid4().hex}]", steps_override=("dbt parse",))
        own = start_run(client, job_id, trigger, clock=clock, log=logger.warning)
        run = _under_way(client, job_id) or own
        if run.id != own.id:
            with suppress(ApiError):  # one parse too many does no harm
                client.cancel_run(own.id)
    *_, run = follow(client, run.id, clock=clock)
    if not run.is_success:
        raise StateError(
            f"dbt Cloud run {run.id} could not parse the project: {run.status_name}. "
            f"{run.status_message or ''} See {run.href}, mend the project, and reload."
        )
    return run


def _under_way(client: DbtCloudClient, job_id: int) -> Run | None:
    """Return the oldest active run that any Dagster process has started to get a manifest."""
    listed = client.runs(job_id=job_id, status_in=ACTIVE_STATUSES, order_by="id")
    ours = (run for run in listed if run.trigger and run.trigger.cause.startswith(_CAUSE))
    return next(ours, None)
