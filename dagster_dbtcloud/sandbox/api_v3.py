"""API v3: accounts, projects, environments, environment variables, and who the token is.

What v2 shows in the same way is taken from there.
"""

from __future__ import annotations

from dagster_dbtcloud.sandbox import api_v2, shapes, variables
from dagster_dbtcloud.sandbox.api_v2 import environment_of, job_of, project_of
from dagster_dbtcloud.sandbox.routing import Answer, Call, Endpoint
from dagster_dbtcloud.sandbox.wire import Refusal, mapping, not_found


def whoami(call: Call) -> Answer:
    """Who the token is. Not in the specification; its shape is a guess."""
    token = call.token
    return Answer({"user": {"id": token.id, "email": None, "name": token.name}})


# -- projects and environments -----------------------------------------------------------------


def create_project(call: Call) -> Answer:
    name = _name(call)
    doc = call.cloud.create_project(call.token.account_id, name)
    return Answer(shapes.project(call.cloud, doc), call.cloud.behaviour.created_status)


def delete_project(call: Call) -> Answer:
    doc = call.cloud.delete("projects", project_of(call))
    return Answer(shapes.project(call.cloud, doc), call.cloud.behaviour.deleted_status)


def create_environment(call: Call) -> Answer:
    project = project_of(call)
    fields = {key: value for key, value in call.fields.items() if key not in ("name", "id")}
    doc = call.cloud.create_environment(project["account_id"], project["id"], _name(call), **fields)
    return Answer(shapes.environment(call.cloud, doc), call.cloud.behaviour.created_status)


def update_environment(call: Call) -> Answer:
    doc = call.cloud.update_environment(environment_of(call), call.fields)
    return Answer(shapes.environment(call.cloud, doc))


def delete_environment(call: Call) -> Answer:
    doc = call.cloud.delete("environments", environment_of(call))
    return Answer(shapes.environment(call.cloud, doc), call.cloud.behaviour.deleted_status)


def _name(call: Call) -> str:
    name = call.fields.get("name")
    if not isinstance(name, str) or not name:
        raise Refusal(400, "Missing: name.", {"name": ["This field is required."]})
    return name


# -- environment variables ---------------------------------------------------------------------


def list_variables(call: Call) -> Answer:
    return Answer(variables.by_environment(call.cloud, project_of(call)["id"]))


def list_job_variables(call: Call) -> Answer:
    project = project_of(call)
    call.ids = {**call.ids, "job": call.query.get("job_definition_id") or "0"}
    job = job_of(call)
    if job["project_id"] != project["id"]:
        raise not_found()
    return Answer(variables.for_job(call.cloud, job))


def list_user_variables(call: Call) -> Answer:
    """Nobody develops in the sandbox: nobody has values of their own."""
    project_of(call)
    return Answer({})


def create_variable(call: Call) -> Answer:
    doc = variables.create(call.cloud, project_of(call), call.fields)
    return Answer(shapes.variable(doc), call.cloud.behaviour.created_status)


def update_variable(call: Call) -> Answer:
    doc = variables.update(call.cloud, project_of(call)["id"], call.id("variable"), call.fields)
    return Answer(shapes.variable(doc))


def delete_variable(call: Call) -> Answer:
    doc = call.cloud.find("variables", call.id("variable"), project_id=project_of(call)["id"])
    call.cloud.store.delete("variables", doc["id"])
    return Answer(shapes.variable(doc), call.cloud.behaviour.deleted_status)


def create_variables(call: Call) -> Answer:
    project = project_of(call)
    variables.create_many(call.cloud, project, call.fields)
    data = variables.by_environment(call.cloud, project["id"])
    return Answer(data, call.cloud.behaviour.created_status)


def rename_variable(call: Call) -> Answer:
    project, names = project_of(call), mapping("env_vars", call.fields.get("env_vars"))
    variables.rename(call.cloud, project["id"], str(names.get("name")), str(names.get("new_name")))
    return Answer(variables.by_environment(call.cloud, project["id"]))


def delete_variables(call: Call) -> Answer:
    project = project_of(call)
    variables.delete_named(call.cloud, project["id"], str(call.fields.get("name")))
    data = variables.by_environment(call.cloud, project["id"])
    return Answer(data, call.cloud.behaviour.deleted_status)


_A = "/api/v3/accounts/{account}/"
_P = _A + "projects/{project}/"
_E = _P + "environments/"
_V = _P + "environment-variables/"
ENDPOINTS = (
    Endpoint("GET", "/api/v2/whoami/", whoami),
    Endpoint("GET", "/api/v3/accounts/", api_v2.list_accounts),
    Endpoint("GET", _A, api_v2.get_account),
    Endpoint("GET", _A + "projects/", api_v2.list_projects),
    Endpoint("POST", _A + "projects/", create_project, "settings"),
    Endpoint("GET", _P, api_v2.get_project),
    Endpoint("DELETE", _P, delete_project, "settings"),
    Endpoint("GET", _A + "environments/", api_v2.list_environments),
    Endpoint("GET", _A + "environments/{environment}/", api_v2.get_environment),
    Endpoint("GET", _E, api_v2.list_environments),
    Endpoint("POST", _E, create_environment, "settings"),
    Endpoint("GET", _E + "{environment}/", api_v2.get_environment),
    Endpoint("POST", _E + "{environment}/", update_environment, "settings"),
    Endpoint("DELETE", _E + "{environment}/", delete_environment, "settings"),
    Endpoint("POST", _V, create_variable, "settings"),
    Endpoint("GET", _V + "environment/", list_variables),
    Endpoint("GET", _V + "job/", list_job_variables),
    Endpoint("GET", _V + "user/", list_user_variables),
    Endpoint("POST", _V + "bulk/", create_variables, "settings"),
    Endpoint("PUT", _V + "bulk/", rename_variable, "settings"),
    Endpoint("DELETE", _V + "bulk/", delete_variables, "settings"),
    Endpoint("POST", _V + "{variable}/", update_variable, "settings"),
    Endpoint("DELETE", _V + "{variable}/", delete_variable, "settings"),
)
