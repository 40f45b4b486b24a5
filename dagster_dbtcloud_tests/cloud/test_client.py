"""The client's methods: what they send, what they read, when they send again."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from dagster_dbtcloud.clock import ManualClock
from dagster_dbtcloud.cloud import Job, TriggerRun
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.models import BrokenRun
from dagster_dbtcloud.errors import (
    ApiConnectionError,
    ApiResponseError,
    ApiStatusError,
    AuthenticationError,
    ConfigError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
)
from dagster_dbtcloud.version import __version__
from dagster_dbtcloud_tests.cloud.conftest import MakeClient
from dagster_dbtcloud_tests.cloud.fakes import ACCESS_URL, TOKEN, Script, failed, ok, run

Call = Callable[[DbtCloudClient], Any]

V2 = "/api/v2/accounts/4242"
V3 = "/api/v3/accounts/4242"
NOON = datetime(2026, 1, 5, 12, tzinfo=timezone.utc)
LAST_HOUR = (NOON - timedelta(hours=1), NOON)
RUN_RELATED = "trigger,job"


def listed(call: Call) -> Call:
    return lambda client: list(call(client))


@pytest.mark.parametrize(
    ("call", "data", "method", "path", "query"),
    [
        (lambda c: c.account(), {"id": 4242}, "GET", f"{V2}/", {}),
        (
            listed(lambda c: c.accounts()),
            [{"id": 4242}],
            "GET",
            "/api/v3/accounts/",
            {},
        ),
        (
            listed(lambda c: c.projects(name_contains="Shop")),
            [{"id": 11}],
            "GET",
            f"{V3}/projects/",
            {"name__icontains": "Shop", "order_by": "id", "limit": "100", "offset": "0"},
        ),
        (lambda c: c.project(11), {"id": 11}, "GET", f"{V3}/projects/11/", {}),
        (
            listed(lambda c: c.environments(11)),
            [{"id": 21}],
            "GET",
            f"{V3}/projects/11/environments/",
            {"order_by": "id", "limit": "100", "offset": "0"},
        ),
        (
            lambda c: c.environment(11, 21),
            {"id": 21},
            "GET",
            f"{V3}/projects/11/environments/21/",
            {},
        ),
        (
            listed(lambda c: c.jobs(project_id=11, environment_id=21, name_contains="x y")),
            [{"id": 77}],
            "GET",
            f"{V2}/jobs/",
            {
                "project_id": "11",
                "environment_id": "21",
                "name__icontains": "x y",
                "order_by": "id",
                "limit": "100",
                "offset": "0",
            },
        ),
        (lambda c: c.job(77), {"id": 77}, "GET", f"{V2}/jobs/77/", {}),
        (lambda c: c.delete_job(77), None, "DELETE", f"{V2}/jobs/77/", {}),
        (
            lambda c: c.trigger_run(77, TriggerRun(cause="x")),
            run(),
            "POST",
            f"{V2}/jobs/77/run/",
            {},
        ),
        (lambda c: c.rerun_job(77), run(), "POST", f"{V2}/jobs/77/rerun/", {}),
        (lambda c: c.retry_run(5), run(), "POST", f"{V2}/runs/5/retry/", {}),
        (lambda c: c.cancel_run(5), run(), "POST", f"{V2}/runs/5/cancel/", {}),
        (lambda c: c.run(5), run(), "GET", f"{V2}/runs/5/", {}),
        (
            lambda c: c.run(5, include=("run_steps", "debug_logs")),
            run(),
            "GET",
            f"{V2}/runs/5/",
            {"include_related": "run_steps,debug_logs"},
        ),
        (
            lambda c: c.step(9, include=["debug_logs"]),
            {"id": 9, "index": 4},
            "GET",
            f"{V2}/steps/9/",
            {"include_related": "debug_logs"},
        ),
        (lambda c: c.artifact_paths(5), ["a"], "GET", f"{V2}/runs/5/artifacts/", {}),
        (
            lambda c: c.artifact_paths(5, step=4),
            ["a"],
            "GET",
            f"{V2}/runs/5/artifacts/",
            {"step": "4"},
        ),
        (
            lambda c: c.artifact(5, "compiled/my shop/50%41.sql", step=4),
            [],
            "GET",
            f"{V2}/runs/5/artifacts/compiled/my%20shop/50%2541.sql",
            {"step": "4"},
        ),
        (lambda c: c.request("GET", "v2/jobs/77"), {}, "GET", f"{V2}/jobs/77/", {}),
        (
            lambda c: c.request("GET", "v3/webhooks/subscriptions/", params={"limit": 5}),
            [],
            "GET",
            "/api/v3/accounts/4242/webhooks/subscriptions",
            {"limit": "5"},
        ),
        (
            listed(lambda c: c.runs()),
            [run()],
            "GET",
            f"{V2}/runs/",
            {"order_by": "id", "include_related": RUN_RELATED, "limit": "100"},
        ),
        (
            listed(
                lambda c: c.runs(
                    project_id=11,
                    environment_id=21,
                    job_id=77,
                    status_in=(10, 20),
                    finished_at=LAST_HOUR,
                    created_at=LAST_HOUR,
                    id_above=4,
                    include=(),
                    page_size=7,
                )
            ),
            [run()],
            "GET",
            f"{V2}/runs/",
            {
                "project_id": "11",
                "environment_id": "21",
                "job_definition_id": "77",
                "status__in": "[10, 20]",
                "finished_at__range": '["2026-01-05T11:00:00+00:00", "2026-01-05T12:00:00+00:00"]',
                "created_at__range": '["2026-01-05T11:00:00+00:00", "2026-01-05T12:00:00+00:00"]',
                "order_by": "id",
                "limit": "7",
                "id__gt": "4",
            },
        ),
        (
            listed(lambda c: c.runs(order_by="-id", id_above=4, page_size=1000)),
            [run()],
            "GET",
            f"{V2}/runs/",
            {
                "order_by": "-id",
                "include_related": RUN_RELATED,
                "id__gt": "4",
                "limit": "100",
                "offset": "0",
            },
        ),
    ],
)
def test_each_method_asks_for_its_path(
    make_client: MakeClient, call: Call, data: Any, method: str, path: str, query: dict[str, str]
) -> None:
    """Trailing slashes as the API has them, lists as JSON text, no parameter that was not set."""
    extra = {"pagination": {"count": 1, "total_count": 1}}
    script = Script(ok(data, extra=extra))
    client = make_client(script)
    call(client)
    request = script.last
    assert request.method == method
    assert request.url.raw_path.decode().partition("?")[0] == path
    assert dict(request.url.params) == query
    assert client.requests_made == 1


def test_headers_say_who_asks(make_client: MakeClient) -> None:
    """The token, our version and the suffix, and what is understood."""
    script = Script(ok({"id": 4242}))
    make_client(script, user_agent_suffix="prod/1").account()
    headers = script.last.headers
    assert headers["authorization"] == f"Token {TOKEN}"
    assert headers["user-agent"] == f"dagster-dbtcloud/{__version__} prod/1"
    assert headers["accept"] == "application/json"


def test_a_trigger_sends_only_what_is_set(make_client: MakeClient) -> None:
    """Everything else is the job's own."""
    script = Script(ok(run(), status_code=201))
    trigger = TriggerRun(cause="run 7f3a", steps_override=("dbt build",), threads_override=8)
    triggered = make_client(script).trigger_run(77, trigger)
    assert triggered.job_id == 77
    assert json.loads(script.last.content) == {
        "cause": "run 7f3a",
        "steps_override": ["dbt build"],
        "threads_override": 8,
    }


