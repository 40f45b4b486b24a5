"""The web application: both APIs, the pages for people, and the control routes.

The control routes change the sandbox, not the account: they need no token, but loopback.
"""

from __future__ import annotations

from ipaddress import ip_address

from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from dagster_dbtcloud.sandbox import api_v2, api_v3, api_webhooks, pages
from dagster_dbtcloud.sandbox.edge import CONTROL
from dagster_dbtcloud.sandbox.faults import Fault, Faults
from dagster_dbtcloud.sandbox.routing import Call, Endpoint, Router
from dagster_dbtcloud.sandbox.state import Cloud
from dagster_dbtcloud.sandbox.wire import Refusal, whole_number


def build(cloud: Cloud, faults: Faults) -> ASGIApp:
    """Put the tables together."""
    return Router(
        cloud,
        [*api_v2.ENDPOINTS, *api_v3.ENDPOINTS, *api_webhooks.ENDPOINTS, *control(faults)],
        pages=pages.page,
    )


def control(faults: Faults) -> list[Endpoint]:
    """``/__sandbox__/faults``: GET lists, POST adds one (or a list), DELETE removes all or one."""

    def listed(call: Call) -> JSONResponse:
        _only_here(call)
        return JSONResponse({"faults": faults.listed()})

    def add(call: Call) -> JSONResponse:
        _only_here(call)
        given = call.body if isinstance(call.body, list) else [call.body]
        try:
            parsed = [Fault.parse(one) for one in given]
        except (TypeError, ValueError) as error:
            raise Refusal(400, str(error)) from None
        return JSONResponse({"numbers": [faults.add(fault) for fault in parsed]}, 201)

    def remove(call: Call) -> JSONResponse:
        _only_here(call)
        if call.query.get("number"):
            faults.remove(whole_number("number", call.query["number"]))
        else:
            faults.clear()
        return listed(call)

    path = f"{CONTROL}faults/"
    return [
        Endpoint("GET", path, listed, None),
        Endpoint("POST", path, add, None),
        Endpoint("DELETE", path, remove, None),
    ]


def _only_here(call: Call) -> None:
    """Raises: Refusal 403 for a client on another machine."""
    if not ip_address(call.client).is_loopback:
        raise Refusal(403, "The control routes answer on loopback only.")
