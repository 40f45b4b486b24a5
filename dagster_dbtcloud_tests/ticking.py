"""A process that ticks the sensor as Dagster's daemon does, to be killed and started again.

It imports and loads everything once; for each line on its input it forks a child that ticks until
nothing is left to record, and says how the child ended. The child stores each event and then the
cursor, as the daemon: whoever kills it, leaves what a killed daemon leaves.

    DAGSTER_HOME=... DBT_CLOUD_...=... python -m dagster_dbtcloud_tests.ticking manifest.json cursor
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path

import dagster as dg

from dagster_dbtcloud.cursor import Cursor
from dagster_dbtcloud_tests.observing import definitions, workspace_of


def main(manifest: str, cursor_file: str) -> None:
    workspace = workspace_of(os.environ, manifest)
    defs = definitions(
        workspace,
        start_at=timedelta(days=400),
        max_events_per_tick=int(os.environ.get("EVENTS_PER_TICK", "2500")),
    )
    defs.get_repository_def()
    print("ready", flush=True)  # noqa: T201 - the parent process reads it
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            tick_to_the_end(defs, Path(cursor_file))
            os._exit(0)
        print(child, flush=True)  # noqa: T201
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201


def tick_to_the_end(defs: dg.Definitions, cursor_file: Path) -> None:
    """Tick until a tick finds nothing."""
    sensor = next(iter(defs.get_repository_def().sensor_defs))
    with dg.DagsterInstance.get() as instance:
        while True:
            cursor = cursor_file.read_text() if cursor_file.exists() else None
            with dg.build_sensor_context(
                instance=instance, cursor=cursor, repository_def=defs.get_repository_def()
            ) as context:
                data = sensor.evaluate_tick(context)
            for event in data.asset_events:
                os.write(1, b".\n")  # about to store it
                instance.report_runless_asset_event(event)
            os.write(1, b".\n")  # about to save the cursor
            written = cursor_file.with_suffix(".new")
            written.write_text(data.cursor or "")
            written.replace(cursor_file)
            after = Cursor.from_json(data.cursor)
            if not data.asset_events and "more to come" not in (data.skip_message or ""):
                assert after is not None
                assert not after.waiting, data.skip_message
                return


if __name__ == "__main__":
    main(*sys.argv[1:])