def test_a_new_job_waits_to_be_triggered(make_client: MakeClient) -> None:
    """All required fields are there, no trigger is on, and further settings are passed on."""
    script = Script(ok({"id": 77}, status_code=201))
    client = make_client(script)
    client.create_job(
        project_id=11,
        environment_id=21,
        name="ad hoc",
        execute_steps=("dbt build",),
        generate_docs=True,
    )
    body = json.loads(script.last.content)
    assert (body["account_id"], body["project_id"], body["environment_id"]) == (4242, 11, 21)
    assert body["execute_steps"] == ["dbt build"]
    assert body["generate_docs"] is True
    assert not any(body["triggers"].values())


def test_a_job_is_changed_as_a_whole(make_client: MakeClient) -> None:
    """What dbt Cloud has now is sent back, unknown fields too, without what it works out itself."""
    stored = {"id": 77, "name": "nightly", "new_field": [1], "state": 1, "next_run": "soon"}
    script = Script(ok(stored), ok({**stored, "name": "daily"}))
    changed = make_client(script).update_job(Job(id=77, name="stale"), name="daily")
    assert changed.name == "daily"
    sent = json.loads(script.last.content)
    assert sent == {"id": 77, "name": "daily", "new_field": [1], "state": 1}


def test_runs_are_walked_page_by_page(make_client: MakeClient) -> None:
    """Nothing is asked before the first run is taken; each page only when it is reached."""

    def serve(request: httpx.Request) -> httpx.Response:
        after, limit = (int(request.url.params.get(key, 0)) for key in ("id__gt", "limit"))
        ids = range(after + 1, 251)
        page = [run(id) for id in ids[:limit]]
        return ok(page, extra={"pagination": {"count": len(page), "total_count": len(ids)}})

    client = make_client(serve)
    runs = client.runs(page_size=50)
    assert client.requests_made == 0
    assert [next(runs).id for _ in range(50)] == list(range(1, 51))
    assert client.requests_made == 1
    assert [run.id for run in runs] == list(range(51, 251))
    assert client.requests_made == 5


