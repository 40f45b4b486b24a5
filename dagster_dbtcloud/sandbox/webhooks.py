"""Webhooks: who wants to be told of a run's start and end, and the telling.

What happened is said by ``state.py``; the endpoints are in ``api_webhooks.py``. Events lie in the
store until they are delivered, so a stop between a run's end and its event loses nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import json
import secrets
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from dagster_dbtcloud.sandbox.catalog import Catalog
from dagster_dbtcloud.sandbox.store import Doc
from dagster_dbtcloud.sandbox.wire import Refusal, from_text, to_text

EVENT_TYPES = ("job.run.started", "job.run.completed", "job.run.errored")
#: Note "Errored", where the run itself says "Error" (docs: deploy/webhooks).
_STATUS_WORDS = {3: "Running", 10: "Success", 20: "Errored", 30: "Cancelled"}
_ANSWER_SECONDS = 10.0
_TRIES = 5
_FAILURES_ALLOWED = 5
_LOOK_SECONDS = 0.05
_PENDING, _DELIVERED, _FAILED = "pending", "delivered", "failed"


def subscribe(catalog: Catalog, account_id: int, body: Mapping[str, Any]) -> Doc:
    """Store a subscription; its ``hmac_secret`` is shown this once.

    Raises: Refusal 400.
    """
    fields = _subscription_fields(body)
    with catalog.changed:
        return catalog.store.insert(
            "subscriptions",
            {
                "key": "wsu_" + secrets.token_urlsafe(12).replace("-", "_"),
                "account_id": account_id,
                "state": 1,
                "hmac_secret": secrets.token_hex(32),
                "failures": 0,
                "deactivate_reason": "",
                "http_status_code": "0",
                "created_at": catalog.now(),
                "updated_at": catalog.now(),
                "dispatched_at": None,
                **fields,
            },
        )


def change(catalog: Catalog, subscription: Doc, body: Mapping[str, Any]) -> Doc:
    """Replace it; switched on again it starts without failures. Raises: Refusal 400."""
    fields = _subscription_fields(body)
    with catalog.changed:
        return catalog.store.update(
            "subscriptions",
            subscription["id"],
            **{**fields, "updated_at": catalog.now(), "failures": 0, "deactivate_reason": ""},
        )


def _subscription_fields(body: Mapping[str, Any]) -> Doc:
    missing = {
        name: ["This field is required."]
        for name in ("name", "event_types", "client_url", "active")
        if body.get(name) in (None, "", [])
    }
    if missing:
        raise Refusal(400, f"Missing: {', '.join(sorted(missing))}.", missing)
    types, jobs = body["event_types"], body.get("job_ids") or []
    if not isinstance(types, list) or not set(types) <= set(EVENT_TYPES):
        raise Refusal(400, "event_types: unknown.", {"event_types": ["Invalid."]})
    if urlsplit(str(body["client_url"])).scheme not in ("http", "https"):
        raise Refusal(400, "client_url: a URL is needed.", {"client_url": ["Invalid."]})
    if not isinstance(jobs, list) or not all(str(one).isdigit() for one in jobs):
        raise Refusal(400, "job_ids: a list of ids is needed.", {"job_ids": ["Invalid."]})
    return {
        "name": str(body["name"]),
        "description": str(body.get("description") or ""),
        "client_url": str(body["client_url"]),
        "active": bool(body["active"]),
        "event_types": types,
        "job_ids": [str(one) for one in jobs],
    }


def announce(catalog: Catalog, event_type: str, run: Doc, *, at: datetime | None = None) -> None:
    """Store an event for each subscription that wants it, due ``at`` (now if None)."""
    wanted = {"account_id": run["account_id"], "state": 1}
    for subscription in catalog.store.select("subscriptions", wanted):
        jobs = subscription["job_ids"]
        if (
            not subscription["active"]
            or event_type not in subscription["event_types"]
            or (jobs and str(run["job_definition_id"]) not in jobs)
        ):
            continue
        moment = catalog.clock.now()
        key = "wev_" + secrets.token_urlsafe(12).replace("-", "_")
        delay = timedelta(seconds=catalog.behaviour.webhook_delay_seconds)
        payload = _payload(catalog, event_type, run, subscription, key, moment)
        catalog.store.insert(
            "events",
            {
                "key": key,
                "subscription_id": subscription["id"],
                "account_id": run["account_id"],
                "job_id": run["job_definition_id"],
                "event_type": event_type,
                "payload": json.dumps(payload),
                "progress": _PENDING,
                "tries": 0,
                "due_at": to_text(max(at or moment, moment) + delay),
                "http_status_code": "0",
            },
        )


def _payload(
    catalog: Catalog, event_type: str, run: Doc, subscription: Doc, key: str, moment: datetime
) -> Doc:
    """The body of a delivery; ids below ``data`` are texts (docs: deploy/webhooks)."""
    trigger = catalog.store.get("triggers", run["trigger_id"]) or {}
    job = catalog.store.get("jobs", run["job_definition_id"] or 0) or {}
    environment = catalog.store.get("environments", run["environment_id"]) or {}
    project = catalog.store.get("projects", run["project_id"]) or {}
    data: Doc = {
        "jobId": str(run["job_definition_id"]),
        "jobName": job.get("name", ""),
        "runId": str(run["id"]),
        "environmentId": str(run["environment_id"]),
        "environmentName": environment.get("name", ""),
        "dbtVersion": run["dbt_version"],
        "projectName": project.get("name", ""),
        "projectId": str(run["project_id"]),
        "runStatus": _STATUS_WORDS[run["status"]],
        "runStatusCode": run["status"],
        "runStatusMessage": run["status_message"] or "None",
        "runReason": trigger.get("cause", ""),
        "runStartedAt": _zulu(run["started_at"]),
    }
    if event_type == "job.run.errored":
        data["runErroredAt"] = _zulu(run["finished_at"])
    elif event_type == "job.run.completed":
        data["runFinishedAt"] = _zulu(run["finished_at"])
    return {
        "accountId": run["account_id"],
        "webhookId": subscription["key"],
        "eventId": key,
        "timestamp": moment.strftime("%Y-%m-%dT%H:%M:%S.%f000Z"),
        "eventType": event_type,
        "webhookName": subscription["name"],
        "data": data,
    }


def _zulu(text: str | None) -> str | None:
    return None if text is None else from_text(text).strftime("%Y-%m-%dT%H:%M:%SZ")


def signature(secret: str, body: bytes) -> str:
    """The ``Authorization`` of a delivery: the bare hex HMAC-SHA256 of the body."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


