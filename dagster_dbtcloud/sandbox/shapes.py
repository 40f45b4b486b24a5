"""From stored documents to the objects that dbt Cloud's API shows.

It changes nothing. What a field looks like when nobody asked for it (null, or an empty list)
follows recorded answers of the service.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from dagster_dbtcloud.sandbox import schedule, variables, wire
from dagster_dbtcloud.sandbox.plan import subcommand
from dagster_dbtcloud.sandbox.state import (
    ACTIVE,
    CANCELLED,
    ERROR,
    QUEUED,
    RUNNING,
    STATUS_NAMES,
    SUCCESS,
    Cloud,
)
from dagster_dbtcloud.sandbox.store import Doc

_COLOURS = {SUCCESS: "#55973a", ERROR: "#b0003f", CANCELLED: "#6e7989"}
_DEBUG_LINES = 1000
TOO_LARGE = "Run logs are too large to show."


def account(doc: Doc) -> Doc:
    return _dated(doc)


def _dated(doc: Doc) -> Doc:
    return {
        **doc,
        "created_at": wire.job_time(doc["created_at"]),
        "updated_at": wire.job_time(doc["updated_at"]),
    }


def project(cloud: Cloud, doc: Doc) -> Doc:
    environments = cloud.store.select("environments", {"project_id": doc["id"], "state": 1})
    return {
        **_dated(doc),
        "connection": None,
        "repository": None,
        "group_permissions": [],
        "docs_job": None,
        "freshness_job": None,
        "environments": [_dated(one) for one in environments],
    }


def environment(cloud: Cloud, doc: Doc, include: Collection[str] = ()) -> Doc:
    owner = cloud.store.get("projects", doc["project_id"]) if "project" in include else None
    return {
        **_dated(doc),
        "project": _dated(owner) if owner else None,
        "connection": None,
        "credentials": None,
        "repository": None,
    }


def job(cloud: Cloud, doc: Doc, include: Collection[str] = (), *, site: str = "") -> Doc:
    """A job; its schedule's date and time are objects here, but texts inside a run."""
    scheduled = bool(doc["triggers"].get("schedule"))
    due = schedule.next_run(doc, cloud.clock.now())
    ahead = 0.0 if due is None else (due - cloud.clock.now()).total_seconds()
    shown = {
        **_dated(doc),
        "generate_sources": doc["run_generate_sources"],
        "raw_dbt_version": doc["dbt_version"],
        "cron_humanized": doc["schedule"].get("cron") if scheduled else None,
        "next_run": None if due is None else wire.job_time(wire.to_text(due)),
        "next_run_humanized": None if due is None else wire.humanized(ahead),
        "account": None,
        "project": None,
        "environment": None,
        "most_recent_run": None,
        "most_recent_completed_run": None,
        "custom_environment_variables": None,
    }
    if "environment" in include:
        found = cloud.store.get("environments", doc["environment_id"])
        shown["environment"] = _dated(found) if found else None
    if "most_recent_run" in include:
        last = cloud.latest_run(doc["id"])
        shown["most_recent_run"] = run(cloud, last, site=site) if last else None
    if "most_recent_completed_run" in include:
        last = cloud.latest_run(doc["id"], (SUCCESS, ERROR, CANCELLED))
        shown["most_recent_completed_run"] = run(cloud, last, site=site) if last else None
    if "custom_environment_variables" in include:
        shown["custom_environment_variables"] = [
            variable(one)
            for one in cloud.store.select("variables", {"job_definition_id": doc["id"]})
        ]
    return shown


def variable(doc: Doc) -> Doc:
    value = variables.shown_value(doc)
    return {**_dated(doc), "raw_value": value, "display_value": value}