def test_a_broken_run_is_known_by_its_digits(make_client: MakeClient) -> None:
    """Ids may come as text (fact 30): also then one broken run does not hide the others."""
    extra = {"pagination": {"total_count": 2}}
    listed = ok([{**run(), "id": "7", "created_at": "soon"}, {"id": "8"}], extra=extra)
    client = make_client(Script(listed))
    broken, whole = client.runs(tolerant=True)
    assert isinstance(broken, BrokenRun)
    assert "created_at" in broken.fault
    assert (broken.id, whole.id) == (7, 8)


def test_a_server_that_does_not_page_is_an_api_error(make_client: MakeClient) -> None:
    """The error names the list."""
    extra = {"pagination": {"total_count": 9}}
    client = make_client(Script(ok([run(1), run(2)], extra=extra)))
    with pytest.raises(ApiResponseError, match=r"/runs/: .*id__gt"):
        list(client.runs())


def test_a_range_needs_time_zones(make_client: MakeClient) -> None:
    """A naive time would be off by hours, in silence."""
    naive = datetime(2026, 1, 5)
    with pytest.raises(ValueError, match="time zone"):
        make_client(Script(ok([]))).runs(finished_at=(naive, naive))


# reading


@pytest.mark.parametrize("data", [None, []])
def test_no_artifacts_may_be_null(make_client: MakeClient, data: Any) -> None:
    """A run that stored nothing has none."""
    assert make_client(Script(ok(data))).artifact_paths(5) == ()


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(204),
        httpx.Response(200),
        ok({"id": 77}),
        ok(None),
        ok("deleted"),
    ],
)
def test_a_deletion_answers_as_it_likes(make_client: MakeClient, response: httpx.Response) -> None:
    """204, or 200 with the object, or with nothing."""
    make_client(Script(response)).delete_job(77)


@pytest.mark.parametrize("status_code", [200, 202, 204])
def test_a_cancellation_without_a_word_is_looked_up(
    make_client: MakeClient, status_code: int
) -> None:
    """The run is asked for instead."""
    script = Script(httpx.Response(status_code), ok(run(status=30)))
    assert make_client(script).cancel_run(900123).is_cancelled
    assert script.last.method == "GET"


