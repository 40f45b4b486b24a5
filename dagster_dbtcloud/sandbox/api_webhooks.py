"""API v3: webhook subscriptions, their events, and the receipts of deliveries.

None of these paths ends in a slash, and the ``status`` of an answer is a code alone.
"""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import JSONResponse

from dagster_dbtcloud.sandbox import webhooks, wire
from dagster_dbtcloud.sandbox.routing import Answer, Call, Endpoint
from dagster_dbtcloud.sandbox.store import Doc
from dagster_dbtcloud.sandbox.webhooks import Courier
from dagster_dbtcloud.sandbox.wire import from_text, not_found

_PAGE = 10


def _subscription(call: Call) -> Doc:
    found = call.cloud.store.select(
        "subscriptions",
        {"key": call.ids["subscription"], "account_id": call.token.account_id, "state": 1},
    )
    if not found:
        raise not_found()
    return found[0]


def _event(call: Call) -> Doc:
    key, owner = call.ids["event"], _subscription(call)
    found = call.cloud.store.select("events", {"key": key, "subscription_id": owner["id"]})
    if not found:
        raise not_found()
    return found[0]


def _answer(data: Any, code: int = 200, **extra: Any) -> JSONResponse:
    return JSONResponse({"data": data, "status": {"code": code}, **extra}, code)


def _micros(text: str | None) -> str | None:
    return None if text is None else str(round(from_text(text).timestamp() * 1_000_000))


def _show(call: Call, doc: Doc, *, secret: bool = False) -> Doc:
    account = call.cloud.store.get("accounts", doc["account_id"]) or {}
    names = (
        "name", "description", "event_types", "job_ids", "client_url", "active",
        "deactivate_reason", "http_status_code",
    )  # fmt: skip
    shown = {
        "id": doc["key"],
        "account_identifier": account.get("identifier"),
        **{name: doc[name] for name in names},
        **{name: _micros(doc[name]) for name in ("created_at", "updated_at", "dispatched_at")},
    }
    return {**shown, "hmac_secret": doc["hmac_secret"]} if secret else shown


def _show_event(call: Call, doc: Doc, owner: Doc) -> Doc:
    account = call.cloud.store.get("accounts", doc["account_id"]) or {}
    return {
        "id": doc["key"],
        "subscription_id": owner["key"],
        "account_identifier": account.get("identifier"),
        "account_id": str(doc["account_id"]),
        "job_id": str(doc["job_id"]),
        "trigger_event_type": doc["event_type"],
        "payload": doc["payload"],
        "http_status_code": doc["http_status_code"],
    }


def list_subscriptions(call: Call) -> JSONResponse:
    limit = min(wire.whole_number("limit", call.query.get("limit") or _PAGE), wire.MAX_PAGE)
    offset = max(wire.whole_number("offset", call.query.get("offset") or 0), 0)
    where = {"account_id": call.token.account_id, "state": 1}
    store = call.cloud.store
    rows = store.select("subscriptions", where, limit=max(limit, 1), offset=offset)
    pagination = {"count": len(rows), "total_count": store.count("subscriptions", where)}
    return _answer(
        [_show(call, row) for row in rows],
        extra={"filters": {"limit": limit, "offset": offset}, "pagination": pagination},
    )


def create_subscription(call: Call) -> JSONResponse:
    doc = webhooks.subscribe(call.cloud, call.token.account_id, call.fields)
    return _answer(_show(call, doc, secret=True), 201)


def get_subscription(call: Call) -> JSONResponse:
    return _answer(_show(call, _subscription(call)))


def update_subscription(call: Call) -> JSONResponse:
    return _answer(_show(call, webhooks.change(call.cloud, _subscription(call), call.fields)))


def delete_subscription(call: Call) -> JSONResponse:
    doc = _subscription(call)
    with call.cloud.changed:
        call.cloud.store.update("subscriptions", doc["id"], state=2)
    return _answer(_show(call, doc))


def test_subscription(call: Call) -> Answer | JSONResponse:
    """Deliver something now and tell how it went, in the words of docs: deploy/webhooks."""
    doc = _subscription(call)
    body = json.dumps({"accountId": doc["account_id"], "webhookId": doc["key"], "test": True})
    status, error = Courier(call.cloud).send(doc, body.encode())
    taken = 200 <= status < 300
    return _answer(
        {
            "verification_error": None if taken else error or f"HTTP {status}",
            "verification_status_code": str(status),
        }
    )


def list_events(call: Call) -> JSONResponse:
    owner = _subscription(call)
    rows = call.cloud.store.select("events", {"subscription_id": owner["id"]})
    return _answer([_show_event(call, row, owner) for row in rows])


def get_receipt(call: Call) -> JSONResponse:
    """The newest delivery of an event."""
    event = _event(call)
    rows = call.cloud.store.select("receipts", {"event_id": event["id"]}, order_by="-id", limit=1)
    if not rows:
        raise not_found()
    doc = rows[0]
    names = ("http_status_code", "error_info", "request_body")
    return _answer(
        {
            "id": str(doc["id"]),
            "event_id": event["key"],
            "subscription_id": call.ids["subscription"],
            "dispatched_at": _micros(doc["dispatched_at"]),
            **{name: doc[name] for name in names},
            "request_headers": "",
            "response_body": "",
        }
    )


_W = "/api/v3/accounts/{account}/webhooks/"
_S = _W + "subscription/{subscription:word}"
ENDPOINTS = (
    Endpoint("GET", _W + "subscriptions", list_subscriptions, "webhooks"),
    Endpoint("POST", _W + "subscriptions", create_subscription, "webhooks"),
    Endpoint("GET", _S, get_subscription, "webhooks"),
    Endpoint("PUT", _S, update_subscription, "webhooks"),
    Endpoint("DELETE", _S, delete_subscription, "webhooks"),
    Endpoint("GET", _S + "/test", test_subscription, "webhooks"),
    Endpoint("GET", _S + "/events", list_events, "webhooks"),
    Endpoint("GET", _S + "/event/{event:word}/receipt", get_receipt, "webhooks"),
)
