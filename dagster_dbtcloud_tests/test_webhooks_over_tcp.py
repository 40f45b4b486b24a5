"""The webhook app as a server, called by the sandbox's own webhooks: what they do to history."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import dagster as dg
import httpx
import pytest
import uvicorn

from dagster_dbtcloud import build_dbt_cloud_polling_sensor, load_dbt_cloud_asset_specs
from dagster_dbtcloud.sandbox import Fault, PastStep
from dagster_dbtcloud.wake import notes
from dagster_dbtcloud.webhooks import WebhookApp
from dagster_dbtcloud_tests.observer_table import M, World, stage
from dagster_dbtcloud_tests.observing import held, results, truth
from dagster_dbtcloud_tests.stage import until

Received = list[tuple[bytes, str]]


@pytest.fixture(scope="module")
def shared() -> Iterator[Any]:
    with stage() as made:
        yield made


@pytest.fixture
def world(shared: Any) -> Iterator[World]:
    """A sensor that looks once an hour, or when a webhook has come; it has looked."""
    sandbox, clock = shared
    world = World(sandbox, clock, "webhooks")
    sensor = build_dbt_cloud_polling_sensor(
        workspace=world.workspace, webhooks=True, minimum_interval_seconds=3_600
    )
    assets = load_dbt_cloud_asset_specs(world.workspace)
    world.repository = dg.Definitions(assets=assets, sensors=[sensor]).get_repository_def()
    world.sensor = sensor

    def script(_: Mapping[str, Any], command: str) -> PastStep:
        return PastStep(command, artifacts={"run_results.json": results([(M[0], "success")])})

    before = vars(world.sandbox.behaviour).copy()
    world.sandbox.play(script)
    with world.instance:
        world.tick()
        yield world
    world.sandbox.play(None)
    vars(world.sandbox.behaviour).update(before)


@contextmanager
def receiver(world: World) -> Iterator[tuple[str, Received]]:
    """The app on a port of its own, subscribed; yields its address and what it was sent."""
    received: Received = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        secret = world.sandbox.subscribe(url, name="dagster")
        inner = WebhookApp(secrets=[secret], instance=world.instance, clock=world.clock)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            body = b""

            async def noting() -> Any:
                nonlocal body
                message = await receive()
                body += message.get("body", b"")
                return message

            await inner(scope, noting, send)
            if scope["type"] == "http":
                received.append((body, dict(scope["headers"])[b"authorization"].decode()))

        server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            until(lambda: server.started)
            yield url, received
        finally:
            server.should_exit = True
            thread.join()


def ran(world: World) -> int:
    """A run of the job, by dbt Cloud's own will, with its webhooks."""
    run_id = world.sandbox.trigger(world.job, cause_category="scheduled")
    world.sandbox.wait(run_id)
    world.truth += truth([(M[0], "success")], run_id)
    return run_id


def noted(world: World) -> frozenset[int]:
    return notes(
        world.instance,
        account_id=world.sandbox.account_id,
        environment_id=world.environment,
        now=world.clock.now(),
    )


def ends(received: Received) -> Callable[[], int]:
    return lambda: sum(b'"job.run.completed"' in body for body, _ in received)


def test_a_run_is_recorded_as_soon_as_it_is_told(world: World) -> None:
    """An hour before the next look; and what is told again changes nothing."""
    with receiver(world) as (url, received):
        assert world.tick() == []
        assert world.messages[-1] == "no webhook came"
        run_id = ran(world)
        until(lambda: run_id in noted(world))
        assert len(world.tick()) == 1
        until(lambda: ends(received)() == 1)
        for body, signature in received * 2:
            answer = httpx.post(url, content=body, headers={"authorization": signature})
            assert answer.status_code == 200
        assert world.tick(2) == []
    assert held(world.instance, world.raw) == world.truth


def test_a_run_of_another_environment_wakes_nobody(world: World) -> None:
    """The account's webhooks tell of all: the sensor would ask dbt Cloud every five seconds."""
    other = world.sandbox.create_environment("another")
    job = world.sandbox.create_job("elsewhere", ["dbt build"], environment_id=other)
    with receiver(world) as (_, received):
        world.sandbox.wait(world.sandbox.trigger(job, cause_category="scheduled"))
        until(lambda: ends(received)() == 1)
        world.sandbox.clear_requests()
        assert world.tick() == []
        assert world.messages[-1] == "no webhook came"
        assert not world.sandbox.requests


def test_a_noted_run_that_cannot_be_read_holds_nobody_up(world: World) -> None:
    """dbt Cloud refuses it for as long as the note is fresh; the others are told meanwhile."""
    refused = world.good(listed_at=world.clock.now() + timedelta(hours=1))
    for status in (403, 500):
        fault = Fault("status", status=status, path=f"*/runs/{refused}/", count=None)
        world.sandbox.faults.add(fault)
        world.good()
        world.note(refused)
        assert len(world.tick()) == 4  # models alone are declared
        world.sandbox.faults.clear()


def test_a_clock_that_was_set_back_does_not_keep_the_sensor_asleep(world: World) -> None:
    """The last look lies in the future: the sensor looks, instead of waiting for that hour."""
    raw = json.loads(world.cursor or "")
    raw["polled_at"] = (world.clock.now() + timedelta(days=1)).isoformat()
    world.cursor = json.dumps(raw)
    world.good()
    assert len(world.tick()) == 4
    assert world.tick() == []


def test_copies_in_any_order_are_one_run_each(world: World) -> None:
    """dbt Cloud repeats deliveries, and orders none."""
    behaviour = world.sandbox.behaviour
    behaviour.webhook_copies, behaviour.webhook_reversed = 3, True
    behaviour.webhook_delay_seconds = 5.0
    with receiver(world) as (_, received):
        runs = {ran(world) for _ in range(3)}
        world.clock.skip(5.0)
        until(lambda: ends(received)() == 9)
        assert noted(world) >= runs
        assert len(world.tick()) == 3
        assert world.tick() == []
    assert held(world.instance, world.raw) == world.truth


def test_what_is_forged_wakes_nobody(world: World) -> None:
    """The hourly look finds the run all the same."""
    world.sandbox.behaviour.webhook_forged_secret = "somebody else's"
    with receiver(world) as (_, received):
        run_id = ran(world)
        until(lambda: ends(received)() >= 1)
        assert run_id not in noted(world)
        assert world.tick() == []
        assert world.messages[-1] == "no webhook came"
        world.clock.skip(3_601)
        assert len(world.tick()) == 1
    assert held(world.instance, world.raw) == world.truth


def test_what_is_cut_wakes_nobody_and_harms_nobody(world: World) -> None:
    """A sender that vanishes half-way through; the next delivery is taken."""
    with receiver(world) as (url, received):
        run_id = ran(world)
        until(lambda: ends(received)() == 1)
        body, signature = next(each for each in received if b"completed" in each[0])
        received.clear()
        other = body.replace(str(run_id).encode(), b"7")
        for whole in (body, other):
            with socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0)) as half:
                head = f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: {signature}\r\n"
                half.sendall(f"{head}Content-Length: {len(whole)}\r\n\r\n".encode() + whole[:99])
        until(lambda: len(received) == 2)
        assert (
            httpx.post(url, content=other, headers={"authorization": signature}).status_code == 401
        )
        assert 7 not in noted(world)
        assert len(world.tick()) == 1
    assert held(world.instance, world.raw) == world.truth