@pytest.mark.parametrize("status_code", [400, 409, 422])
def test_to_cancel_what_is_over_is_no_error(make_client: MakeClient, status_code: int) -> None:
    """The run is returned as it ended; one that goes on keeps the refusal."""
    assert make_client(Script(failed(status_code), ok(run(status=10)))).cancel_run(5).is_success
    with pytest.raises(ApiStatusError):
        make_client(Script(failed(status_code), ok(run(status=3)))).cancel_run(5)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "no 'data'"),
        ({"detail": "something else"}, "no 'data'"),
        ([], "no 'data'"),
        ("hello", "no 'data'"),
        ({"data": None}, "an object was expected in 'data', not null"),
        ({"data": [run()]}, "an object was expected in 'data', not a list"),
        ({"data": 5}, "an object was expected in 'data', not a bare value"),
        ({"data": {}}, r"run without id has an unexpected form \(id: "),
        ({"data": run(5, status="?")}, r"run 5 has an unexpected form \(status: "),
        (
            {"data": run(5, run_steps=[{"index": "x"}])},
            r"run 5 has an unexpected form \(run_steps\.0\.index: ",
        ),
        ({"data": run(), "status": {"is_success": False}}, "calls itself a failure"),
        ({"data": run(), "status": {"is_success": False, "code": 200}}, "calls itself a failure"),
    ],
)
def test_a_wrong_shape_is_told_at_once(make_client: MakeClient, body: Any, message: str) -> None:
    """It would be the same the next time; the error names the place, not the whole body."""
    client = make_client(Script(httpx.Response(200, json=body)))
    with pytest.raises(ApiResponseError, match=message) as caught:
        client.run(5)
    assert f"GET {ACCESS_URL}{V2}/runs/5/" in str(caught.value)
    assert client.requests_made == 1


@pytest.mark.parametrize("status", [None, "fine", {}, {"is_success": None}, {"is_success": True}])
def test_an_odd_status_beside_good_data_is_let_pass(make_client: MakeClient, status: Any) -> None:
    """The data are there."""
    response = httpx.Response(200, json={"status": status, "data": run(5)})
    assert make_client(Script(response)).run(5).id == 5


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"data": {"id": 1}}, "a list was expected in 'data', not an object"),
        ({"data": [run(1), {"status": 1}]}, "run without id has an unexpected form"),
        ({"data": [run(1), 5]}, "run a bare value has an unexpected form"),
        ({}, "no 'data'"),
    ],
)
def test_a_list_of_a_wrong_shape_is_told(make_client: MakeClient, body: Any, message: str) -> None:
    """And which row it was."""
    with pytest.raises(ApiResponseError, match=message):
        list(make_client(Script(httpx.Response(200, json=body))).runs())


@pytest.mark.parametrize(
    "extra", [None, [], {}, {"pagination": None}, {"pagination": {"total_count": "many"}}]
)
def test_a_list_without_a_count_is_walked_to_its_end(make_client: MakeClient, extra: Any) -> None:
    """An empty page ends it."""
    script = Script(ok([run(1), run(2)], extra=extra), ok([], extra=extra))
    assert [run.id for run in make_client(script).runs()] == [1, 2]


