"""Notes that say "look at this dbt Cloud run now", from a webhook's receiver to the sensor.

They lie in the Dagster instance's own storage, so the two may be on different machines. A note that
is lost costs time only: the sensor finds every run by itself.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import dagster as dg

FRESH = timedelta(minutes=10)
"""How long a note is heeded; by then the sensor has met the run."""
_SLOTS = 64
"""Places for notes; two runs may meet in one, then the later stands."""


def leave_note(
    instance: dg.DagsterInstance,
    *,
    account_id: int,
    environment_id: int | None,
    run_id: int,
    now: datetime,
) -> None:
    """Leave a note for the sensors of this instance. Safe in any process, at any time, again.

    Without an environment it is for those of every environment.
    """
    note = json.dumps([run_id, now.timestamp(), environment_id])
    place = _place(account_id, run_id % _SLOTS)
    instance.daemon_cursor_storage.set_cursor_values({place: note})


def notes(
    instance: dg.DagsterInstance, *, account_id: int, environment_id: int, now: datetime
) -> frozenset[int]:
    """Return the runs of an environment that were noted of late. One query."""
    places = {_place(account_id, slot) for slot in range(_SLOTS)}
    found: set[int] = set()
    for text in instance.daemon_cursor_storage.get_cursor_values(places).values():
        try:
            run_id, written, environment = json.loads(text)
            fresh = abs(now.timestamp() - float(written)) < FRESH.total_seconds()
            if fresh and environment in (None, environment_id):
                found.add(int(run_id))
        except (ValueError, TypeError):
            continue  # another version's note
    return frozenset(found)


def _place(account_id: int, slot: int) -> str:
    return f"dagster_dbtcloud/wake/{account_id}/{slot}"
