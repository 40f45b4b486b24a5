"""How fast the sensor records a backlog, against Dagster's own rate of storing such events.

    python -m benchmarks.backlog [runs] [models] [rounds]

Each event is stored twice, one after the other, in two instances, so that what else runs on the
machine slows both: for the sensor's ticks with what they read, and alone.
It measures neither Dagster's daemon nor dbt Cloud's own speed: the sandbox answers over loopback.
"""

from __future__ import annotations

import sys
import tempfile
from datetime import timedelta
from typing import Any

import dagster as dg

from dagster_dbtcloud.clock import SystemClock
from dagster_dbtcloud.sandbox import Sandbox
from dagster_dbtcloud_tests.observing import (
    TINY,
    backlog,
    definitions,
    held,
    project,
    utc_now,
    workspace_of,
)


def main(runs: int = 1_000, models: int = 34, rounds: int = 10) -> float:
    """Record ``runs`` runs of ``models`` models and half as many tests; return the ratio."""
    clock = SystemClock()
    raw = project(models, models // 2 - 1)
    ours = floor = 0.0
    count = 0
    with (
        Sandbox(project_dir=TINY, warm=False) as sandbox,
        tempfile.TemporaryDirectory() as first,
        tempfile.TemporaryDirectory() as second,
        dg.DagsterInstance.local_temp(first) as instance,
        dg.DagsterInstance.local_temp(second) as beside,
    ):
        backlog(sandbox, raw, runs, ends=utc_now(), apart=timedelta(minutes=10))
        share = max(1, runs * len(raw["nodes"]) // rounds)
        defs = definitions(
            workspace_of(sandbox.env, raw), start_at=timedelta(days=400), max_events_per_tick=share
        )
        repository = defs.get_repository_def()
        sensor = next(iter(repository.sensor_defs))
        cursor: str | None = None
        for each in (instance, beside):
            held(each, raw)  # both have opened their files
        while True:
            start = clock.monotonic()
            with dg.build_sensor_context(
                instance=instance, cursor=cursor, repository_def=repository
            ) as context:
                data = sensor.evaluate_tick(context)
            reading = clock.monotonic() - start
            cursor = data.cursor
            if not data.asset_events:
                break
            storing, alone = _store(clock, data.asset_events, instance, beside)
            ours, floor = ours + reading + storing, floor + alone
            count += len(data.asset_events)
            _say(
                f"{len(data.asset_events)} events: read in {reading:.2f} s, stored in "
                f"{storing:.2f} s; alone {alone:.2f} s"
            )
    ratio = floor / ours
    _say(
        f"{count} events of {runs} runs: {count / ours:.0f}/s with reading, {count / floor:.0f}/s "
        f"stored alone: {ratio:.0%}"
    )
    return ratio


def _store(clock: SystemClock, events: Any, *instances: dg.DagsterInstance) -> list[float]:
    """Store each event in each instance, one after the other; return the seconds of each."""
    took = [0.0] * len(instances)
    for event in events:
        for number, instance in enumerate(instances):
            begun = clock.monotonic()
            instance.report_runless_asset_event(event)
            took[number] += clock.monotonic() - begun
    return took


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
