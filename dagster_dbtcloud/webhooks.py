"""dbt Cloud's webhooks, checked, become notes that wake the polling sensor.

A small ASGI app without dependencies; any ASGI server runs it, wherever Dagster's storage can be
reached::

    DBT_CLOUD_WEBHOOK_SECRET=... uvicorn --factory dagster_dbtcloud.webhooks:create_app

It records nothing: the sensor (with ``webhooks=True``) asks dbt Cloud about the noted run. So a
delivery that is repeated, late, out of order or missing changes no history. Facts 39 to 41 of
docs/dbt-cloud-api.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, NamedTuple

import dagster as dg

from dagster_dbtcloud.clock import Clock, SystemClock
from dagster_dbtcloud.errors import ConfigError
from dagster_dbtcloud.wake import leave_note

SECRET_VARIABLE = "DBT_CLOUD_WEBHOOK_SECRET"  # noqa: S105 - the variable's name
"""The environment variable that holds the webhook's secret; several are divided by commas."""
LARGEST_BODY = 256 * 1024
"""Bytes; dbt Cloud's payloads have about one thousand."""
_ENDS = frozenset({"job.run.completed", "job.run.errored"})

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def create_app() -> WebhookApp:
    """Make the app from the environment: ``DBT_CLOUD_WEBHOOK_SECRET`` and ``DAGSTER_HOME``.

    Raises: ConfigError, without a secret.
    """
    return WebhookApp(secrets=os.environ.get(SECRET_VARIABLE, "").split(","))


class WebhookApp:
    """Takes POSTs of dbt Cloud at any path, and notes the runs that have ended.

    ``secrets`` are those that dbt Cloud showed when the webhooks were made. ``instance`` is where
    notes are left; by default the one of DAGSTER_HOME.

    Answers: 200 noted, or nothing to note; 400 not a webhook's body; 401 not signed with one of
    the secrets; 405 not a POST; 413 too long.

    Raises: ConfigError, without a secret.
    """

    def __init__(
        self,
        *,
        secrets: Sequence[str],
        instance: dg.DagsterInstance | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._keys = [secret.strip().encode() for secret in secrets if secret.strip()]
        if not self._keys:
            raise ConfigError(
                f"A webhook's secret is needed ({SECRET_VARIABLE}): without it anybody could call."
            )
        self._instance = instance
        self._clock = clock or SystemClock()

    def __repr__(self) -> str:
        return f"WebhookApp({len(self._keys)} secrets)"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            status, words = await self._answer(scope, receive)
            body = json.dumps({"detail": words}).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
            ]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, str]:
        if scope["method"] != "POST":
            return 405, "dbt Cloud's webhooks are POSTed"
        body = await _body(receive)
        if body is None:
            return 413, "too long for a webhook"
        given = next((v for name, v in scope["headers"] if name.lower() == b"authorization"), b"")
        if not self.is_signed(body, given):
            return 401, "the signature is not of a secret known here"
        found = _ended_run(body)
        if found is None:
            return 400, "not a webhook of dbt Cloud"
        if found.run_id is None:
            return 200, "nothing to note"
        # Dagster's storage may take a moment; other deliveries go on meanwhile
        await asyncio.to_thread(self._note, found.account_id, found.environment_id, found.run_id)
        return 200, f"run {found.run_id} noted"

    def is_signed(self, body: bytes, signature: bytes) -> bool:
        """Tell whether ``signature`` is the bare hex HMAC-SHA256 of the raw body (fact 40)."""
        given = signature.strip().lower()
        verdicts = [
            hmac.compare_digest(hmac.new(key, body, hashlib.sha256).hexdigest().encode(), given)
            for key in self._keys
        ]
        return any(verdicts)

    def _note(self, account_id: int, environment_id: int | None, run_id: int) -> None:
        if self._instance is None:
            self._instance = dg.DagsterInstance.get()
        leave_note(
            self._instance,
            account_id=account_id,
            environment_id=environment_id,
            run_id=run_id,
            now=self._clock.now(),
        )


class _Ended(NamedTuple):
    account_id: int
    environment_id: int | None = None
    run_id: int | None = None


def _ended_run(body: bytes) -> _Ended | None:
    """Return the run of a payload; no run for an event that ends none; None if unreadable.

    Ids inside ``data`` are texts (fact 41).
    """
    try:
        raw = json.loads(body)
        account_id, event = int(raw["accountId"]), raw["eventType"]
        if event not in _ENDS:
            return _Ended(account_id)
        environment = str(raw["data"].get("environmentId"))
        environment_id = int(environment) if environment.isdecimal() else None
        return _Ended(account_id, environment_id, int(raw["data"]["runId"]))
    except (ArithmeticError, AttributeError, ValueError, KeyError, TypeError, RecursionError):
        return None


async def _body(receive: Receive) -> bytes | None:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        body += bytes(message.get("body", b""))
        if len(body) > LARGEST_BODY:
            return None
        if not message.get("more_body", False):
            return body


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
