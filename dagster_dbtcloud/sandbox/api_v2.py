"""API v2: accounts, jobs, runs, steps, artifacts (and the projects and environments of old).

Each handler reads a call, asks ``state.py``, and shows; rules of dbt Cloud live there.
"""

from __future__ import annotations

from collections.abc import Sequence
from mimetypes import guess_type
from pathlib import Path
from typing import Any

from starlette.responses import Response

from dagster_dbtcloud.sandbox import shapes, wire
from dagster_dbtcloud.sandbox.faults import first
from dagster_dbtcloud.sandbox.routing import Answer, Call, Endpoint
from dagster_dbtcloud.sandbox.state import SUCCESS
from dagster_dbtcloud.sandbox.store import Doc
from dagster_dbtcloud.sandbox.wire import Refusal, not_found

_ORDER = ("id", "name", "created_at")
_STATES = {"active": [1], "1": [1], "deleted": [2], "2": [2], "all": [1, 2]}


# -- what the token may see --------------------------------------------------------------------


def project_of(call: Call) -> Doc:
    doc = call.cloud.find("projects", call.id("project"), account_id=call.token.account_id)
    if not call.token.sees_project(doc["id"]):
        raise not_found()
    return doc


def environment_of(call: Call) -> Doc:
    doc = call.cloud.find("environments", call.id("environment"), account_id=call.token.account_id)
    if not call.token.sees_project(doc["project_id"]):
        raise not_found()
    if "project" in call.ids and doc["project_id"] != call.id("project"):
        raise not_found()
    return doc


def job_of(call: Call) -> Doc:
    doc = call.cloud.find("jobs", call.id("job"), account_id=call.token.account_id)
    if not call.token.sees_project(doc["project_id"]):
        raise not_found()
    return doc


def run_of(call: Call) -> Doc:
    doc = call.cloud.find("runs", call.id("run"), account_id=call.token.account_id)
    if not call.token.sees_project(doc["project_id"]):
        raise not_found()
    return doc


def visible(call: Call) -> Doc:
    """The account and projects of the token, as a filter of any list."""
    where: Doc = {"account_id": call.token.account_id}
    if call.token.project_ids is not None:
        where["project_id"] = list(call.token.project_ids)
    return where


def merged(base: Doc, asked: Doc) -> Doc:
    """Both filters; where they name the same field, what both allow."""
    both = dict(base)
    for field, value in asked.items():
        if field in both:
            allowed = both[field] if isinstance(both[field], list) else [both[field]]
            wanted = value if isinstance(value, list) else [value]
            value = [one for one in wanted if one in allowed]
        both[field] = value
    return both


def states(call: Call, default: str = "active") -> list[int]:
    return _STATES.get(call.query.get("state") or default, [1])


# -- accounts, projects, environments ----------------------------------------------------------


def list_accounts(call: Call) -> Answer:
    call.refuse_beyond(())  # the specification knows no parameter of it
    return call.page("accounts", {"id": call.token.account_id, "state": 1}, shapes.account)


def get_account(call: Call) -> Answer:
    return Answer(shapes.account(call.cloud.find("accounts", call.token.account_id)))


def list_projects(call: Call) -> Answer:
    where: Doc = {"account_id": call.token.account_id, "state": states(call)}
    if call.token.project_ids is not None:
        where["id"] = list(call.token.project_ids)
    return call.page(
        "projects",
        merged(where, call.filters({"pk": "id"})),
        lambda doc: shapes.project(call.cloud, doc),
        also=_names(call),
        order_fields=_ORDER,
        echo={"state": "active", "account_id": call.token.account_id},
    )


def get_project(call: Call) -> Answer:
    return Answer(shapes.project(call.cloud, project_of(call)))


def list_environments(call: Call) -> Answer:
    where = merged(
        {**visible(call), "state": states(call)},
        call.filters({"project_id": "project_id", "pk": "id"}),
    )
    if "project" in call.ids:
        where = merged(where, {"project_id": project_of(call)["id"]})
    for name in ("type", "deployment_type", "name"):
        if call.query.get(name):
            where[name] = call.query[name]
    if call.query.get("deployment_type__in"):
        where["deployment_type"] = wire.listed(call.query.getlist("deployment_type__in"))
    return call.page(
        "environments",
        where,
        lambda doc: shapes.environment(call.cloud, doc, call.include()),
        also=[*_names(call), *_above(call)],
        order_fields=_ORDER,
        echo={"state": "active", "account_id": call.token.account_id},
    )


def get_environment(call: Call) -> Answer:
    return Answer(shapes.environment(call.cloud, environment_of(call), call.include()))


