"""The token is looked for wherever people and machines look: it must be nowhere."""

from __future__ import annotations

import io
import logging
import traceback
from collections.abc import Iterator
from types import TracebackType

import httpx
import pytest
from rich.console import Console
from rich.traceback import Traceback

from dagster_dbtcloud.cloud import TriggerRun
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.errors import ApiError, ConfigError
from dagster_dbtcloud_tests.cloud.conftest import MakeClient
from dagster_dbtcloud_tests.cloud.fakes import (
    ACCESS_URL,
    TOKEN,
    Behaviour,
    Reply,
    Script,
    Wire,
    failed,
    ok,
    raw,
    reply,
    reset,
    silence,
)

CORE = "0123456789"  # of the token, whatever escapes the rest


def shown(error: BaseException) -> str:
    """Return what a traceback with locals shows, and what it leaves out."""
    standard = traceback.TracebackException.from_exception(error, capture_locals=True)
    texts = ["".join(standard.format()), repr(vars(error))]
    for frame in frames(error):
        texts += [f"{name}={value!r}" for name, value in frame.items()]
    return "\n".join(texts)


def shown_by_rich(error: BaseException) -> str:
    """Return what rich shows, which looks into containers and dataclasses."""
    file = io.StringIO()
    rich = Traceback.from_exception(type(error), error, error.__traceback__, show_locals=True)
    Console(file=file, width=500).print(rich)
    return file.getvalue()


def frames(error: BaseException) -> Iterator[dict[str, object]]:
    """Walk the locals of every frame of an error and of all that it came from."""
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None:
            continue
        pending += [current.__cause__, current.__context__]
        place: TracebackType | None = current.__traceback__
        while place is not None:
            yield place.tb_frame.f_locals
            place = place.tb_next


def echo(request: httpx.Request) -> httpx.Response:
    """Answer as a broken proxy does: with what it was sent."""
    page = "<html><pre>" + "\n".join(f"{k}: {v}" for k, v in request.headers.items()) + "</pre>"
    return httpx.Response(502, text=page, headers={"x-request-id": page_id(request)})


def echo_as_refusal(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError(f"cannot reach you, {request.headers['authorization']}")


def echo_as_success(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, text=f"<html>{request.headers['authorization']}</html>")


def echo_as_json(request: httpx.Request) -> httpx.Response:
    words = dict(request.headers)
    status = {"user_message": f"refused {words['authorization']}", "is_success": False}
    return httpx.Response(400, json={"status": status, "data": words})


def echo_as_object(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"data": {"id": request.headers["authorization"]}})


def echo_as_redirect(request: httpx.Request) -> httpx.Response:
    token = request.headers["authorization"].split()[-1]
    return httpx.Response(302, headers={"location": f"https://x.example.com/?t={token}"})


def echo_in_the_middle(request: httpx.Request) -> httpx.Response:
    return httpx.Response(500, text="x" * 270 + request.headers["authorization"])


def page_id(request: httpx.Request) -> str:
    return f"id-{request.headers['authorization']}"


@pytest.mark.parametrize(
    "answer",
    [
        failed(401, "Invalid token."),
        failed(403),
        failed(404),
        failed(429),
        failed(500),
        ok(None),
        httpx.Response(200, text="<html>Sign in</html>"),
        httpx.Response(200, text='{"data": '),
        httpx.ConnectError("x"),
        httpx.ReadTimeout("x"),
        httpx.DecodingError("x"),
        KeyError("a fault of our own"),
        echo,
        echo_as_refusal,
        echo_as_success,
        echo_as_json,
        echo_as_object,
        echo_as_redirect,
        echo_in_the_middle,
    ],
)
def test_no_error_shows_it(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture, answer: Reply
) -> None:
    """Messages, attributes, tracebacks with locals, logs; also when a proxy sends it back."""
    caplog.set_level(logging.DEBUG)
    client = make_client(Script(answer), retry_for=1.0)
    for call in (client.account, lambda: client.trigger_run(77, TriggerRun(cause="x"))):
        with pytest.raises((ApiError, KeyError)) as caught:
            call()
        text = shown(caught.value)
        assert "DbtCloudClient(account_id=4242" in text
        assert CORE not in text
    assert CORE not in caplog.text


@pytest.mark.parametrize("answer", [echo, echo_as_success, echo_as_object])
def test_no_rich_traceback_shows_it(make_client: MakeClient, answer: Reply) -> None:
    """Dagster's command line prints errors with rich, ours too."""
    with pytest.raises(ApiError) as caught:
        make_client(Script(answer), retry_for=0).account()
    text = shown_by_rich(caught.value)
    assert "DbtCloudClient(account_id=4242" in text
    assert CORE not in text


def test_no_log_of_dbt_cloud_shows_it(make_client: MakeClient) -> None:
    """A step that prints its environment may hold the token; what we hand on does not."""
    logs = f"DBT_CLOUD_TOKEN={TOKEN}\n"
    step = {"id": 9, "index": 4, "logs": logs}
    assert make_client(Script(ok(step))).step(9).logs == "DBT_CLOUD_TOKEN=[token]\n"
    artifact = httpx.Response(200, text=logs)
    assert CORE.encode() not in make_client(Script(artifact)).artifact(5, "env.txt")


@pytest.mark.parametrize(
    "fault",
    [reset, silence, raw(b""), raw(b"SSH-2.0\r\n\r\n"), reply(b"{", announced=9)],
    ids=["reset", "silence", "hang up", "not HTTP", "cut"],
)
def test_no_fault_of_the_network_shows_it(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture, fault: Behaviour
) -> None:
    """The frames of the HTTP libraries hold the raw header: they are not in the traceback."""
    caplog.set_level(logging.DEBUG)
    with Wire(fault) as wire:
        client = make_client(access_url=wire.url, timeout=0.1, retry_for=0)
        with pytest.raises(ApiError) as caught:
            client.account()
        assert TOKEN.encode() in wire.heads[0]
        assert CORE not in shown(caught.value)
    assert "httpcore" in caplog.text
    assert CORE not in caplog.text


@pytest.mark.parametrize(
    "settings",
    [
        {"token": f"{TOKEN} {TOKEN}"},
        {"account_id": "x"},
        {"account_id": TOKEN},
        {"access_url": "ftp://x"},
        {"access_url": TOKEN},
        {"user_agent_suffix": "a\nb"},
    ],
)
def test_no_fault_of_the_settings_shows_it(settings: dict[str, str]) -> None:
    """Also where it was put in the wrong place."""
    error = refusal(settings)
    assert CORE not in str(error)
    if "token" in settings or TOKEN not in settings.values():
        inner = [frame for frame in frames(error) if "settings" not in frame]
        assert inner
        assert CORE not in repr(inner)


def refusal(settings: dict[str, str]) -> ConfigError:
    given = {"account_id": "4242", "token": TOKEN, "access_url": ACCESS_URL, **settings}
    try:
        _build_from(given)
    except ConfigError as error:
        return error
    raise AssertionError("the settings were taken")


def _build_from(settings: dict[str, str]) -> None:
    DbtCloudClient(**settings)  # type: ignore[arg-type]


def test_nothing_of_a_client_shows_it(make_client: MakeClient) -> None:
    """Its repr, its attributes, and those of what it holds."""
    client = make_client(Script(ok({"id": 1})))
    client.account()
    held = [client, *vars(client).values()]
    held += [value for item in held if hasattr(item, "__dict__") for value in vars(item).values()]
    held += [value for item in held if hasattr(item, "__dict__") for value in vars(item).values()]
    assert any("_TokenAuth" in repr(item) for item in held)
    assert CORE not in repr(held)