def run(
    cloud: Cloud, doc: Doc, include: Collection[str] = (), *, site: str, quiet: bool = False
) -> Doc:
    """A run. ``site``: scheme and host that the client used, for ``href``; ``quiet``: no logs yet.

    Related objects are null, and ``run_steps`` empty, unless asked for; ``debug_logs`` alone
    does nothing.
    """
    status, now = doc["status"], cloud.clock.now()
    active = status in ACTIVE
    whole = wire.between(doc["created_at"], doc["finished_at"], now)
    dequeued = doc["dequeued_at"] or doc["finished_at"]
    queued = wire.between(doc["created_at"], dequeued, now)
    ran = wire.between(doc["started_at"], doc["finished_at"], now)
    refusal = cloud.retry_refusal(doc)
    since = wire.between(doc["created_at"], None, now)
    saved = any(cloud.step_dir(doc["id"], 0).parent.glob("*/target")) and not active
    shown = {
        "id": doc["id"],
        "trigger_id": doc["trigger_id"],
        "account_id": doc["account_id"],
        "environment_id": doc["environment_id"],
        "project_id": doc["project_id"],
        "job_definition_id": doc["job_definition_id"],
        "job_id": doc["job_definition_id"],
        "status": status,
        "status_humanized": STATUS_NAMES[status],
        "status_message": doc["status_message"],
        "in_progress": active,
        "is_complete": not active,
        "is_success": status == SUCCESS,
        "is_error": status == ERROR,
        "is_cancelled": status == CANCELLED,
        "is_running": None,
        "dbt_version": doc["dbt_version"],
        "git_branch": doc["git_branch"],
        "git_sha": doc["git_sha"],
        "created_at": wire.run_time(doc["created_at"]),
        "updated_at": wire.run_time(doc["updated_at"]),
        "dequeued_at": wire.run_time(doc["dequeued_at"]),
        "started_at": wire.run_time(doc["started_at"]),
        "finished_at": wire.run_time(doc["finished_at"]),
        "should_start_at": wire.run_time(doc["dequeued_at"]),
        "last_checked_at": None,
        "last_heartbeat_at": None,
        "duration": wire.duration(whole),
        "queued_duration": wire.duration(queued),
        "run_duration": wire.duration(ran),
        "duration_humanized": wire.humanized(whole),
        "queued_duration_humanized": wire.humanized(queued),
        "run_duration_humanized": wire.humanized(ran),
        "created_at_humanized": f"{wire.humanized(since)} ago",
        "finished_at_humanized": "0 minutes from now" if active else
        f"{wire.humanized(wire.between(doc['finished_at'], None, now))} ago",
        "blocked_by": cloud.blocked_by(doc),
        "deferring_run_id": doc["deferring_run_id"],
        "retrying_run_id": doc["retrying_run_id"],
        "can_retry": refusal is None,
        "retry_not_supported_reason": refusal,
        "artifacts_saved": saved,
        "artifact_s3_path": f"sandbox/runs/{doc['id']}/artifacts/target" if saved else None,
        "has_docs_generated": doc["has_docs_generated"],
        "has_sources_generated": doc["has_sources_generated"],
        "notifications_sent": not active,
        "owner_thread_id": None,
        "executed_by_thread_id": None,
        "deprecation": None,
        "used_repo_cache": None,
        "repo_cache_restore": None,
        "href": f"{site}{run_path(doc)}",
        "trigger": None,
        "job": None,
        "environment": None,
        "run_steps": [],
        "run_retries": None,
        "audit": None,
    }  # fmt: skip
    if "trigger" in include:
        shown["trigger"] = trigger(cloud, doc)
    if "job" in include and doc["job_definition_id"] is not None:
        shown["job"] = _nested_job(cloud, doc["job_definition_id"])
    if "environment" in include:
        found = cloud.store.get("environments", doc["environment_id"])
        shown["environment"] = _dated(found) if found else None
    if "audit" in include:
        cancelled = doc["cancelled_by"]
        shown["audit"] = {
            "trigger": {"actor": doc["actor"]},
            "cancellation": {"actor": cancelled} if cancelled else None,
        }
    if "run_retries" in include:
        shown["run_retries"] = []
    if "run_steps" in include:
        steps = cloud.steps(doc["id"]) if status != QUEUED else []
        fits = _logs_fit(cloud, steps)
        shown["run_steps"] = [step(cloud, one, include, fits=fits, quiet=quiet) for one in steps]
    return shown


def run_path(doc: Doc) -> str:
    return f"/deploy/{doc['account_id']}/projects/{doc['project_id']}/runs/{doc['id']}/"


def trigger(cloud: Cloud, run_doc: Doc) -> Doc | None:
    doc = cloud.store.get("triggers", run_doc["trigger_id"])
    if doc is None:
        return None
    names = (
        "git_branch", "git_sha", "azure_pull_request_id", "github_pull_request_id",
        "gitlab_merge_request_id", "non_native_pull_request_id", "schema_override",
        "dbt_version_override", "threads_override", "target_name_override",
        "generate_docs_override", "timeout_seconds_override", "steps_override",
    )  # fmt: skip
    return {
        "id": doc["id"],
        "cause": doc["cause"],
        "cause_category": doc["cause_category"],
        "cause_humanized": doc["cause"],
        "job_definition_id": doc["job_definition_id"],
        "created_at": wire.run_time(doc["created_at"]),
        "job": None,
        **{name: doc.get(name) for name in names},
    }


