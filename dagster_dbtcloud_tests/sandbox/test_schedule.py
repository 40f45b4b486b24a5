"""Jobs that run by themselves, and when dbt Cloud stops starting them."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest

from dagster_dbtcloud.clock import ManualClock
from dagster_dbtcloud.sandbox import PastStep, Sandbox
from dagster_dbtcloud.sandbox.schedule import Cron, cron_of
from dagster_dbtcloud.sandbox.wire import Refusal
from dagster_dbtcloud_tests.sandbox.conftest import TINY, until

HOURLY: dict[str, Any] = {"triggers": {"schedule": True}, "schedule": {"cron": "0 * * * *"}}


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("cron", "after", "due"),
    [
        ("* * * * *", "2026-01-01 00:00:30", "2026-01-01 00:01"),
        ("0 * * * *", "2026-01-01 00:00", "2026-01-01 01:00"),
        ("*/15 6-8 * * *", "2026-01-01 08:45", "2026-01-02 06:00"),
        ("30 4 1,15 * *", "2026-01-02 00:00", "2026-01-15 04:30"),
        ("0 0 * * 7", "2026-01-01 00:00", "2026-01-04 00:00"),
        ("0 0 * * mon-fri/2", "2026-01-01 00:00", "2026-01-02 00:00"),
        ("0 0 13 * 5", "2026-01-01 00:00", "2026-01-02 00:00"),
        ("0 0 29 feb *", "2026-01-01 00:00", "2028-02-29 00:00"),
        ("5/20 0 * * *", "2026-01-01 00:05", "2026-01-01 00:25"),
    ],
)
def test_cron_is_read_as_everywhere(cron: str, after: str, due: str) -> None:
    """Lists, spans, steps, names; Sunday is 0 and 7; two restricted days mean either."""
    assert Cron.parse(cron).after(moment(after)) == moment(due)


@pytest.mark.parametrize(
    "cron", ["", "* * * *", "60 * * * *", "* * 0 * *", "5-1 * * * *", "*/0 * * * *", "a * * * *"]
)
def test_what_is_no_cron_is_refused(cron: str) -> None:
    """With the field that means nothing."""
    with pytest.raises(ValueError, match=r"cron|invalid literal"):
        Cron.parse(cron)
    with pytest.raises(Refusal):
        cron_of({"cron": cron}, {"cron": cron})


def test_a_cron_without_a_day_is_never_due() -> None:
    """A 30th of February."""
    assert Cron.parse("0 0 30 2 *").after(moment("2026-01-01")) is None


@pytest.mark.parametrize(
    ("given", "cron"),
    [
        ({"date": {"type": "every_day"}, "time": {"type": "every_hour", "interval": 6}},
         "0 */6 * * *"),
        ({"date": {"type": "every_day"}, "time": {"type": "every_hour", "interval": 1}},
         "0 * * * *"),
        ({"date": {"type": "days_of_week", "days": [1, 5]},
          "time": {"type": "at_exact_hours", "hours": [7, 19]}}, "0 7,19 * * 1,5"),
        ({"date": {"type": "custom_cron", "cron": "7 3 * * *"}}, "7 3 * * *"),
        ({"cron": "5 5 * * *", "date": {"type": "interval_cron"}}, "5 5 * * *"),
        ({"cron": "5 5 * * *"}, "5 5 * * *"),
    ],
)  # fmt: skip
def test_days_and_hours_make_a_cron(given: dict[str, Any], cron: str) -> None:
    """An expression of one's own counts where it is asked for, or stands alone."""
    assert cron_of(given, given) == cron


def play(sandbox: Sandbox, *, hold: bool = False, status: int = 10) -> None:
    sandbox.play(lambda _, command: PastStep(command, status=status, logs="x", hold=hold))


def categories(sandbox: Sandbox) -> list[tuple[str, str]]:
    return [(run["trigger"]["cause_category"], run["status_humanized"]) for run in sandbox.runs()]


def test_a_job_runs_when_it_is_due(still: Sandbox, api: httpx.Client, clock: ManualClock) -> None:
    """On the sandbox's clock; an hour that nobody watched counts once."""
    play(still)
    job = still.create_job("hourly", **HOURLY)
    quiet = still.create_job("by hand", schedule={"cron": "0 * * * *"})
    shown = api.get(f"/jobs/{job}/").json()["data"]
    assert shown["next_run"] == "2026-01-01T01:00:00+00:00"
    assert shown["next_run_humanized"] == "1 hour"
    assert api.get(f"/jobs/{quiet}/").json()["data"]["next_run"] is None
    clock.advance(3599)
    assert still.runs() == []
    clock.advance(1)
    until(lambda: categories(still) == [("scheduled", "Success")])
    clock.advance(5 * 3600)
    until(lambda: len(still.runs()) == 2)
    assert still.runs()[1]["job_id"] == job


