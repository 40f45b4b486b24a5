"""What an account holds besides runs: projects, environments, jobs, environment variables.

It validates what clients send and fills in what they leave out; it knows no HTTP and no run.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster_dbtcloud.clock import Clock
from dagster_dbtcloud.sandbox.behaviour import Behaviour
from dagster_dbtcloud.sandbox.schedule import cron_of
from dagster_dbtcloud.sandbox.store import Doc, Store
from dagster_dbtcloud.sandbox.wire import (
    INVALID,
    Refusal,
    mapping,
    not_found,
    to_text,
    unexpected,
    whole_number,
)

DEFAULT_VERSION = "latest"
# What a job holds besides its ids and name (dbt Cloud API v2, Job), with what is taken when a
# client leaves it out.
_JOB_DEFAULTS: Mapping[str, Any] = {
    "description": "",
    "dbt_version": None,
    "execute_steps": ["dbt build"],
    "execution": {"timeout_seconds": 0},
    "settings": {"threads": 4, "target_name": "default"},
    "generate_docs": False,
    "run_generate_sources": False,
    "triggers": {
        "github_webhook": False,
        "git_provider_webhook": False,
        "schedule": False,
        "on_merge": False,
    },
    "triggers_on_draft_pr": False,
    "schedule": {
        "cron": "0 * * * *",
        "date": {"type": "every_day"},
        "time": {"type": "every_hour", "interval": 1},
    },
    "job_completion_trigger_condition": None,
    "deferring_environment_id": None,
    "deferring_job_definition_id": None,
    "is_deferrable": False,
    "run_compare_changes": False,
    "compare_changes_flags": "--select state:modified",
    "run_lint": False,
    "errors_on_lint_failure": True,
    "lifecycle_webhooks": False,
    "lifecycle_webhooks_url": None,
    "cost_optimization_features": [],
    "deactivated": False,
    "run_failure_count": 0,
    "is_system": False,
}
# The same for an environment (dbt Cloud API v3, Environment).
_ENVIRONMENT_DEFAULTS: Mapping[str, Any] = {
    "type": "deployment",
    "deployment_type": None,
    "dbt_version": DEFAULT_VERSION,
    "credentials_id": None,
    "connection_id": None,
    "extended_attributes_id": None,
    "primary_profile_id": None,
    "use_custom_branch": False,
    "custom_branch": None,
    "supports_docs": True,
    "is_deferrable": False,
    "enable_model_query_history": False,
    "enable_dbt_state": False,
    "state": 1,
}
# What the specification calls required (dbt Cloud API v2, Job).
_JOB_REQUIRED = (
    "project_id", "environment_id", "name", "execution", "settings", "triggers", "state",
    "generate_docs", "run_generate_sources",
)  # fmt: skip
_TRIGGERS = ("github_webhook", "git_provider_webhook", "schedule", "on_merge")
_JOB_TYPES = ("ci", "scheduled", "other", "merge", "exposure_sync", "adaptive", "hybrid")


class Catalog:
    """The settings of the sandbox's accounts; ``changed`` is notified whenever they change.

    All methods may be called from any thread.
    """

    def __init__(
        self, store: Store, *, clock: Clock, behaviour: Behaviour, state_dir: Path
    ) -> None:
        self.store = store
        self.clock = clock
        self.behaviour = behaviour
        self.state_dir = state_dir
        self.connection_name = "DuckDB"
        self.changed = threading.Condition(store.lock)

    def now(self) -> str:
        return to_text(self.clock.now())

    def step_dir(self, run_id: int, index: int) -> Path:
        """Where logs and artifacts of a step lie: ``console.log``, ``dbt.log``, ``target/``."""
        return self.state_dir / "runs" / str(run_id) / str(index)

    def begin_artifacts(self, run_id: int, index: int) -> None:
        """Begin a step with the artifacts of the one before, if ``Behaviour`` says so."""
        before = self.step_dir(run_id, index - 1) / "target"
        if self.behaviour.shared_target and before.is_dir():
            shutil.copytree(before, self.step_dir(run_id, index) / "target", dirs_exist_ok=True)

    def environment_dir(self, environment_id: int) -> Path:
        """Where checkout, profile and warehouse of an environment lie."""
        return self.state_dir / "environments" / str(environment_id)

    # -- what is there ---------------------------------------------------------------------

    def find(self, kind: str, row_id: int, **belongs: Any) -> Doc:
        """A document that exists, is not deleted and belongs where the caller says.

        Raises: Refusal 404.
        """
        doc = self.store.get(kind, row_id)
        if doc is None or doc.get("state", 1) != 1:
            raise not_found()
        if any(doc.get(field) != value for field, value in belongs.items()):
            raise not_found()
        return doc

    def create_account(self, name: str, **fields: Any) -> Doc:
        account_id = fields.pop("id", None)
        return self._created(
            "accounts",
            {
                "name": name,
                "plan": "enterprise",
                "state": 1,
                "run_slots": 5,
                "queue_limit": 50,
                "run_duration_limit_seconds": 86400,
                "pod_memory_request_mebibytes": 600,
                "locked": False,
                "lock_reason": None,
                "lock_cause": None,
                "unlocked_at": None,
                "run_locked_until": None,
                "developer_seats": 1,
                "read_only_seats": 0,
                "it_seats": 0,
                "identifier": "act_sandbox",
                "static_subdomain": None,
                "vanity_subdomain": None,
                **fields,
            },
            account_id,
        )

    def create_project(self, account_id: int, name: str, **fields: Any) -> Doc:
        project_id = fields.pop("id", None)
        return self._created(
            "projects",
            {
                "account_id": account_id,
                "name": name,
                "description": None,
                "connection_id": None,
                "repository_id": None,
                "semantic_layer_config_id": None,
                "state": 1,
                "dbt_project_subdirectory": None,
                "docs_job_id": None,
                "freshness_job_id": None,
                "type": 0,
                **fields,
            },
            project_id,
        )

    def create_environment(self, account_id: int, project_id: int, name: str, **fields: Any) -> Doc:
        """Raises: Refusal 400 for an unknown type."""
        environment_id = fields.pop("id", None)
        body = _environment_fields({**fields, "name": name})
        return self._created(
            "environments",
            {**body, "account_id": account_id, "project_id": project_id},
            environment_id,
        )

    def update_environment(self, environment: Doc, body: Mapping[str, Any]) -> Doc:
        """Replace it: what is left out goes back to its default (dbt Cloud API v3)."""
        if not body.get("name"):
            raise Refusal(400, "Missing: name.", {"name": ["This field is required."]})
        with self.changed:
            return self.store.update(
                "environments",
                environment["id"],
                **{**_environment_fields(body), "updated_at": self.now()},
            )

    def delete(self, kind: str, doc: Doc) -> Doc:
        """Mark a project or an environment deleted."""
        with self.changed:
            return self.store.update(kind, doc["id"], state=2, updated_at=self.now())

    def create_job(self, account_id: int, body: Mapping[str, Any]) -> Doc:
        """Raises: Refusal 400 for missing or malformed fields, 404 for unknown ids."""
        doc = self._job_fields(account_id, {**_JOB_DEFAULTS, **_given(body)})
        return self._created("jobs", {**doc, "account_id": account_id, "state": 1})

    def update_job(self, job: Doc, body: Mapping[str, Any]) -> Doc:
        """Change a job; clients send the whole object (what is done else: ``Behaviour``).

        Raises: Refusal 400 for missing or malformed fields.
        """
        missing = {
            name: ["This field is required."] for name in _JOB_REQUIRED if body.get(name) is None
        }
        if missing and self.behaviour.job_updates == "refuse":
            raise Refusal(400, f"Missing: {', '.join(sorted(missing))}.", missing)
        reset = _JOB_DEFAULTS if self.behaviour.job_updates == "reset" else {}
        merged = self._job_fields(job["account_id"], {**job, **reset, **_given(body)})
        with self.changed, self.store.transaction():
            merged.update(id=job["id"], account_id=job["account_id"], updated_at=self.now())
            merged["run_failure_count"] = 0
            merged["deactivated"] = False
            return self.store.update("jobs", job["id"], **merged)

    def _created(self, kind: str, doc: Doc, row_id: int | None = None) -> Doc:
        with self.changed:
            now = self.now()
            return self.store.insert(
                kind, {**doc, "created_at": now, "updated_at": now}, row_id=row_id
            )

    def _job_fields(self, account_id: int, body: Doc) -> Doc:
        missing = {
            field: ["This field is required."]
            for field in ("name", "project_id", "environment_id")
            if body.get(field) in (None, "")
        }
        if missing:
            raise Refusal(400, f"Missing: {', '.join(sorted(missing))}.", missing)
        project_id = whole_number("project_id", body["project_id"])
        environment_id = whole_number("environment_id", body["environment_id"])
        self.find("projects", project_id, account_id=account_id)
        self.find("environments", environment_id, project_id=project_id)
        steps = body["execute_steps"]
        if not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
            raise Refusal(
                400, "execute_steps: a list of commands is needed.", {"execute_steps": ["Invalid."]}
            )
        parts = {
            field: {**_JOB_DEFAULTS[field], **mapping(field, body[field])}
            for field in ("triggers", "execution", "settings", "schedule")
        }
        if unknown := [name for name in parts["triggers"] if name not in _TRIGGERS]:
            raise Refusal(400, INVALID, {"triggers": unexpected(unknown)})
        parts["schedule"]["cron"] = cron_of(
            mapping("schedule", body["schedule"]), parts["schedule"]
        )
        job_type = body.get("job_type") or _derived_job_type(parts["triggers"])
        if job_type not in _JOB_TYPES:
            raise Refusal(400, f"job_type: {job_type!r} is not one of {_JOB_TYPES}.")
        whole_number("execution.timeout_seconds", parts["execution"]["timeout_seconds"])
        whole_number("settings.threads", parts["settings"]["threads"])
        return {
            **body,
            "project_id": project_id,
            "environment_id": environment_id,
            **parts,
            "name": str(body["name"]),
            "job_type": job_type,
        }


def _environment_fields(body: Mapping[str, Any]) -> Doc:
    doc = {name: body.get(name, default) for name, default in _ENVIRONMENT_DEFAULTS.items()}
    doc["name"] = body["name"]
    doc["raw_dbt_version"] = doc["dbt_version"] = doc["dbt_version"] or DEFAULT_VERSION
    for field, allowed in (
        ("type", ("development", "deployment")),
        ("deployment_type", ("production", "staging", None)),
    ):
        if doc[field] not in allowed:
            raise Refusal(400, f"{field}: {doc[field]!r} is not possible.", {field: ["Invalid."]})
    return doc


def _given(body: Mapping[str, Any]) -> Doc:
    """A client's fields without those it may not set."""
    fixed = ("id", "created_at", "updated_at", "account", "project", "environment")
    return {
        key: value
        for key, value in body.items()
        if key not in fixed and not (value is None and key in _JOB_DEFAULTS)
    }


def _derived_job_type(triggers: Mapping[str, Any]) -> str:
    if triggers.get("github_webhook") or triggers.get("git_provider_webhook"):
        return "ci"
    if triggers.get("on_merge"):
        return "merge"
    return "scheduled" if triggers.get("schedule") else "other"
