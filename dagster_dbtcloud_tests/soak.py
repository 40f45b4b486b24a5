"""One polling sensor through twenty thousand runs of dbt Cloud, on a clock that is held.

    python -m dagster_dbtcloud_tests.soak [--runs 20000]          (make observer-soak)

The real sensor, Dagster's own storage on disk, dbt Cloud over HTTP: one run of one model each half
minute, ten between two ticks. Printed: what was told, the longest cursor, and memory at each
quarter.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dagster as dg

from dagster_dbtcloud import (
    DbtCloudWorkspace,
    build_dbt_cloud_polling_sensor,
    load_dbt_cloud_asset_specs,
)
from dagster_dbtcloud.clock import Clock, ManualClock
from dagster_dbtcloud_tests.observing import project, results

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
APART = timedelta(seconds=30)
PER_TICK = 10
NODE = "model.shop.m0"
FIRST = 70403103700000


class History:
    """dbt Cloud, as far as the sensor looks: a run each half minute, for ever. It keeps nothing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._results = results([(NODE, "success")])

    def answer(self, path: str, query: Mapping[str, str]) -> bytes:
        if path.endswith("run_results.json"):
            return self._results
        bounds = json.loads(query["finished_at__range"])
        first = -(-(datetime.fromisoformat(bounds[0]) - START) // APART)
        last = (self._clock.now() - START) // APART
        numbers = range(max(0, first), last + 1)
        offset, limit = int(query.get("offset", 0)), int(query.get("limit", 100))
        body = {
            "status": {"code": 200, "is_success": True},
            "data": [self._run(number) for number in numbers[offset : offset + limit]],
            "extra": {"pagination": {"total_count": len(numbers)}},
        }
        return json.dumps(body).encode()

    def _run(self, number: int) -> Mapping[str, Any]:
        at = str(START + number * APART)
        job = {"id": 9, "name": "nightly", "execute_steps": ["dbt build"], "updated_at": str(START)}
        return {
            "id": FIRST + number,
            "status": 10,
            "created_at": at,
            "finished_at": at,
            "job": {**job, "generate_docs": False, "run_generate_sources": False},
            "trigger": {"id": number, "cause": "Scheduled", "cause_category": "scheduled"},
        }


@contextmanager
def served(history: History) -> Iterator[str]:
    """Serve it over HTTP; yield the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet for an answer

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            body = history.answer(url.path.rstrip("/"), query)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Not into the output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Quarter:
    runs: int
    objects: int
    """Objects that the cycle collector knows."""
    resident: int
    """Bytes of memory that the process has."""


@dataclass(frozen=True)
class Soaked:
    lost: int
    twice: int
    longest_cursor: int
    quarters: tuple[Quarter, ...]

    @property
    def grown(self) -> tuple[int, int]:
        """Objects and bytes from the first quarter's end to the last one's."""
        first, last = self.quarters[0], self.quarters[-1]
        return last.objects - first.objects, last.resident - first.resident


def soak(runs: int, say: Callable[[str], object] = lambda _: None) -> Soaked:
    """Tick through so many runs."""
    clock = ManualClock(START - APART)
    told: Counter[str] = Counter()
    longest, cursor = 0, None
    quarters: list[Quarter] = []
    ticks = runs // PER_TICK
    with (
        served(History(clock)) as url,
        tempfile.TemporaryDirectory() as home,
        dg.DagsterInstance.local_temp(home) as instance,
    ):
        workspace = DbtCloudWorkspace(
            account_id=1,
            token="t",
            access_url=url,
            project_id=2,
            environment_id=3,
            manifest=project(1, 0),
            clock=clock,
        )
        sensor = build_dbt_cloud_polling_sensor(workspace=workspace)
        repository = dg.Definitions(
            assets=load_dbt_cloud_asset_specs(workspace), sensors=[sensor]
        ).get_repository_def()
        for tick in range(ticks):
            clock.advance(PER_TICK * APART.total_seconds())
            with dg.build_sensor_context(
                instance=instance, cursor=cursor, repository_def=repository
            ) as context:
                data = sensor.evaluate_tick(context)
            for event in data.asset_events:
                instance.report_runless_asset_event(event)
                told[str(event.metadata["dbt_cloud_run_id"].value)] += 1
            cursor = data.cursor
            longest = max(longest, len(cursor or ""))
            if (tick + 1) % (ticks // 4) == 0:
                del context, data, event
                expected = {str(FIRST + number) for number in range((tick + 1) * PER_TICK)}
                lost, twice = len(expected - told.keys()), told.total() - len(told)
                told = Counter()  # its own growth is not the sensor's
                told.update(expected)
                quarters.append(_quarter((tick + 1) * PER_TICK))
                say(f"{quarters[-1]}; lost {lost}, twice {twice}")
    return Soaked(lost, twice, longest, tuple(quarters))


def _quarter(runs: int) -> Quarter:
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Quarter(runs, len(gc.get_objects()), resident)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dagster_dbtcloud_tests.soak")
    parser.add_argument("--runs", type=int, default=20_000)
    found = soak(parser.parse_args().runs, _say)
    objects, resident = found.grown
    _say(
        f"lost {found.lost}, twice {found.twice}; the longest cursor has {found.longest_cursor:,} "
        f"characters; since the first quarter {objects:+,} objects, {resident / 1e6:+.1f} MB"
    )
    good = not (found.lost or found.twice) and found.longest_cursor < 10_000
    return 0 if good and objects < 2_000 and resident < 20e6 else 1


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
