"""Following a run: how often it is read, and when Dagster stops watching."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest

from dagster_dbtcloud import RunLimits
from dagster_dbtcloud.clock import ManualClock
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.errors import ApiResponseError, ConfigError, RunTimedOut, ServerError
from dagster_dbtcloud.following import BUSY_INTERVAL, LAST_INTERVAL, follow
from dagster_dbtcloud.sandbox import Fault
from dagster_dbtcloud_tests.cloud.fakes import TOKEN, Script, failed, ok, run
from dagster_dbtcloud_tests.stage import Stage


@pytest.fixture
def held(stage: Stage) -> Iterator[Stage]:
    """Runs that go on until they are released."""
    stage.built()
    stage.play(hold=True)
    yield stage
    stage.sandbox.play(None)


def test_a_build_of_half_an_hour_is_waited_for(stage: Stage) -> None:
    """No limit is set unless the user sets one; it is read once in ten seconds at most."""
    stage.built()
    stage.play(("model.tiny.slow", "success"), seconds=1800.0)
    invocation = stage.workspace().cli(["build"])
    began = stage.clock.monotonic()
    stage.sandbox.clear_requests()
    assert len(list(invocation.wait())) == 1
    assert stage.clock.monotonic() - began > 1800
    looks = stage.asked("GET", f"/runs/{invocation.run_id}/")
    assert 1800 / LAST_INTERVAL <= len(looks) < 1800 / BUSY_INTERVAL


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (RunLimits(running=120), "the limit for its running time is 120 s"),
        (RunLimits(running=timedelta(minutes=2)), "the limit for its running time is 120 s"),
        (RunLimits(without_progress=60.0), "the limit for running without progress is 60 s"),
    ],
)
def test_past_a_limit_the_run_is_cancelled(held: Stage, limits: RunLimits, words: str) -> None:
    """The error says which limit it was."""
    invocation = held.workspace().cli(["build"], limits=limits)
    with pytest.raises(RunTimedOut, match=words):
        list(invocation.wait())
    assert held.sandbox.wait(invocation.run_id)["is_cancelled"]


def test_the_queue_has_a_limit_of_its_own(held: Stage) -> None:
    """A run behind another of its job is not running; with ``detach`` it stays in the queue."""
    workspace = held.workspace()
    first = workspace.cli(["build"])
    second = workspace.cli(["build"], limits=RunLimits(queued=300, running=1), on_leave="detach")
    with pytest.raises(RunTimedOut, match="the limit for its time in the queue is 300 s"):
        list(second.wait())
    assert held.sandbox.run(second.run_id)["status_humanized"] == "Queued"
    second.cancel()
    first.cancel()


def test_a_run_that_writes_is_making_progress(held: Stage) -> None:
    """A line of log every half minute keeps it alive, for ten minutes here."""
    invocation = held.workspace().cli(["build"], limits=RunLimits(without_progress=60))
    lines = 0

    def write() -> None:
        nonlocal lines
        elapsed = held.clock.monotonic() - began
        if elapsed > 600:
            held.sandbox.release(invocation.run_id)
        elif elapsed > lines * 30:
            lines += 1
            held.sandbox.write_log(invocation.run_id, None, f"line {lines}\n")

    held.sandbox.wait(invocation.run_id, status=3)
    began = held.clock.monotonic()
    held.clock.hooks.append(write)
    assert invocation.is_successful()
    assert lines >= 18


def test_an_outage_has_a_budget(held: Stage) -> None:
    """Ten minutes unless the user says otherwise; the run is cancelled if it can be."""
    invocation = held.workspace().cli(["build"], limits=RunLimits(outage=60))
    began = held.clock.monotonic()
    held.sandbox.faults.add(
        Fault("status", method="GET", path="*/runs/*/", status=503, count=10_000)
    )
    with pytest.raises(ServerError):
        list(invocation.wait())
    assert 30 < held.clock.monotonic() - began < 200
    held.sandbox.faults.clear()
    assert held.sandbox.wait(invocation.run_id)["is_cancelled"]


@pytest.mark.parametrize("value", [0, -1, "60", True, timedelta(0), float("nan")])
def test_limits_are_positive(value: Any) -> None:
    """Refused where they are written."""
    with pytest.raises(ConfigError, match="The limit running="):
        RunLimits(running=value)
    with pytest.raises(ConfigError, match="The limit outage="):
        RunLimits(outage=None)  # type: ignore[arg-type]


def test_the_pace_follows_the_run(held: Stage) -> None:
    """A growing log is read every 2 s, a silent one ever less often: once in 2 s on average."""
    workspace = held.workspace()
    invocation = workspace.cli(["build"])
    run_id = invocation.run_id
    held.sandbox.wait(run_id, status=3)
    looks: list[float] = []
    with workspace.get_client() as client:
        for _ in follow(client, run_id, clock=held.clock):
            looks.append(held.clock.monotonic())
            if len(looks) < 30:
                held.sandbox.write_log(run_id, None, f"line {len(looks)}\n")
            if len(looks) == 60:
                break
    gaps = [after - before for before, after in pairwise(looks)]
    assert all(gap == pytest.approx(BUSY_INTERVAL, abs=0.7) for gap in gaps[2:28])
    assert gaps[-1] == pytest.approx(LAST_INTERVAL, abs=0.7)
    assert (looks[-1] - looks[0]) / len(gaps) >= 2
    invocation.cancel()


def client_on(script: Script, clock: ManualClock) -> DbtCloudClient:
    transport = httpx.MockTransport(script)
    return DbtCloudClient(account_id=4242, token=TOKEN, clock=clock, transport=transport)


def test_an_answer_that_is_no_run_is_an_outage() -> None:
    """It may be JSON and still say nothing: ridden out as a page of HTML is."""
    clock = ManualClock()
    script = Script(ok(), httpx.Response(200, json=[]), ok(run(7, status=3)), ok(run(7, status=10)))
    client = client_on(script, clock)
    assert [each.status for each in follow(client, 7, clock=clock)] == [3, 10]


def test_answers_that_are_no_run_end_it_after_the_outage_limit() -> None:
    """Not at once, and not never."""
    clock = ManualClock()
    client = client_on(Script(ok()), clock)
    began = clock.monotonic()
    with pytest.raises(ApiResponseError):
        list(follow(client, 7, clock=clock, limits=RunLimits(outage=120)))
    assert 120 <= clock.monotonic() - began < 140


def test_a_page_of_html_is_one_outage_and_not_two() -> None:
    """The time that the client has spent on it counts."""
    clock = ManualClock()
    client = client_on(Script(httpx.Response(200, text="<html>maintenance</html>")), clock)
    with pytest.raises(ApiResponseError):
        list(follow(client, 7, clock=clock))
    assert 600 <= clock.monotonic() < 700


@pytest.mark.parametrize("answer", [failed(404), ok()], ids=["not found", "no run"])
def test_a_limit_ends_also_what_cannot_be_seen(answer: httpx.Response) -> None:
    """At the limit, and without asking again and again until something comes."""
    clock = ManualClock()
    client = client_on(Script(*[answer] * 10, AssertionError("asked again and again")), clock)
    with pytest.raises(RunTimedOut, match="was not to be seen for 5 s"):
        list(follow(client, 7, clock=clock, timeout=5))
    assert clock.monotonic() == 5


def test_a_limit_tells_how_the_run_was_last_seen() -> None:
    """Its status and its page, though the last answers were no run."""
    clock = ManualClock()
    odd = [ok()] * 20
    seen = ok(run(7, status=3, href="https://x/7"))
    client = client_on(Script(seen, *odd, AssertionError("asked again and again")), clock)
    with pytest.raises(RunTimedOut, match="was running for 60 s") as caught:
        list(follow(client, 7, clock=clock, limits=RunLimits(running=60)))
    assert caught.value.run_url == "https://x/7"
