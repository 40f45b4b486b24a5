"""One tick after the other over a dbt Cloud of a few lines, which does what the sandbox cannot."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import dagster as dg
import httpx
import pytest

from dagster_dbtcloud.clock import ManualClock
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cursor import MOST_WAITING, Cursor
from dagster_dbtcloud.events import Declared
from dagster_dbtcloud.history import Scope
from dagster_dbtcloud.polling import AT_ONCE, PATIENCE, Poll, Tick
from dagster_dbtcloud.state import WorkspaceIds
from dagster_dbtcloud_tests.observing import results

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
NODE = "model.shop.m0"
IDS = WorkspaceIds("https://dbt.example", 1, 2, 3)
DEADLINE = 30.0
"""Seconds that a tick has."""


class Cloud:
    """Finished runs of one command, in the order in which they are put here."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.rows: list[dict[str, Any]] = []
        self.artifact: Callable[[int], httpx.Response] = lambda _: httpx.Response(
            200, content=results([(NODE, "success")])
        )

    def put(self, finished_at: str = str(START), **fields: Any) -> int:
        number = len(self.rows) + 1
        job = {"id": 9, "execute_steps": ["dbt build"], "updated_at": "2025-01-01 00:00:00+00:00"}
        row = {
            "id": number,
            "status": 10,
            "project_id": IDS.project_id,
            "environment_id": IDS.environment_id,
            "created_at": finished_at,
            "finished_at": finished_at,
            "job": {**job, "generate_docs": False, "run_generate_sources": False},
            "trigger": {"id": number, "cause": "Scheduled", "cause_category": "scheduled"},
        }
        self.rows.append({**row, **fields})
        return number

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.rstrip("/").split("/")
        if "artifacts" in path:
            return self.artifact(int(path[path.index("runs") + 1]))
        if path[-1] != "runs":
            step = {"id": 1, "index": 4, "name": "Invoke dbt with `dbt build`", "status": 10}
            step["started_at"] = str(START)
            row = {**self.rows[int(path[-1]) - 1], "run_steps": [step]}
            return httpx.Response(200, json={"status": {"is_success": True}, "data": row})
        offset, limit = (int(request.url.params[name]) for name in ("offset", "limit"))
        first = datetime.fromisoformat(json.loads(request.url.params["finished_at__range"])[0])
        rows = [row for row in self.rows if _time(row["finished_at"]) >= first]
        body = {
            "status": {"code": 200, "is_success": True},
            "data": rows[offset : offset + limit],
            "extra": {"pagination": {"total_count": len(rows)}},
        }
        return httpx.Response(200, json=body)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
def ticks(cloud: Cloud) -> Iterator[Iterator[Tick]]:
    """Each tick begins with the text that the one before has left."""
    with (
        DbtCloudClient(
            account_id=1,
            token="t",
            access_url=IDS.access_url,
            clock=cloud.clock,
            retry_for=8.0,
            transport=httpx.MockTransport(cloud),
        ) as client,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        scope = Scope(Declared({NODE: dg.AssetKey("m0")}))

        def forever() -> Iterator[Tick]:
            text: str | None = Cursor(START).to_json()
            while True:
                cursor = Cursor.from_json(text)
                assert cursor is not None
                poll = Poll(client, IDS, lambda: scope, cloud.clock, instance)
                tick = poll.tick(cursor, deadline=cloud.clock.monotonic() + DEADLINE)
                text = tick.cursor.to_json()
                yield tick

        yield forever()


def told(tick: Tick) -> list[int]:
    return [report.run.id for report in tick.reports for _ in report.events]


def test_a_list_that_holds_other_environments_is_sifted(
    cloud: Cloud, ticks: Iterator[Tick]
) -> None:
    """A filter that dbt Cloud passes over must not bring development into history."""
    for _ in range(120):
        cloud.put(environment_id=77)
    ours = cloud.put()
    cloud.put(project_id=88)
    assert told(next(ticks)) == [ours]
    assert told(next(ticks)) == []


def test_finish_times_of_any_zone_are_one_time(cloud: Cloud, ticks: Iterator[Tick]) -> None:
    """The night in which clocks go back has the same hour twice, and each run once."""
    cloud.clock.advance(7_200)
    for text in (
        "2026-01-01T01:30:00+02:00",
        "2026-01-01 00:10:00.000001+00:00",
        "2025-12-31T19:20:00-05:00",
        "2026-01-01T00:30:00Z",
        "2026-01-01T02:30:00.500000+01:00",
    ):
        cloud.put(text)
    assert told(next(ticks)) == [2, 3, 4, 5]  # the first ended before the sensor began
    assert told(next(ticks)) == []


def test_slow_artifacts_end_the_tick_in_time_and_each_tick_goes_on(
    cloud: Cloud, ticks: Iterator[Tick]
) -> None:
    """Twenty seconds for each: what was under way at the deadline is all that comes after it."""
    for _ in range(40):
        cloud.put()

    def slowly(_: int) -> httpx.Response:
        cloud.clock.advance(20.0)
        return httpx.Response(200, content=results([(NODE, "success")]))

    cloud.artifact = slowly
    found: list[int] = []
    for _ in range(40):
        begun = cloud.clock.monotonic()
        new = told(next(ticks))
        assert cloud.clock.monotonic() - begun <= DEADLINE + 20.0 * (AT_ONCE + 1)
        assert new
        found += new
        if len(found) == 40:
            break
    assert found == list(range(1, 41))


def test_no_more_runs_are_waited_for_than_a_cursor_holds(
    cloud: Cloud, ticks: Iterator[Tick]
) -> None:
    """dbt Cloud has lost the results of hundreds: they are given up, and the others are met."""
    every = {cloud.put() for _ in range(MOST_WAITING + 20)}
    lost = set(every)

    def artifact(run_id: int) -> httpx.Response:
        if run_id in lost:
            return httpx.Response(404, json={"status": {"code": 404, "is_success": False}})
        return httpx.Response(200, content=results([(NODE, "success")]))

    cloud.artifact = artifact
    tick = next(ticks)
    assert not tick.complete
    assert len(tick.cursor.waiting) == MOST_WAITING
    assert len(tick.cursor.to_json()) < 10_000
    cloud.clock.advance(PATIENCE.total_seconds() + 1)
    lost -= every - tick.cursor.waiting.keys()
    tick = next(ticks)
    assert set(told(tick)) == every - lost
    assert not tick.cursor.waiting


def test_damaged_runs_are_looked_at_ever_more_rarely(cloud: Cloud, ticks: Iterator[Tick]) -> None:
    """Each look at one costs seconds of trying again: a hundred of them leave time for others."""
    damaged = {cloud.put() for _ in range(5)}
    looks: list[int] = []

    def artifact(run_id: int) -> httpx.Response:
        if run_id in damaged:
            looks.append(run_id)
            return httpx.Response(404, json={"status": {"code": 404, "is_success": False}})
        return httpx.Response(200, content=results([(NODE, "success")]))

    cloud.artifact = artifact
    for number in range(50):
        assert told(next(ticks)) == ([] if number == 0 else [5 + number])
        cloud.clock.advance(30.0)
        cloud.put(str(cloud.clock.now()))
    assert 2 * 5 * 5 < len(looks) < 2 * 5 * 18
    damaged.clear()
    cloud.clock.advance(400.0)
    assert set(told(next(ticks))) >= set(range(1, 6))