def _names(call: Call) -> list[tuple[str, list[str]]]:
    word = call.query.get("name__icontains")
    return [("instr(lower(name), lower(?)) > 0", [word])] if word else []


def _above(call: Call) -> list[tuple[str, list[int]]]:
    word = call.query.get("id__gt") or call.query.get("pk__gt")
    return [("id > ?", [wire.whole_number("id__gt", word)])] if word else []


# -- jobs --------------------------------------------------------------------------------------


def list_jobs(call: Call) -> Answer:
    asked = call.filters(
        {"project_id": "project_id", "environment_id": "environment_id", "pk": "id"}
    )
    also: list[tuple[str, list[int]]] = []
    if call.query.get("triggers_schedule"):
        wanted = wire.truth(call.query["triggers_schedule"])
        also.append(("json_extract(doc, '$.triggers.schedule') = ?", [int(wanted)]))
    return call.page(
        "jobs",
        merged({**visible(call), "state": states(call)}, asked),
        lambda doc: shapes.job(call.cloud, doc, call.include(), site=call.site),
        also=[*_names(call), *also],
        order_fields=_ORDER,
        echo={"state": "active", "account_id": call.token.account_id, **asked},
    )


def create_job(call: Call) -> Answer:
    body = call.fields
    if not call.token.sees_project(
        wire.whole_number("project_id", body.get("project_id") or 0) or None
    ):
        raise not_found()
    doc = call.cloud.create_job(call.token.account_id, body)
    return Answer(shapes.job(call.cloud, doc), call.cloud.behaviour.created_status)


def get_job(call: Call) -> Answer:
    return Answer(shapes.job(call.cloud, job_of(call), call.include(), site=call.site))


def update_job(call: Call) -> Answer:
    job = job_of(call)
    if str(call.fields.get("id")) != str(job["id"]):
        raise Refusal(400, wire.INVALID, {"id": "The provided id does not match."})
    return Answer(shapes.job(call.cloud, call.cloud.update_job(job, call.fields)))


def delete_job(call: Call) -> Answer:
    doc = call.cloud.delete_job(job_of(call))
    return Answer(shapes.job(call.cloud, doc), call.cloud.behaviour.deleted_status)


def run_job(call: Call) -> Answer:
    doc = call.cloud.trigger(job_of(call), call.fields, actor=call.token.actor)
    return _started(call, doc)


def rerun_job(call: Call) -> Answer:
    return _started(call, call.cloud.rerun(job_of(call), actor=call.token.actor))


def _started(call: Call, doc: Doc) -> Answer:
    shown = shapes.run(call.cloud, doc, ("trigger", "job"), site=call.site)
    return Answer(shown, call.cloud.behaviour.created_status)


def get_job_artifact(call: Call) -> Answer | Response:
    """The file of the newest successful run that has it."""
    job = job_of(call)
    finished = {"job_definition_id": job["id"], "status": SUCCESS}
    for run in call.cloud.store.select("runs", finished, order_by="-id", limit=wire.MAX_PAGE):
        target = _target(call, run, None)
        if target is not None and shapes.artifact_file(target, call.ids["path"]):
            return _file(call, run, None)
    raise not_found()


# -- runs --------------------------------------------------------------------------------------


# What the specification lists (dbt Cloud API v2, List Runs); anything else was seen to be refused.
_RUN_FILTERS = frozenset(
    {"job_definition_id", "project_id", "project_id__in", "environment_id", "deferring_run_id"}
    | {"pk", "pk__in", "id__gt", "has_docs_generated", "has_sources_generated", "status"}
    | {"status__in", "state", "created_at__range", "finished_at__range", "dbt_version"}
    | {"dbt_version__in", "include_related", "limit", "offset", "order_by"}
)


def list_runs(call: Call) -> Answer:
    call.refuse_beyond(_RUN_FILTERS)
    asked = call.filters(
        {
            "job_definition_id": "job_definition_id",
            "project_id": "project_id",
            "environment_id": "environment_id",
            "status": "status",
            "pk": "id",
        }
    )
    also: list[tuple[str, Sequence[Any]]] = [
        ("(listed_at IS NULL OR listed_at <= ?)", [call.cloud.now()])
    ]
    late = first(call.late, "late_list")
    if late is not None:
        also.append(("coalesce(finished_at, created_at) < ?", [late.added_at]))
    for name in ("has_docs_generated", "has_sources_generated"):
        if call.query.get(name):
            value = int(wire.truth(call.query[name]))
            also.append((f"json_extract(doc, '$.{name}') = ?", [value]))
    # Steps are not among the relations of the list (dbt Cloud API v2, List Runs).
    include = [one for one in call.include() if one in ("trigger", "job", "audit")]
    return call.page(
        "runs",
        merged(visible(call), asked),
        lambda doc: shapes.run(call.cloud, doc, include, site=call.site),
        also=[*also, *_above(call), *call.ranges(("created_at", "finished_at"))],
        order_fields=("id", "created_at", "finished_at"),
        echo={"state": "all", "account_id": call.token.account_id, **asked},
    )


