"""Environment variables of dbt Cloud: who sets them, which one counts, how they are listed.

Values of ``DBT_ENV_SECRET_`` names reach dbt but are never shown (docs:
build/environment-variables).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster_dbtcloud.sandbox.catalog import Catalog
from dagster_dbtcloud.sandbox.store import Doc
from dagster_dbtcloud.sandbox.wire import Refusal, mapping, not_found, whole_number

HIDDEN = "**********"
#: From the weakest to the strongest.
TYPES = ("project", "environment", "job")


def effective(catalog: Catalog, run: Mapping[str, Any]) -> dict[str, str]:
    """What dbt gets in a run: job over environment over project."""
    return {
        name: by_type[max(by_type, key=TYPES.index)]["raw_value"]
        for name, by_type in _that_apply(
            catalog, run["project_id"], run["environment_id"], run["job_definition_id"]
        ).items()
    }


def shown_value(doc: Mapping[str, Any]) -> str:
    return HIDDEN if doc["name"].startswith("DBT_ENV_SECRET_") else str(doc["raw_value"])


def for_job(catalog: Catalog, job: Mapping[str, Any]) -> Doc:
    """``{NAME: {project?, environment?, job?: {id, value}}}``."""
    found = _that_apply(catalog, job["project_id"], job["environment_id"], job["id"])
    return {
        name: {kind: {"id": doc["id"], "value": shown_value(doc)} for kind, doc in docs.items()}
        for name, docs in found.items()
    }


def by_environment(catalog: Catalog, project_id: int) -> Doc:
    """The project's values and those of each environment, by the environment's name."""
    environments = {
        doc["id"]: doc["name"]
        for doc in catalog.store.select("environments", {"project_id": project_id, "state": 1})
    }
    variables: Doc = {}
    for doc in catalog.store.select("variables", {"project_id": project_id}):
        place = {
            "project": "project",
            "environment": environments.get(doc["environment_id"]),
        }.get(doc["type"])
        if place is not None:
            value = {"id": doc["id"], "value": shown_value(doc)}
            variables.setdefault(doc["name"], {})[place] = value
    return {"environments": ["project", *environments.values()], "variables": variables}


def create(catalog: Catalog, project: Mapping[str, Any], body: Mapping[str, Any]) -> Doc:
    """Set one value; it takes the place of an earlier one of the same name and scope.

    Raises: Refusal 400 for a malformed name, type or missing id, 404 for an unknown one.
    """
    name, kind = body.get("name"), body.get("type")
    if not isinstance(name, str) or not name.startswith("DBT_"):
        raise Refusal(400, "name: must start with DBT_.", {"name": ["Invalid."]})
    if kind not in TYPES:
        raise Refusal(400, f"type: one of {', '.join(TYPES)}.", {"type": ["Invalid."]})
    scope: Doc = {
        "project_id": project["id"],
        "name": name,
        "environment_id": None,
        "job_definition_id": None,
    }
    for field, table, meant in (
        ("environment_id", "environments", "environment"),
        ("job_definition_id", "jobs", "job"),
    ):
        if kind == meant:
            scope[field] = whole_number(field, body.get(field))
            catalog.find(table, scope[field], project_id=project["id"])
    with catalog.changed, catalog.store.transaction():
        for doc in catalog.store.select("variables", scope):
            catalog.store.delete("variables", doc["id"])
        now = catalog.now()
        return catalog.store.insert(
            "variables",
            {
                **scope,
                "account_id": project["account_id"],
                "type": kind,
                "user_id": None,
                "raw_value": str(body.get("raw_value") or ""),
                "state": 1,
                "created_at": now,
                "updated_at": now,
            },
        )


def update(catalog: Catalog, project_id: int, variable_id: int, body: Mapping[str, Any]) -> Doc:
    """Change a value. Raises: Refusal 404."""
    doc = catalog.find("variables", variable_id, project_id=project_id)
    value = str(body.get("raw_value", doc["raw_value"]))
    return catalog.store.update("variables", doc["id"], raw_value=value, updated_at=catalog.now())


def create_many(catalog: Catalog, project: Mapping[str, Any], body: Mapping[str, Any]) -> None:
    """``{"env_var": [{"new_name": "DBT_X", "project": "a", "Production": "b"}]}``.

    Raises: Refusal 400, then nothing is set.
    """
    given = body.get("env_var") or []
    rows = given if isinstance(given, list) else [given]
    environments = {
        doc["name"]: doc["id"]
        for doc in catalog.store.select("environments", {"project_id": project["id"], "state": 1})
    }
    with catalog.store.transaction():
        for one in rows:
            row = mapping("env_var", one)
            values = {key: value for key, value in row.items() if key != "new_name"}
            for place, value in values.items():
                if place != "project" and place not in environments:
                    raise Refusal(400, f"{place}: no environment of that name.", {place: [""]})
                create(
                    catalog,
                    project,
                    {
                        "name": row.get("new_name"),
                        "type": "project" if place == "project" else "environment",
                        "environment_id": environments.get(place),
                        "raw_value": value,
                    },
                )


def rename(catalog: Catalog, project_id: int, name: str, new_name: str) -> None:
    """Raises: Refusal 404 if there is none of that name, 400 for a malformed new one."""
    docs = catalog.store.select("variables", {"project_id": project_id, "name": name})
    if not docs:
        raise not_found()
    if not new_name.startswith("DBT_"):
        raise Refusal(400, "new_name: must start with DBT_.", {"new_name": ["Invalid."]})
    with catalog.store.transaction():
        for doc in docs:
            catalog.store.update("variables", doc["id"], name=new_name)


def delete_named(catalog: Catalog, project_id: int, name: str) -> None:
    """Raises: Refusal 404."""
    docs = catalog.store.select("variables", {"project_id": project_id, "name": name})
    if not docs:
        raise not_found()
    with catalog.store.transaction():
        for doc in docs:
            catalog.store.delete("variables", doc["id"])


def _that_apply(
    catalog: Catalog, project_id: int, environment_id: int, job_id: int | None
) -> dict[str, dict[str, Doc]]:
    found: dict[str, dict[str, Doc]] = {}
    for doc in catalog.store.select("variables", {"project_id": project_id}):
        applies = {
            "project": True,
            "environment": doc["environment_id"] == environment_id,
            "job": doc["job_definition_id"] == job_id,
        }
        if applies.get(doc["type"]):
            found.setdefault(doc["name"], {})[doc["type"]] = doc
    return found