def test_a_failure_inside_a_success_is_the_failure(make_client: MakeClient) -> None:
    """HTTP 200, and the envelope says 404."""
    body = {"status": {"code": 404, "is_success": False, "user_message": "gone"}, "data": None}
    with pytest.raises(NotFoundError, match="gone"):
        make_client(Script(httpx.Response(200, json=body))).run(5)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("manifest.json", b'{"metadata": {}}'),
        ("manifest.json", b' \n[{"a": 1}]\n '),
        ("index.html", b"<!doctype html><html></html>"),
        ("compiled/shop/models/a.sql", b"select '<html>'"),
        ("graph.gpickle", bytes(range(256))),
        ("run_results.jsonl", b""),
    ],
)
def test_artifacts_come_as_they_are(make_client: MakeClient, path: str, body: bytes) -> None:
    """Bytes, whatever the server calls their type."""
    response = httpx.Response(200, content=body, headers={"content-type": "text/html"})
    script = Script(response)
    assert make_client(script).artifact(5, path) == body
    assert script.last.headers["accept"] == "*/*"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("manifest.json", b""),
        ("manifest.json", b'{"metadata": {'),
        ("manifest.json", b"<html><body>Sign in</body></html>"),
        ("manifest.json", b"Bad gateway"),
        ("compiled/a.sql", b"\n<!DOCTYPE html><html>Sign in</html>"),
    ],
)
def test_what_is_not_the_artifact_is_asked_for_again(
    make_client: MakeClient, path: str, body: bytes
) -> None:
    """A page of a proxy, or a body that was cut; then the artifact."""
    script = Script(httpx.Response(200, content=body), httpx.Response(200, content=b"{}"))
    assert make_client(script).artifact(5, path) == b"{}"
    with pytest.raises(ApiResponseError, match="Gave up after"):
        make_client(Script(httpx.Response(200, content=body))).artifact(5, path)


# failures


@pytest.mark.parametrize(
    ("status_code", "kind", "words"),
    [
        (400, ApiStatusError, ["refused"]),
        (
            401,
            AuthenticationError,
            ["wrong, expired or revoked", "another region or cell", ACCESS_URL, "Access URLs"],
        ),
        (403, PermissionDeniedError, ["permissions", "IP restrictions"]),
        (404, NotFoundError, ["does not exist", "may not see it"]),
        (405, ApiStatusError, ["refused"]),
        (409, ApiStatusError, ["refused"]),
        (422, ApiStatusError, ["refused"]),
    ],
)
def test_a_refusal_is_raised_at_once_and_says_what_to_do(
    make_client: MakeClient, status_code: int, kind: type[ApiStatusError], words: list[str]
) -> None:
    """With dbt Cloud's own words and the request's id."""
    client = make_client(Script(failed(status_code, "Because.", x_request_id="req-1")))
    for call in (client.account, lambda: client.trigger_run(77, TriggerRun(cause="x"))):
        before = client.requests_made
        with pytest.raises(kind) as caught:
            call()
        error = caught.value
        assert client.requests_made == before + 1
        assert (error.status_code, error.request_id) == (status_code, "req-1")
        for word in [*words, "Because.", "req-1", str(status_code)]:
            assert word in str(error)


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (httpx.Response(405, json={"detail": 'Method "GET" not allowed.'}), 'Method "GET" not'),
        (
            httpx.Response(
                400, json={"status": {"user_message": "Bad."}, "data": {"cause": ["required"]}}
            ),
            'Bad. {"cause": ["required"]}',
        ),
        (
            httpx.Response(404, text="<html><style>p{}</style><body><p>No&nbsp;such  page</p>"),
            "No such page",
        ),
        (httpx.Response(404, text="<html>404</html>"), f"is {ACCESS_URL} really dbt Cloud's"),
        (httpx.Response(400, text="plain\nwords"), "plain words"),
        (httpx.Response(400, content=b"\xff\xfe"), "\ufffd\ufffd"),
        (httpx.Response(400, text='{"status": "odd", "data": 5}'), '{"status": "odd", "data": 5}'),
        (httpx.Response(400, json=[1]), "[1]"),
        (httpx.Response(400), "refused."),
    ],
)
def test_errors_are_read_in_every_form(
    make_client: MakeClient, response: httpx.Response, said: str
) -> None:
    """The envelope, Django's ``detail``, a page, bare words, or nothing."""
    with pytest.raises(ApiStatusError) as caught:
        make_client(Script(response)).account()
    assert said in str(caught.value)


def test_a_long_body_is_shortened(make_client: MakeClient) -> None:
    """An error shows a few hundred characters of it."""
    with pytest.raises(ApiStatusError) as caught:
        make_client(Script(httpx.Response(400, text="x" * 10**6))).account()
    assert len(caught.value.body) == 300
    assert len(str(caught.value)) < 800