def get_run(call: Call) -> Answer:
    quiet = first(call.late, "late_logs") is not None
    doc = run_of(call)
    return Answer(shapes.run(call.cloud, doc, call.include(), site=call.site, quiet=quiet))


def cancel_run(call: Call) -> Answer:
    """The status in the answer need not be the last one: dbt dies a moment later."""
    doc = call.cloud.cancel(run_of(call)["id"], actor=call.token.actor)
    return Answer(shapes.run(call.cloud, doc, call.include(), site=call.site))


def get_retry(call: Call) -> Answer:
    failed, skipped = call.cloud.failure_of(run_of(call))
    return Answer(
        {
            "failed_step": failed["command"] or failed["name"] if failed else None,
            "skipped_steps": [step["command"] for step in skipped],
        }
    )


def retry_run(call: Call) -> Answer:
    return _started(call, call.cloud.retry(run_of(call), actor=call.token.actor))


def list_artifacts(call: Call) -> Answer:
    target = _target(call, run_of(call), _step(call))
    return Answer(shapes.artifact_paths(target) or None if target else None)


def get_artifact(call: Call) -> Response:
    return _file(call, run_of(call), _step(call))


def _step(call: Call) -> int | None:
    word = call.query.get("step")
    return wire.whole_number("step", word) if word else None


def _target(call: Call, run: Doc, index: int | None) -> Path | None:
    if first(call.late, "late_artifacts") is not None:
        return None
    return shapes.step_artifacts(call.cloud, run, index)


def _file(call: Call, run: Doc, index: int | None) -> Response:
    target = _target(call, run, index)
    file = shapes.artifact_file(target, call.ids["path"]) if target else None
    if file is None:
        raise not_found()
    kind = guess_type(file.name)[0] or "application/octet-stream"
    return Response(file.read_bytes(), media_type=kind)


def get_step(call: Call) -> Answer:
    doc = call.cloud.find("steps", call.id("step"), account_id=call.token.account_id)
    run = call.cloud.find("runs", doc["run_id"])
    if not call.token.sees_project(run["project_id"]):
        raise not_found()
    include = call.include()
    quiet = first(call.late, "late_logs") is not None
    shown = shapes.step(call.cloud, doc, include, quiet=quiet)
    if "trigger" in include:
        shown["trigger"] = shapes.trigger(call.cloud, run)
    return Answer(shown)


_A = "/api/v2/accounts/{account}/"
ENDPOINTS = (
    Endpoint("GET", "/api/v2/accounts/", list_accounts),
    Endpoint("GET", _A, get_account),
    Endpoint("GET", _A + "projects/", list_projects),
    Endpoint("GET", _A + "projects/{project}/", get_project),
    Endpoint("GET", _A + "environments/", list_environments),
    Endpoint("GET", _A + "environments/{environment}/", get_environment),
    Endpoint("GET", _A + "jobs/", list_jobs),
    Endpoint("POST", _A + "jobs/", create_job, "jobs"),
    Endpoint("GET", _A + "jobs/{job}/", get_job),
    Endpoint("POST", _A + "jobs/{job}/", update_job, "jobs"),
    Endpoint("DELETE", _A + "jobs/{job}/", delete_job, "jobs"),
    Endpoint("POST", _A + "jobs/{job}/run/", run_job, "run"),
    Endpoint("POST", _A + "jobs/{job}/rerun/", rerun_job, "run"),
    Endpoint("GET", _A + "jobs/{job}/artifacts/{path:path}", get_job_artifact),
    Endpoint("GET", _A + "runs/", list_runs),
    Endpoint("GET", _A + "runs/{run}/", get_run),
    Endpoint("POST", _A + "runs/{run}/cancel/", cancel_run, "run"),
    Endpoint("GET", _A + "runs/{run}/retry/", get_retry),
    Endpoint("POST", _A + "runs/{run}/retry/", retry_run, "run"),
    Endpoint("GET", _A + "runs/{run}/artifacts/", list_artifacts),
    Endpoint("GET", _A + "runs/{run}/artifacts/{path:path}", get_artifact),
    Endpoint("GET", _A + "steps/{step}/", get_step),
)
