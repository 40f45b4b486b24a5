"""The runs of the sandbox: how they come to be, and each run's state machine.

It runs no dbt and knows no HTTP. Every change is one transaction, and wakes who waits on
``changed``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from dagster_dbtcloud.sandbox.catalog import DEFAULT_VERSION, Catalog
from dagster_dbtcloud.sandbox.plan import (
    RETRYABLE,
    PlannedStep,
    before_retry,
    plan,
    retry_steps,
    subcommand,
)
from dagster_dbtcloud.sandbox.schedule import Due
from dagster_dbtcloud.sandbox.store import Doc
from dagster_dbtcloud.sandbox.webhooks import announce
from dagster_dbtcloud.sandbox.wire import (
    Refusal,
    between,
    humanized,
    not_found,
    to_text,
    whole_number,
)

QUEUED, STARTING, RUNNING, SUCCESS, ERROR, CANCELLED = 1, 2, 3, 10, 20, 30
ACTIVE = (QUEUED, STARTING, RUNNING)
STATUS_NAMES = {
    QUEUED: "Queued",
    STARTING: "Starting",
    RUNNING: "Running",
    SUCCESS: "Success",
    ERROR: "Error",
    CANCELLED: "Cancelled",
}

_PULL_REQUEST_FIELDS = (
    "azure_pull_request_id",
    "github_pull_request_id",
    "gitlab_merge_request_id",
    "non_native_pull_request_id",
)
_WHOLE = (*_PULL_REQUEST_FIELDS, "threads_override", "timeout_seconds_override")
_TEXT = ("git_sha", "git_branch", "schema_override", "dbt_version_override", "target_name_override")


class Cloud(Catalog):
    """The whole truth about one sandbox. All methods may be called from any thread."""

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self._due = Due()

    def create_job(self, account_id: int, body: Mapping[str, Any]) -> Doc:
        """As ``Catalog.create_job``; its schedule counts from now on."""
        with self.changed:
            job = super().create_job(account_id, body)
            self.start_due()
            self.changed.notify_all()
            return job

    def update_job(self, job: Doc, body: Mapping[str, Any]) -> Doc:
        """As ``Catalog.update_job``; state 2 means deletion."""
        if body.get("state") == 2:
            return self.delete_job(job)
        with self.changed:
            changed = super().update_job(job, body)
            self.start_due()
            self.changed.notify_all()
            return changed

    def delete_job(self, job: Doc) -> Doc:
        """Mark it deleted; its active runs are cancelled, its history stays."""
        with self.changed, self.store.transaction():
            deleted = self.store.update("jobs", job["id"], state=2, updated_at=self.now())
            active = {"job_definition_id": job["id"], "status": ACTIVE}
            for run in self.store.select("runs", active):
                self.cancel(run["id"], message="The job of this run was deleted.")
            self.changed.notify_all()
            return deleted

    # -- triggering ------------------------------------------------------------------------

    def trigger(
        self,
        job: Doc,
        body: Mapping[str, Any],
        *,
        category: str = "api",
        actor: Mapping[str, Any] | None = None,
    ) -> Doc:
        """Queue a run; null means "not given" (dbt Cloud API v2, Trigger Job Run).

        Raises: Refusal 400 for a missing cause or a malformed override.
        """
        trigger = _trigger_fields(body)
        if job["deactivated"] and category in ("api", "ui", "rerun"):
            if category != "ui" and self.behaviour.refuse_deactivated:
                raise Refusal(400, "The job is deactivated after too many failures.")
            self.store.update("jobs", job["id"], deactivated=False, run_failure_count=0)
        account = self.find("accounts", job["account_id"])
        if account["locked"]:
            raise Refusal(400, f"The account is locked. {account['lock_reason'] or ''}".strip())
        steps = plan(job, trigger, connection=self.connection_name)
        return self._queue(job, trigger, category, steps, actor)

    def start_due(self) -> bool:
        """Start the jobs whose schedule says so; return whether there is any schedule to watch.

        One scheduled run of a job may wait: an older one that still does is cancelled, as those
        of a job that takes longer than its interval are (docs: deploy/job-scheduler).
        """
        if not self.behaviour.schedules:
            return False
        scheduled = ("json_extract(doc, '$.triggers.schedule') = 1", ())
        with self.changed:
            jobs = self.store.select("jobs", {"state": 1}, also=[scheduled])
            for job in self._due.look(jobs, self.clock.now()):
                self._make_way(job)
                # A locked account or a full queue: this time passes without a run.
                with contextlib.suppress(Refusal):
                    self.trigger(dict(job), {"cause": "scheduled"}, category="scheduled")
            return bool(jobs)

    def _make_way(self, job: Mapping[str, Any]) -> None:
        waiting = {"job_definition_id": job["id"], "status": QUEUED}
        for run in self.store.select("runs", waiting):
            trigger = self.store.get("triggers", run["trigger_id"]) or {}
            if trigger.get("cause_category") == "scheduled":
                self.cancel(run["id"], message="A newer scheduled run took its place.")

    def retry(self, run: Doc, *, actor: Mapping[str, Any] | None = None) -> Doc:
        """Queue a run that resumes at the failed command of ``run``.

        Raises: Refusal 400 with the reason when it cannot (the service's code is not known).
        """
        reason = self.retry_refusal(run)
        if reason is not None:
            raise Refusal(400, f"This run cannot be retried: {reason}.", {"reason": reason})
        job = self.find("jobs", run["job_definition_id"])
        failed, skipped = self.failure_of(run)
        steps = retry_steps(
            "dbt retry",
            [step["command"] for step in skipped],
            connection=self.connection_name,
        )
        before = self.store.get("triggers", run["trigger_id"]) or {}
        kept = {k: v for k, v in before.items() if k not in ("id", "created_at", "cause")}
        kept |= {
            "steps_override": None,
            "cause": "Retry of run " + str(run["id"]),
            "git_sha": run["git_sha"] if before.get("git_sha") else None,
        }
        return self._queue(
            job,
            kept,
            "rerun",
            steps,
            actor,
            retrying_run_id=run["id"],
            resume={"run_id": run["id"], "index": failed["index"] if failed else 0},
        )

    def rerun(self, job: Doc, *, actor: Mapping[str, Any] | None = None) -> Doc:
        """Retry the job's last run if it failed, else start a new one (docs: API v2, Rerun Job)."""
        last = self.latest_run(job["id"])
        if last is not None and self.retry_refusal(last) is None:
            return self.retry(last, actor=actor)
        return self.trigger(
            job, {"cause": "Rerun of job " + str(job["id"])}, category="rerun", actor=actor
        )

    def latest_run(self, job_id: int, statuses: Sequence[int] | None = None) -> Doc | None:
        where: Doc = {"job_definition_id": job_id}
        if statuses is not None:
            where["status"] = statuses
        runs = self.store.select("runs", where, order_by="-id", limit=1)
        return runs[0] if runs else None

    def failure_of(self, run: Doc) -> tuple[Doc | None, list[Doc]]:
        """The step that failed the run, and those skipped for it."""
        steps = self.steps(run["id"])
        failed = next((s for s in steps if s["status"] == ERROR and not s["may_fail"]), None)
        skipped = [s for s in steps if s.get("skipped") and s["command"]]
        return failed, skipped if failed else []

    def retry_refusal(self, run: Doc) -> str | None:
        """Why the run cannot be retried, in dbt Cloud's words; None if it can."""
        if run["status"] != ERROR:
            return "RETRY_NOT_FAILED_RUN"
        latest = self.latest_run(run["job_definition_id"] or 0)
        if latest is not None and latest["id"] != run["id"]:
            return "RETRY_NOT_LATEST_RUN"
        if before_retry(run["dbt_version"]):
            return "RETRY_UNSUPPORTED_VERSION"
        failed, _ = self.failure_of(run)
        if failed is None or failed["kind"] != "dbt":
            return "RETRY_UNSUPPORTED_CMD"
        if subcommand(failed["command"]) not in RETRYABLE | {"retry"}:
            return "RETRY_UNSUPPORTED_CMD"
        if not (self.step_dir(run["id"], failed["index"]) / "target/run_results.json").is_file():
            return "RETRY_NO_RUN_RESULTS"
        return None

    def _queue(
        self,
        job: Doc,
        trigger: Doc,
        category: str,
        steps: Sequence[PlannedStep],
        actor: Mapping[str, Any] | None,
        **fields: Any,
    ) -> Doc:
        with self.changed, self.store.transaction():
            account = self.find("accounts", job["account_id"])
            queued = self.store.count("runs", {"account_id": account["id"], "status": QUEUED})
            if queued >= account["queue_limit"]:
                raise Refusal(400, "The account's queue of runs is full.")
            self._supersede(job, trigger)
            run = self._insert_run(
                job, {**trigger, "cause_category": category}, actor=actor, **fields
            )
            self._insert_steps(run, steps)
            self.changed.notify_all()
            return run

    def _supersede(self, job: Doc, trigger: Doc) -> None:
        """A newer commit of a pull request cancels the older run (docs: deploy/ci-jobs)."""
        pull_request = _pull_request(trigger)
        if pull_request is None:
            return
        for run in self.store.select("runs", {"job_definition_id": job["id"], "status": ACTIVE}):
            if _pull_request(self.store.get("triggers", run["trigger_id"]) or {}) == pull_request:
                self.cancel(run["id"], message="A newer commit of the pull request started.")

    def _insert_run(
        self,
        job: Doc,
        trigger: Doc,
        *,
        actor: Mapping[str, Any] | None = None,
        run_id: int | None = None,
        **fields: Any,
    ) -> Doc:
        now = self.now()
        environment = self.store.get("environments", job["environment_id"]) or {}
        stored_trigger = self.store.insert(
            "triggers", {**trigger, "job_definition_id": job["id"], "created_at": now}
        )
        run: Doc = {
            "trigger_id": stored_trigger["id"],
            "account_id": job["account_id"],
            "project_id": job["project_id"],
            "environment_id": job["environment_id"],
            "job_definition_id": job["id"],
            "status": QUEUED,
            "status_message": None,
            "dbt_version": trigger.get("dbt_version_override")
            or job.get("dbt_version")
            or environment.get("dbt_version", DEFAULT_VERSION),
            "git_branch": None,
            "git_sha": None,
            "created_at": now,
            "updated_at": now,
            "dequeued_at": None,
            "started_at": None,
            "finished_at": None,
            "retrying_run_id": None,
            "deferring_run_id": None,
            "has_docs_generated": False,
            "has_sources_generated": False,
            "listed_at": None,
            "artifacts_at": None,
            "ci": _pull_request(trigger) is not None,
            "actor": dict(actor) if actor else None,
            "cancelled_by": None,
            "cancel_message": None,
            "cancel_requested": False,
            "resume": None,
            # True: nobody runs it; a test put it there and ends it.
            "held": False,
            **fields,
        }
        return self.store.insert("runs", run, row_id=run_id)

    def _insert_steps(self, run: Doc, steps: Sequence[PlannedStep]) -> None:
        now = self.now()
        for index, step in enumerate(steps, start=1):
            self.store.insert(
                "steps",
                {
                    "run_id": run["id"],
                    "account_id": run["account_id"],
                    "index": index,
                    "name": step.name,
                    "kind": step.kind,
                    "command": step.command,
                    "may_fail": step.may_fail,
                    "status": QUEUED,
                    "skipped": False,
                    "started_at": None,
                    "finished_at": None,
                    "created_at": now,
                    "updated_at": now,
                },
            )

    def insert_past_run(
        self,
        job_id: int,
        *,
        trigger: Doc,
        run_id: int | None,
        fields: Doc,
        steps: Sequence[tuple[PlannedStep, Doc, Callable[[Path], None]]],
    ) -> int:
        """Put a run into history: its fields, and per step what to write into its directory."""
        with self.changed, self.store.transaction():
            job = self.find("jobs", job_id)
            run = self._insert_run(job, trigger, run_id=run_id, **fields)
            self._insert_steps(run, [planned for planned, _, _ in steps])
            stored = self.steps(run["id"])
            for step, (_, step_fields, write) in zip(stored, steps, strict=True):
                if not step_fields["skipped"]:
                    self.begin_artifacts(run["id"], step["index"])
                write(self.step_dir(run["id"], step["index"]))
                self.store.update("steps", step["id"], **step_fields)
            self.changed.notify_all()
            return int(run["id"])

    # -- the state machine -----------------------------------------------------------------

    def steps(self, run_id: int) -> list[Doc]:
        return self.store.select("steps", {"run_id": run_id}, order_by="index")

    def blocked_by(self, run: Doc) -> list[int]:
        """Runs of the same job that this one waits for; CI runs wait for none."""
        if run["status"] != QUEUED or run["ci"]:
            return []
        where = {"job_definition_id": run["job_definition_id"], "status": ACTIVE}
        earlier = self.store.select("runs", where, also=[("id < ?", (run["id"],))])
        return [other["id"] for other in earlier]

    def startable(self) -> list[Doc]:
        """Queued runs that nothing holds back, oldest first.

        One run at a time per environment (its DuckDB file has one writer) and per job, and as
        many runs of an account as it has slots; CI runs take no slot (docs: deploy/ci-jobs).
        """
        with self.store.lock:
            busy = self.store.select("runs", {"status": (STARTING, RUNNING)})
            environments = {run["environment_id"] for run in busy if not run["held"]}
            jobs = {run["job_definition_id"] for run in busy if not run["ci"]}
            slots: dict[int, int] = {}
            for run in busy:
                slots[run["account_id"]] = slots.get(run["account_id"], 0) + (not run["ci"])
            ready = []
            for run in self.store.select("runs", {"status": QUEUED}):
                if run["held"]:
                    jobs.add(run["job_definition_id"])
                    continue
                account = self.store.get("accounts", run["account_id"]) or {"run_slots": 1}
                used = slots.get(run["account_id"], 0)
                held = (
                    run["environment_id"] in environments
                    or (not run["ci"] and run["job_definition_id"] in jobs)
                    or (not run["ci"] and used >= account["run_slots"])
                    or self._younger_than(run["created_at"], self.behaviour.queued_seconds)
                )
                if held:
                    # Later runs of the same job must not overtake it.
                    jobs.add(run["job_definition_id"])
                    continue
                ready.append(run)
                environments.add(run["environment_id"])
                jobs.add(run["job_definition_id"])
                slots[run["account_id"]] = used + (not run["ci"])
            return ready

    def _younger_than(self, created_at: str, seconds: float) -> bool:
        return seconds > 0 and between(created_at, None, self.clock.now()) < seconds

    def dequeue(self, run_id: int) -> bool:
        """Queued -> Starting. False if the run was cancelled meanwhile."""
        return self._advance(run_id, QUEUED, STARTING, "dequeued_at")

    def start(self, run_id: int) -> bool:
        """Starting -> Running. False if the run was cancelled meanwhile."""
        with self.changed, self.store.transaction():
            started = self._advance(run_id, STARTING, RUNNING, "started_at")
            if started:
                announce(self, "job.run.started", self.store.get("runs", run_id) or {})
            return started

    def _advance(self, run_id: int, before: int, after: int, stamp: str) -> bool:
        with self.changed:
            run = self.store.get("runs", run_id)
            if run is None or run["status"] != before or run["cancel_requested"]:
                return False
            now = self.now()
            self.store.update("runs", run_id, status=after, updated_at=now, **{stamp: now})
            self.changed.notify_all()
            return True

    def start_step(self, step: Doc) -> None:
        with self.changed:
            now = self.now()
            self.store.update("steps", step["id"], status=RUNNING, started_at=now, updated_at=now)
            self.changed.notify_all()

    def finish_step(self, step: Doc, status: int) -> None:
        with self.changed:
            now = self.now()
            self.store.update("steps", step["id"], status=status, finished_at=now, updated_at=now)
            self.changed.notify_all()

    def cancel(
        self,
        run_id: int,
        *,
        actor: Mapping[str, Any] | None = None,
        message: str | None = None,
    ) -> Doc:
        """Ask for an end. A queued run ends at once, an active one when its dbt is dead.

        A run that is over stays as it is (what the service answers then is not known).
        """
        with self.changed, self.store.transaction():
            run = self.store.get("runs", run_id)
            if run is None:
                raise not_found()
            if run["status"] not in ACTIVE or run["cancel_requested"]:
                return run
            run = self.store.update(
                "runs",
                run_id,
                cancel_requested=True,
                cancelled_by=dict(actor) if actor else None,
                cancel_message=message,
                updated_at=self.now(),
            )
            if run["status"] == QUEUED or run["held"]:
                run = self.finish(run_id, CANCELLED, message)
            self.changed.notify_all()
            return run

    def finish(self, run_id: int, status: int, message: str | None = None) -> Doc:
        """Any active status -> a terminal one; steps that did not end follow.

        Steps after a failed one are "Skipped"; those of a cancelled run "Cancelled".
        """
        with self.changed, self.store.transaction():
            run = self.store.get("runs", run_id)
            if run is None or run["status"] not in ACTIVE:
                raise ValueError(f"run {run_id} is over")
            now, moment = self.now(), self.clock.now()
            for step in self.steps(run_id):
                if step["status"] == RUNNING:
                    self.store.update("steps", step["id"], status=status, finished_at=now)
                elif step["status"] == QUEUED:
                    self.store.update(
                        "steps", step["id"], status=CANCELLED, skipped=status != CANCELLED
                    )
            if run["job_definition_id"] is not None:
                self._count_failure(run["job_definition_id"], status)
            run = self.store.update(
                "runs",
                run_id,
                status=status,
                status_message=message,
                finished_at=now,
                updated_at=now,
                artifacts_at=_after(moment, self.behaviour.artifacts_seconds),
                listed_at=_after(moment, self.behaviour.listed_seconds),
            )
            self._announce_end(run, moment)
            self.changed.notify_all()
            return run

    def _announce_end(self, run: Doc, moment: datetime) -> None:
        """A failure is told at once, the end when artifacts are there (docs: deploy/webhooks)."""
        if run["status"] == ERROR:
            announce(self, "job.run.errored", run)
        if run["status"] != CANCELLED or self.behaviour.webhook_on_cancel:
            seen = moment + timedelta(seconds=self.behaviour.artifacts_seconds)
            announce(self, "job.run.completed", run, at=seen)

    def _count_failure(self, job_id: int, status: int) -> None:
        job = self.store.get("jobs", job_id)
        if job is not None and status in (SUCCESS, ERROR):
            count = 0 if status == SUCCESS else job["run_failure_count"] + 1
            over = count >= self.behaviour.failures_to_deactivate
            changes = {"deactivated": True} if over else {}
            self.store.update("jobs", job_id, run_failure_count=count, **changes)

    def time_out(self, run_id: int, limit: int) -> Doc:
        """A timeout ends a run as Cancelled; only the message tells (dbt Cloud API v2, Run)."""
        run = self.store.get("runs", run_id) or {}
        ran = between(run.get("started_at"), None, self.clock.now())
        return self.finish(
            run_id,
            CANCELLED,
            f"This run timed out after running for {humanized(ran, smallest='second')}, "
            f"which exceeded the configured timeout of {limit} seconds.",
        )

    def recover(self) -> None:
        """After a stop or a crash: what was running is an error, what was queued still is."""
        with self.changed, self.store.transaction():
            for run in self.store.select("runs", {"status": (STARTING, RUNNING)}):
                if run["held"]:
                    continue
                self.finish(run["id"], ERROR, "The sandbox stopped while this run was active.")


def _after(moment: datetime, seconds: float) -> str:
    return to_text(moment + timedelta(seconds=seconds))


def _trigger_fields(body: Mapping[str, Any]) -> Doc:
    cause = body.get("cause")
    if not isinstance(cause, str) or not cause:
        raise Refusal(400, "cause: this field is required.", {"cause": ["This field is required."]})
    trigger: Doc = {"cause": cause}
    for field in _TEXT:
        value = body.get(field)
        if value is not None and not isinstance(value, str):
            raise Refusal(400, f"{field}: a text is needed.", {field: ["Not a valid string."]})
        trigger[field] = value
    for field in _WHOLE:
        value = body.get(field)
        trigger[field] = None if value is None else whole_number(field, value)
    docs = body.get("generate_docs_override")
    trigger["generate_docs_override"] = None if docs is None else bool(docs)
    steps = body.get("steps_override")
    if steps is not None and not (
        isinstance(steps, list) and all(isinstance(step, str) for step in steps)
    ):
        raise Refusal(
            400, "steps_override: a list of commands is needed.", {"steps_override": ["Invalid."]}
        )
    trigger["steps_override"] = steps
    return trigger


def _pull_request(trigger: Mapping[str, Any]) -> int | None:
    return next((trigger[f] for f in _PULL_REQUEST_FIELDS if trigger.get(f) is not None), None)