def connection_errors() -> list[tuple[Exception, bool]]:
    kinds: list[tuple[type[httpx.TransportError], bool]] = [
        (httpx.ConnectError, False),
        (httpx.ConnectTimeout, False),
        (httpx.PoolTimeout, False),
        (httpx.ProxyError, False),
        (httpx.UnsupportedProtocol, False),
        (httpx.WriteError, True),
        (httpx.WriteTimeout, True),
        (httpx.ReadTimeout, True),
        (httpx.ReadError, True),
        (httpx.RemoteProtocolError, True),
        (httpx.LocalProtocolError, True),
        (httpx.CloseError, True),
    ]
    return [(kind("it broke"), sent) for kind, sent in kinds]


@pytest.mark.parametrize(("error", "sent"), connection_errors())
def test_no_answer_tells_whether_it_was_sent(
    make_client: MakeClient, error: Exception, sent: bool
) -> None:
    """Only what surely never left may be sent twice; for the rest the caller has to look."""
    with pytest.raises(ApiConnectionError) as caught:
        make_client(Script(error), retry_for=0).trigger_run(77, TriggerRun(cause="x"))
    assert caught.value.sent is sent
    assert ("not sent again" in str(caught.value)) is sent
    assert caught.value.__context__ is None


@pytest.mark.parametrize(("error", "sent"), connection_errors())
def test_a_trigger_is_repeated_only_if_it_was_never_sent(
    make_client: MakeClient, error: Exception, sent: bool
) -> None:
    """Twice sent could be two runs."""
    script = Script(error, ok(run()))
    client = make_client(script)
    if sent:
        with pytest.raises(ApiConnectionError):
            client.trigger_run(77, TriggerRun(cause="x"))
        assert client.requests_made == 1
    else:
        assert client.trigger_run(77, TriggerRun(cause="x")).id == 900123
        assert client.requests_made == 2


def test_doubt_after_other_failures_is_told(make_client: MakeClient) -> None:
    """It is not for want of time that the trigger is not sent again."""
    client = make_client(Script(failed(429), httpx.ReadError("it broke"), ok(run())))
    with pytest.raises(ApiConnectionError, match="may have been carried out"):
        client.trigger_run(77, TriggerRun(cause="x"))
    assert client.requests_made == 2


CREATE: Call = lambda c: c.create_job(  # noqa: E731 - one of a table of calls
    project_id=11, environment_id=21, name="n", execute_steps=["dbt build"]
)
ONCE: list[Call] = [
    lambda c: c.trigger_run(77, TriggerRun(cause="x")),
    CREATE,
    lambda c: c.rerun_job(77),
    lambda c: c.retry_run(5),
]
HTML = httpx.Response(200, text="<html>Sign in</html>")
CUT = httpx.Response(200, text='{"data": {"id"')
UNREADABLE = [HTML, CUT, httpx.Response(200, text="hello"), httpx.Response(200), ok(None)]


@pytest.mark.parametrize("call", ONCE)
@pytest.mark.parametrize(
    ("response", "kind"),
    [(failed(code), ServerError) for code in (500, 502, 503, 504)]
    + [(failed(408), ApiStatusError)]
    + [(response, ApiResponseError) for response in UNREADABLE],
)
def test_what_starts_something_is_not_repeated_in_doubt(
    make_client: MakeClient, call: Call, response: httpx.Response, kind: type[Exception]
) -> None:
    """An error of the server or an unreadable answer may come after the effect."""
    client = make_client(Script(response, ok(run())))
    with pytest.raises(kind):
        call(client)
    assert client.requests_made == 1


@pytest.mark.parametrize("call", ONCE)
def test_what_starts_something_waits_for_the_budget(
    make_client: MakeClient, clock: ManualClock, call: Call
) -> None:
    """A 429 was not carried out: wait as told, and send again."""
    client = make_client(Script(failed(429), failed(429, retry_after="90"), ok(run())))
    assert call(client).id == 900123
    assert clock.monotonic() == 30 + 90