def _nested_job(cloud: Cloud, job_id: int) -> Doc | None:
    doc = cloud.store.get("jobs", job_id)
    if doc is None:
        return None
    planned = doc["schedule"]
    flat = {
        "cron": planned.get("cron"),
        "date": (planned.get("date") or {}).get("type"),
        "time": (planned.get("time") or {}).get("type"),
    }
    return {**job(cloud, doc), "schedule": flat}


def step(
    cloud: Cloud,
    doc: Doc,
    include: Collection[str] = (),
    *,
    fits: bool = True,
    quiet: bool = False,
) -> Doc:
    """A step. Its logs are whole when it is over, else a window at their end."""
    now = cloud.clock.now()
    folder = cloud.step_dir(doc["run_id"], doc["index"])
    running = doc["status"] == RUNNING
    quiet = quiet or (
        not running
        and doc["finished_at"] is not None
        and wire.between(doc["finished_at"], None, now) < cloud.behaviour.logs_seconds
    )
    logs = debug = ""
    if not fits:
        logs = TOO_LARGE
    elif not quiet:
        logs = _log(cloud, folder / "console.log", running=running)
        debug = _log(cloud, folder / "dbt.log", running=running)
    short = _last_lines(debug, _DEBUG_LINES)
    seconds = wire.between(doc["started_at"], doc["finished_at"], now)
    label = "Skipped" if doc["skipped"] else STATUS_NAMES[doc["status"]]
    return {
        "id": doc["id"],
        "run_id": doc["run_id"],
        "account_id": doc["account_id"],
        "index": doc["index"],
        "name": doc["name"],
        "status": doc["status"],
        "status_humanized": label if fits else "Unknown",
        "status_color": _COLOURS.get(doc["status"], "#d6ae0d"),
        "logs": logs,
        "debug_logs": debug if "debug_logs" in include else short,
        "truncated_debug_logs": short,
        "log_path": None,
        "debug_log_path": None,
        "started_at": wire.run_time(doc["started_at"]),
        "finished_at": wire.run_time(doc["finished_at"]),
        "created_at": wire.run_time(doc["created_at"]),
        "updated_at": wire.run_time(doc["updated_at"]),
        "duration": wire.duration(seconds),
        "duration_humanized": wire.humanized(seconds, smallest="second"),
        "run_step_command": {
            "run_step_id": doc["id"],
            "dbt_command": subcommand(doc["command"]),
        }
        if doc["command"]
        else None,
        "run_step_invocation": None,
    }


def _logs_fit(cloud: Cloud, steps: list[Doc]) -> bool:
    limit = cloud.behaviour.logs_limit_bytes
    if limit is None:
        return True
    size = 0
    for one in steps:
        path = cloud.step_dir(one["run_id"], one["index"]) / "console.log"
        size += path.stat().st_size if path.is_file() else 0
    return size <= limit


def _log(cloud: Cloud, path: Path, *, running: bool) -> str:
    """The text of a log, or its last lines while it grows (docs: deploy/run-visibility)."""
    if not path.is_file():
        return ""
    size = path.stat().st_size
    window = cloud.behaviour.tail_bytes
    with path.open("rb") as file:
        if running and size > window:
            file.seek(size - window)
            # The first line is not whole any more.
            file.readline()
        text = file.read().decode("utf-8", errors="replace")
    if not running:
        return text
    shown = _last_lines(text, cloud.behaviour.tail_lines)
    if len(shown) < len(text) or size > window:
        return f"Only the last lines of the log are shown while the step is running.\n{shown}"
    return shown


def _last_lines(text: str, count: int) -> str:
    lines = text.splitlines(keepends=True)
    return text if len(lines) <= count else "".join(lines[-count:])


def step_artifacts(cloud: Cloud, run_doc: Doc, index: int | None) -> Path | None:
    """The ``target`` directory of a step (of the last step that has one), when it may be seen.

    Only a finished run shows artifacts: mid-run access is not documented.
    """
    if run_doc["status"] in ACTIVE:
        return None
    if run_doc["artifacts_at"] is not None and run_doc["artifacts_at"] > cloud.now():
        return None
    if index is None:
        with_files = [
            one["index"]
            for one in cloud.steps(run_doc["id"])
            if (cloud.step_dir(run_doc["id"], one["index"]) / "target").is_dir()
        ]
        if not with_files:
            return None
        index = with_files[-1]
    target = cloud.step_dir(run_doc["id"], index) / "target"
    return target if target.is_dir() else None


def artifact_paths(target: Path) -> list[str]:
    return sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file())


def artifact_file(target: Path, path: str) -> Path | None:
    """The file of an artifact; nothing outside ``target``, whatever the path says."""
    file = (target / path).resolve()
    return file if file.is_relative_to(target.resolve()) and file.is_file() else None