class Courier:
    """Delivers what is due, in a thread of its own, until ``stop``."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._stopping = False
        self._connection: http.client.HTTPConnection | None = None
        self._thread = threading.Thread(target=self._loop, name="sandbox-webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """What was not delivered stays in the store."""
        with self._catalog.changed:
            self._stopping = True
            self._catalog.changed.notify_all()
            connection = self._connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(2)
        if self._thread.is_alive():
            self._thread.join()

    def _loop(self) -> None:
        catalog = self._catalog
        while True:
            with catalog.changed:
                if self._stopping:
                    return
                pending = catalog.store.select("events", {"progress": _PENDING})
                now = catalog.now()
                due = [event for event in pending if event["due_at"] <= now]
                if catalog.behaviour.webhook_reversed:
                    due.reverse()
                if not due:
                    # Time may pass without anybody changing anything.
                    catalog.changed.wait(_LOOK_SECONDS if pending else None)
            for event in due:
                if not self._stopping:
                    self._deliver(event)

    def _deliver(self, event: Doc) -> None:
        catalog = self._catalog
        subscription = catalog.store.get("subscriptions", event["subscription_id"])
        if subscription is None or subscription["state"] != 1 or not subscription["active"]:
            self._note(event, progress=_FAILED)
            return
        body = str(event["payload"]).encode()
        copies = max(1, catalog.behaviour.webhook_copies)
        answers = [self.send(subscription, body) for _ in range(copies)]
        if self._stopping:
            return
        status, error = answers[-1]
        taken = 200 <= status < 300
        tries = event["tries"] + 1
        delay = timedelta(seconds=catalog.behaviour.webhook_retry_seconds)
        self._note(
            event,
            progress=_DELIVERED if taken else _FAILED if tries >= _TRIES else _PENDING,
            tries=tries,
            http_status_code=str(status),
            due_at=to_text(catalog.clock.now() + delay),
        )
        with catalog.changed, catalog.store.transaction():
            catalog.store.insert(
                "receipts",
                {
                    "event_id": event["id"],
                    "dispatched_at": catalog.now(),
                    "http_status_code": str(status),
                    "error_info": error,
                    "request_body": event["payload"],
                },
            )
            changes: Doc = {"dispatched_at": catalog.now(), "http_status_code": str(status)}
            if taken:
                changes["failures"] = 0
            elif tries >= _TRIES:
                changes["failures"] = subscription["failures"] + 1
                if changes["failures"] >= _FAILURES_ALLOWED:
                    changes |= {"active": False, "deactivate_reason": "Too many failed deliveries."}
            catalog.store.update("subscriptions", subscription["id"], **changes)

    def _note(self, event: Doc, **changes: Any) -> None:
        with self._catalog.changed:
            self._catalog.store.update("events", event["id"], **changes)
            self._catalog.changed.notify_all()

    def send(self, subscription: Doc, body: bytes) -> tuple[int, str]:
        """POST once. Returns the status (0: no answer) and what went wrong."""
        forged = self._catalog.behaviour.webhook_forged_secret
        secret = subscription["hmac_secret"] if forged is None else forged
        url = urlsplit(subscription["client_url"])
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        connection = kind(url.hostname or "", url.port, timeout=_ANSWER_SECONDS)
        with self._catalog.changed:
            self._connection = connection
        try:
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
            headers = {
                "Content-Type": "application/json",
                "Authorization": signature(secret, body),
            }
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status, ""
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error) or type(error).__name__
        finally:
            connection.close()
            with self._catalog.changed:
                self._connection = None