REPEATABLE: list[Call] = [
    lambda c: c.account(),
    lambda c: list(c.runs()),
    lambda c: c.artifact_paths(5),
    lambda c: c.delete_job(77),
    lambda c: c.cancel_run(5),
]


@pytest.mark.parametrize("call", REPEATABLE)
@pytest.mark.parametrize(
    "reply",
    [
        httpx.ConnectError("x"),
        httpx.ReadTimeout("x"),
        httpx.RemoteProtocolError("x"),
        httpx.DecodingError("x"),
        failed(408),
        failed(429),
        *(failed(code) for code in (500, 502, 503, 504)),
        HTML,
        CUT,
        httpx.Response(200, content=b"\xff"),
        httpx.Response(200, content=b"[" * 100_000),
        httpx.Response(200, content=b"x", headers={"content-encoding": "gzip"}),
    ],
)
def test_what_does_no_harm_twice_is_repeated(
    make_client: MakeClient, call: Call, reply: httpx.Response | Exception
) -> None:
    """Reading, deleting, cancelling."""

    def answer(request: httpx.Request) -> httpx.Response:
        paths = {f"{V2}/": {"id": 4242}, f"{V2}/runs/": [], f"{V2}/runs/5/artifacts/": []}
        return ok(paths.get(request.url.path, run()))

    client = make_client(Script(reply, answer))
    call(client)
    assert client.requests_made == 2


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (httpx.ConnectError("x"), ApiConnectionError),
        (failed(503), ServerError),
        (HTML, ApiResponseError),
        (failed(500, "Out of order"), ServerError),
    ],
)
def test_a_call_gives_up_when_its_budget_is_spent(
    make_client: MakeClient,
    clock: ManualClock,
    reply: httpx.Response | Exception,
    kind: type[Exception],
) -> None:
    """The last error says how often and how long it was tried."""
    client = make_client(Script(reply), retry_for=60.0)
    with pytest.raises(kind, match=r"[^.]\. Gave up after 8 tries in 60 s\.$"):
        client.account()
    assert clock.monotonic() == 60.0
    assert client.requests_made == 8


def test_rate_limits_wait_up_to_the_cool_down(make_client: MakeClient) -> None:
    """Half a minute at first, then longer; and the error knows what the server asked for."""
    client = make_client(Script(failed(429, retry_after="17")), retry_for=40.0)
    with pytest.raises(RateLimitedError, match="4 tries in 40 s") as caught:
        client.account()
    assert caught.value.retry_after == 17.0


def test_a_servers_word_is_heeded_for_other_failures_too(
    make_client: MakeClient, clock: ManualClock
) -> None:
    """503 with Retry-After, as a date."""
    then = clock.now() + timedelta(seconds=100)
    date = then.strftime("%a, %d %b %Y %H:%M:%S GMT")
    make_client(Script(failed(503, retry_after=date), ok({"id": 1}))).account()
    assert clock.monotonic() == 100.0


def test_jitter_is_given_by_the_caller(make_client: MakeClient, clock: ManualClock) -> None:
    """So a test knows the delays."""
    make_client(Script(failed(503), ok({"id": 1})), jitter=lambda: 0.5).account()
    assert clock.monotonic() == 0.5 * 1.125


def test_a_deletion_whose_answer_was_lost_is_done(make_client: MakeClient) -> None:
    """The second try finds nothing: the first one worked. Alone, a 404 is an error."""
    make_client(Script(httpx.ReadError("x"), failed(404))).delete_job(77)
    make_client(Script(failed(502), httpx.Response(404, text="<html>"))).delete_job(77)
    for first in (failed(404), httpx.ConnectError("x"), failed(429)):
        with pytest.raises(NotFoundError):
            make_client(Script(first, failed(404))).delete_job(77)