def test_a_schedule_may_be_changed_or_taken_away(
    still: Sandbox, api: httpx.Client, clock: ManualClock
) -> None:
    """The next time counts from the change."""
    play(still)
    job = api.get(f"/jobs/{still.create_job('hourly', **HOURLY)}/").json()["data"]
    daily = {"cron": "0 12 * * *", "date": {"type": "custom_cron", "cron": "0 12 * * *"}}
    changed = api.post(f"/jobs/{job['id']}/", json={**job, "schedule": daily}).json()["data"]
    assert changed["next_run"] == "2026-01-01T12:00:00+00:00"
    clock.advance(11 * 3600)
    off = {**changed, "triggers": {**changed["triggers"], "schedule": False}}
    assert api.post(f"/jobs/{job['id']}/", json=off).json()["data"]["next_run"] is None
    clock.advance(3 * 86400)
    still.create_job("a sign that the sandbox has looked", **HOURLY)
    clock.advance(3600)
    until(lambda: len(still.runs()) == 1)
    assert still.runs()[0]["job_id"] != job["id"]


def test_a_job_slower_than_its_schedule_keeps_one_run_waiting(
    still: Sandbox, clock: ManualClock
) -> None:
    """Surplus scheduled runs are cancelled; those of the API wait."""
    play(still, hold=True)
    job = still.create_job("hourly", **HOURLY)
    clock.advance(3600)
    until(lambda: categories(still) == [("scheduled", "Running")])
    still.trigger(job, cause_category="api")
    for expected in (3, 4):
        clock.advance(3600)
        until(lambda expected=expected: len(still.runs()) == expected)  # type: ignore[misc]
    assert categories(still) == [
        ("scheduled", "Running"), ("api", "Queued"),
        ("scheduled", "Cancelled"), ("scheduled", "Queued"),
    ]  # fmt: skip
    assert still.runs()[3]["blocked_by"] == [run["id"] for run in still.runs()[:2]]


def test_a_stopped_sandbox_does_not_make_up_for_lost_time(tmp_path: Path) -> None:
    """The next time counts from its start."""
    clock = ManualClock()
    with Sandbox(project_dir=TINY, state_dir=tmp_path, clock=clock, warm=False) as sandbox:
        sandbox.create_job("hourly", **HOURLY)
    clock.advance(90 * 60)
    with Sandbox(project_dir=TINY, state_dir=tmp_path, clock=clock, warm=False) as sandbox:
        play(sandbox)
        assert sandbox.runs() == []
        clock.advance(30 * 60)
        until(lambda: len(sandbox.runs()) == 1)


def test_schedules_can_be_switched_off(still: Sandbox, clock: ManualClock) -> None:
    """For tests in which time flies."""
    still.behaviour.schedules = False
    still.create_job("hourly", **HOURLY)
    clock.advance(7200)
    run = still.trigger(still.create_job("other"))
    still.cancel(run)
    assert len(still.runs()) == 1


def test_too_many_failures_deactivate_a_job(
    still: Sandbox, api: httpx.Client, clock: ManualClock
) -> None:
    """Its schedule stops; a run by hand or an edit brings it back."""
    still.behaviour.failures_to_deactivate = 2
    play(still, status=20)
    job = still.create_job("hourly", **HOURLY)
    for _ in range(2):
        still.wait(still.trigger(job), 10)

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = api.get(f"/jobs/{job}/").json()["data"]
        return found

    assert (shown()["deactivated"], shown()["next_run"]) == (True, None)
    clock.advance(7200)
    still.create_job("a sign that the sandbox looks", triggers={"schedule": True})
    still.behaviour.refuse_deactivated = True
    refused = api.post(f"/jobs/{job}/run/", json={"cause": "x"})
    assert (refused.status_code, len(still.runs())) == (400, 2)
    assert "deactivated" in refused.json()["status"]["user_message"]
    still.wait(still.trigger(job), 10)
    assert (shown()["deactivated"], shown()["run_failure_count"]) == (False, 1)
    still.update_job(job, deactivated=True)
    assert shown()["deactivated"]
    still.behaviour.refuse_deactivated = False
    assert api.post(f"/jobs/{job}/run/", json={"cause": "x"}).status_code == 200
    assert not shown()["deactivated"]
    still.update_job(job, deactivated=True)
    api.post(f"/jobs/{job}/", json=shown())
    assert not shown()["deactivated"]


def test_a_changed_job_is_sent_whole(still: Sandbox, api: httpx.Client) -> None:
    """What the specification requires must be there; what becomes of the rest can be chosen."""
    job = api.get(f"/jobs/{still.create_job('one', description='old')}/").json()["data"]
    few = {key: job[key] for key in ("id", "name", "project_id", "environment_id")}
    refused = api.post(f"/jobs/{job['id']}/", json=few)
    assert refused.status_code == 400
    assert "execution" in refused.json()["data"]
    still.behaviour.job_updates = "keep"
    kept = api.post(f"/jobs/{job['id']}/", json=few).json()["data"]
    assert kept["description"] == "old"
    still.behaviour.job_updates = "reset"
    reset = api.post(f"/jobs/{job['id']}/", json=few).json()["data"]
    assert (reset["description"], reset["execute_steps"]) == ("", ["dbt build"])
