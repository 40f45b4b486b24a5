"""The sensor for a long time: nothing grows."""

import gc
import json
import tracemalloc
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg
import httpx
import pytest

from dagster_dbtcloud.clock import ManualClock
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cursor import Cursor
from dagster_dbtcloud.events import Declared
from dagster_dbtcloud.history import Scope
from dagster_dbtcloud.polling import Poll
from dagster_dbtcloud.state import WorkspaceIds
from dagster_dbtcloud_tests.observing import results

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
APART = timedelta(seconds=30)
NODE = "model.shop.m0"
IDS = WorkspaceIds("https://dbt.example", 1, 2, 3)


class History:
    """dbt Cloud, as far as the sensor looks: one run of one node each half minute, for ever."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._results = results([(NODE, "success")])

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("run_results.json"):
            return httpx.Response(200, content=self._results)
        bounds = json.loads(request.url.params["finished_at__range"])
        first = -(-(datetime.fromisoformat(bounds[0]) - START) // APART)
        last = (self._clock.now() - START) // APART
        rows = [self._run(number) for number in range(max(0, first), last + 1)]
        offset, limit = (int(request.url.params[name]) for name in ("offset", "limit"))
        body = {
            "status": {"code": 200, "is_success": True},
            "data": rows[offset : offset + limit],
            "extra": {"pagination": {"total_count": len(rows)}},
        }
        return httpx.Response(200, json=body)

    def _run(self, number: int) -> Mapping[str, Any]:
        at = str(START + number * APART)
        job = {"id": 9, "name": "nightly", "execute_steps": ["dbt build"], "updated_at": str(START)}
        return {
            "id": 70403103700000 + number,
            "status": 10,
            "created_at": at,
            "finished_at": at,
            "job": {**job, "generate_docs": False, "run_generate_sources": False},
            "trigger": {"id": number, "cause": "Scheduled", "cause_category": "scheduled"},
        }


def soak(runs: int) -> tuple[int, int, int]:
    """Tick through so many runs; return (events, largest cursor, bytes that memory grew by)."""
    clock = ManualClock(START)
    scope = Scope(Declared({NODE: dg.AssetKey("m0")}))
    cursor, told, largest, before = Cursor(START), 0, 0, 0
    client = DbtCloudClient(
        account_id=1,
        token="t",
        access_url=IDS.access_url,
        clock=clock,
        transport=httpx.MockTransport(History(clock)),
    )
    with client, dg.DagsterInstance.ephemeral() as instance:
        for tick in range(runs // 10):
            if tick == runs // 40:
                gc.collect()
                tracemalloc.start()
            clock.advance(10 * APART.total_seconds())
            poll = Poll(client, IDS, lambda: scope, clock, instance)
            done = poll.tick(cursor, deadline=clock.monotonic() + 30)
            text = done.cursor.to_json()
            largest, told = max(largest, len(text)), told + len(done.events)
            read = Cursor.from_json(text)
            assert read is not None
            cursor = read
        del poll, done
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    return told, largest, before


def test_a_hundred_runs_leave_nothing_behind() -> None:
    """Each is told once, the cursor stays short."""
    told, largest, _ = soak(100)
    assert told == 100 + 1  # the first ended as the sensor began
    assert largest < 1_000


@pytest.mark.nightly
def test_memory_is_flat_through_twenty_thousand_runs() -> None:
    """The cursor is far below 10 kB, and nothing is kept of runs that are done."""
    told, largest, grown = soak(20_000)
    assert told == 20_001
    assert largest < 10_000
    assert grown < 3_000_000