def test_retries_are_logged(make_client: MakeClient, caplog: pytest.LogCaptureFixture) -> None:
    """A warning for each wait, and each request for those who look closer."""
    caplog.set_level(logging.DEBUG, logger="dagster_dbtcloud.cloud")
    make_client(Script(failed(503), ok({"id": 1}))).account()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "503" in warnings[0]
    assert "Trying again in 0.5 s" in warnings[0]
    assert "dbt Cloud request 2: GET" in caplog.text


# redirects


def moved(location: str, status_code: int = 302) -> httpx.Response:
    return httpx.Response(status_code, headers={"location": location})


@pytest.mark.parametrize("status_code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location", ["/api/v2/elsewhere/?x=1", f"{ACCESS_URL}:443/api/v2/elsewhere/?x=1"]
)
def test_a_redirect_on_the_same_host_is_followed(
    make_client: MakeClient, status_code: int, location: str
) -> None:
    """With the token, for GET."""
    script = Script(moved(location, status_code), ok({"id": 4242}))
    assert make_client(script).account().id == 4242
    assert script.last.url.path == "/api/v2/elsewhere/"
    assert script.last.headers["authorization"] == f"Token {TOKEN}"


@pytest.mark.parametrize(
    "location",
    [
        "https://evil.example.com/",
        "//evil.example.com/",
        "http://ab123.us1.dbt.com/",
        "https://ab123.us1.dbt.com:8443/",
        "https://ab123.us1.dbt.com.evil.example.com/",
        "https://ab123.us1.dbt.com@evil.example.com/",
        "https://[bad/",
        "",
    ],
)
def test_no_other_host_gets_the_token(make_client: MakeClient, location: str) -> None:
    """Nor the same host without TLS or on another port; it is told, not followed."""
    script = Script(moved(location))
    with pytest.raises(ApiStatusError, match="not followed: the token goes"):
        make_client(script).account()
    assert len(script.requests) == 1


def test_a_post_is_never_redirected(make_client: MakeClient) -> None:
    """It could become a GET on the way."""
    script = Script(moved("/api/v2/elsewhere/", 308))
    with pytest.raises(ApiStatusError, match=r"308.*not followed with a body"):
        make_client(script).trigger_run(77, TriggerRun(cause="x"))
    assert len(script.requests) == 1


def test_a_circle_of_redirects_ends(make_client: MakeClient) -> None:
    """After a few rounds."""
    client = make_client(Script(moved("/api/v2/accounts/4242/")))
    with pytest.raises(ApiStatusError, match=r"redirected .* too many times"):
        client.account()


# the client itself


@pytest.mark.parametrize("account_id", [4242, "4242", "70403103900000"])
def test_the_account_may_come_as_digits(make_client: MakeClient, account_id: Any) -> None:
    """As environment variables do."""
    script = Script(ok({"id": 1}))
    make_client(script, account_id=account_id).account()
    assert script.last.url.path == f"/api/v2/accounts/{account_id}/"


@pytest.mark.parametrize(
    "settings",
    [
        {"token": ""},
        {"token": "a b"},
        {"access_url": "not a host"},
        {"account_id": "analytics"},
        {"account_id": None},
        {"user_agent_suffix": "a\r\nb"},
        {"user_agent_suffix": "ö"},
    ],
)
def test_unusable_settings_are_refused_at_once(
    make_client: MakeClient, settings: dict[str, Any]
) -> None:
    """Before anything is sent."""
    with pytest.raises(ConfigError):
        make_client(Script(ok()), **settings)


def test_a_client_is_shared_not_pickled(make_client: MakeClient) -> None:
    """A copy is the client itself; a pickle would hold the token."""
    client = make_client(Script(ok()))
    assert copy.copy(client) is copy.deepcopy(client) is client
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(client)


def test_a_closed_client_connects_anew(make_client: MakeClient) -> None:
    """Closing twice does no harm either."""
    client = make_client(Script(ok({"id": 1})))
    with client as entered:
        entered.account()
    client.close()
    assert client.account().id == 1
