"""Webhooks: what dbt Cloud signed is noted, and nobody else's word is."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import Iterator, MutableMapping
from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg
import pytest

from dagster_dbtcloud.clock import ManualClock
from dagster_dbtcloud.errors import ConfigError
from dagster_dbtcloud.wake import FRESH, leave_note, notes
from dagster_dbtcloud.webhooks import LARGEST_BODY, WebhookApp

SECRET = "shown-once"
ACCOUNT, ENVIRONMENT, RUN = 70403103100001, 70403103300001, 70403103700001
NOW = datetime(2026, 1, 5, 10, 25, tzinfo=timezone.utc)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def payload(event: str = "job.run.completed", **data: Any) -> bytes:
    """What dbt Cloud sends: ids inside ``data`` are texts (docs: deploy/webhooks)."""
    return json.dumps(
        {
            "accountId": ACCOUNT,
            "eventId": "wev_1",
            "eventType": event,
            "data": {
                "jobId": "77",
                "runId": str(RUN),
                "environmentId": str(ENVIRONMENT),
                **data,
            },
        }
    ).encode()


def signature(body: bytes, secret: str = SECRET) -> bytes:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest().encode()


def deliver(
    instance: dg.DagsterInstance, body: bytes, signed: bytes | None, *, method: str = "POST"
) -> int:
    """Deliver over ASGI, in two pieces; return the status."""
    app = WebhookApp(secrets=["another", SECRET], instance=instance, clock=ManualClock(NOW))
    half = len(body) // 2
    first: dict[str, Any] = {"type": "http.request", "body": body[:half], "more_body": True}
    pieces = [{"type": "http.request", "body": body[half:]}, first]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return pieces.pop()

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    headers = [] if signed is None else [(b"authorization", signed)]
    asyncio.run(app({"type": "http", "method": method, "headers": headers}, receive, send))
    return int(sent[0]["status"])


def noted(instance: dg.DagsterInstance) -> frozenset[int]:
    return notes(instance, account_id=ACCOUNT, environment_id=ENVIRONMENT, now=NOW)


@pytest.mark.parametrize("event", ["job.run.completed", "job.run.errored"])
def test_a_run_that_ended_is_noted_however_often_it_is_told(
    instance: dg.DagsterInstance, event: str
) -> None:
    """Deliveries are repeated and come in any order."""
    body = payload(event)
    for _ in range(3):
        assert deliver(instance, body, signature(body)) == 200
    assert noted(instance) == {RUN}


def test_a_run_of_an_environment_unknown_wakes_all(instance: dg.DagsterInstance) -> None:
    """Better one look too many than a run that is told late."""
    body = payload(environmentId=None)
    assert deliver(instance, body, signature(body)) == 200
    assert noted(instance) == {RUN}


def test_a_run_that_began_is_no_news(instance: dg.DagsterInstance) -> None:
    """The sensor records what is over."""
    body = payload("job.run.started")
    assert deliver(instance, body, signature(body)) == 200
    assert noted(instance) == frozenset()


@pytest.mark.parametrize(
    "forged",
    [
        None,
        b"",
        b"0" * 64,
        b"Bearer x",
        "Ü".encode("latin-1"),
        signature(b"other"),
        SECRET.encode(),
    ],
)
def test_what_is_not_signed_is_refused(instance: dg.DagsterInstance, forged: bytes | None) -> None:
    """Before its body is even read as JSON."""
    for body in (payload(), b"{not json"):
        assert deliver(instance, body, forged) == 401
    assert noted(instance) == frozenset()


def test_a_body_that_was_changed_is_refused(instance: dg.DagsterInstance) -> None:
    """The signature covers every byte."""
    assert deliver(instance, payload(runId="1"), signature(payload())) == 401


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"null", b'{"accountId": 1}', b'{"a":' * 9_000),
        *(payload(runId="x"), b'{"accountId": Infinity}'),
        payload().replace(b'"data": {', b'"data": [], "more": {'),
    ],
)
def test_what_is_signed_and_no_webhook_is_refused(
    instance: dg.DagsterInstance, body: bytes
) -> None:
    """A body of another kind does no harm."""
    assert deliver(instance, body, signature(body)) == 400


def test_other_requests_are_refused(instance: dg.DagsterInstance) -> None:
    """A browser, a flood."""
    assert deliver(instance, b"", None, method="GET") == 405
    assert deliver(instance, b"x" * (2 * LARGEST_BODY + 2), b"") == 413


def test_without_a_secret_there_is_no_app() -> None:
    """Anybody could wake the sensor as often as they like."""
    for secrets in ([], [""], [" "]):
        with pytest.raises(ConfigError, match="DBT_CLOUD_WEBHOOK_SECRET"):
            WebhookApp(secrets=secrets)
    assert SECRET not in repr(WebhookApp(secrets=[SECRET]))


def test_a_note_is_heeded_for_a_while_and_by_its_account(instance: dg.DagsterInstance) -> None:
    """Nobody has to take it away; another version's note is passed over."""

    def heeded(**values: Any) -> frozenset[int]:
        asked = {"account_id": ACCOUNT, "environment_id": ENVIRONMENT, "now": NOW, **values}
        return notes(instance, **asked)

    whose: dict[str, Any] = {"account_id": ACCOUNT, "environment_id": ENVIRONMENT, "now": NOW}
    leave_note(instance, run_id=RUN, **whose)
    leave_note(instance, run_id=RUN + 1, **{**whose, "environment_id": None})
    assert heeded() == {RUN, RUN + 1}
    assert heeded(account_id=ACCOUNT + 1) == frozenset()
    assert heeded(environment_id=ENVIRONMENT + 1) == {RUN + 1}
    assert heeded(now=NOW + FRESH) == frozenset()
    place = f"dagster_dbtcloud/wake/{ACCOUNT}/0"
    instance.daemon_cursor_storage.set_cursor_values({place: '{"version": 9}'})
    assert noted(instance) == {RUN, RUN + 1}
    assert heeded(now=NOW + timedelta(minutes=1)) == {RUN, RUN + 1}
