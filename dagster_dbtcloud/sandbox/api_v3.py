"""API v3: accounts, projects, environments, environment variables, and who the token is."""

from __future__ import annotations

from dagster_dbtcloud.sandbox import api_v2
from dagster_dbtcloud.sandbox.routing import Answer, Call, Endpoint

_A = "/api/v3/accounts/{account}/"
_P = _A + "projects/{project}/"


def whoami(call: Call) -> Answer:
    token = call.token
    return Answer({"user": {"id": token.id, "email": None, "name": token.name}})


ENDPOINTS = (
    Endpoint("GET", "/api/v2/whoami/", whoami),
    Endpoint("GET", "/api/v3/accounts/", api_v2.list_accounts),
    Endpoint("GET", _A, api_v2.get_account),
    Endpoint("GET", _A + "projects/", api_v2.list_projects),
    Endpoint("GET", _P, api_v2.get_project),
    Endpoint("GET", _A + "environments/", api_v2.list_environments),
    Endpoint("GET", _A + "environments/{environment}/", api_v2.get_environment),
    Endpoint("GET", _P + "environments/", api_v2.list_environments),
    Endpoint("GET", _P + "environments/{environment}/", api_v2.get_environment),
)
