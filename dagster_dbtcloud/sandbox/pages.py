"""Short pages for people: where the links lead that a client shows."""

from __future__ import annotations

from starlette.responses import HTMLResponse

from dagster_dbtcloud.sandbox.routing import Call


def page(call: Call) -> HTMLResponse:
    return HTMLResponse(f"<h1>dbt Cloud sandbox</h1><p>{len(call.ids)}</p>")
