"""One run from Starting to its end: its steps performed one after the other, by real dbt.

It decides nothing about statuses (``state.py`` does); it says how each step ended, or that the
run was interrupted.
"""

from __future__ import annotations

import dataclasses
import os
import queue
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from dagster_dbtcloud.sandbox import checkout, variables
from dagster_dbtcloud.sandbox.history import PastStep, Script, append_log, write_step
from dagster_dbtcloud.sandbox.plan import split, subcommand
from dagster_dbtcloud.sandbox.state import ERROR, SUCCESS, Cloud
from dagster_dbtcloud.sandbox.store import Doc
from dagster_dbtcloud.sandbox.wire import between
from dagster_dbtcloud.sandbox.worker import DbtWorker, Finished

POLL_SECONDS = 0.1
_PLAYED_POLL_SECONDS = 0.01
_PARTIAL_PARSE = "partial_parse.msgpack"
# Of the shell that started the sandbox, dbt gets all but: what belongs to a client of dbt Cloud
# (a token among it), and dbt's own flags (dbt 1.11, dbt.cli.params), which are the run's.
_FOREIGN = ("DBT_CLOUD_", "DBT_ENV_CUSTOM_ENV_DBT_CLOUD_", "DBT_ENGINE_")
_FLAGS = frozenset(
    """
    DBT_ARTIFACT_STATE_PATH DBT_CACHE_SELECTED_ONLY DBT_CLEAN_PROJECT_FILES_ONLY DBT_DEBUG
    DBT_DEFER DBT_DEFER_STATE DBT_DEFER_TO_STATE DBT_EMPTY DBT_EVENT_TIME_END DBT_EVENT_TIME_START
    DBT_EXCLUDE_RESOURCE_TYPES DBT_EXPORT_SAVED_QUERIES DBT_FAIL_FAST DBT_FAVOR_STATE
    DBT_FAVOR_STATE_MODE DBT_FULL_REFRESH DBT_HOST DBT_INCLUDE_SAVED_QUERY
    DBT_INDIRECT_SELECTION DBT_INTROSPECT DBT_LOG_CACHE_EVENTS DBT_LOG_FILE_MAX_BYTES
    DBT_LOG_FORMAT DBT_LOG_FORMAT_FILE DBT_LOG_LEVEL DBT_LOG_LEVEL_FILE DBT_LOG_PATH
    DBT_MACRO_DEBUGGING DBT_NO_PRINT DBT_PARTIAL_PARSE DBT_PARTIAL_PARSE_FILE_DIFF
    DBT_PARTIAL_PARSE_FILE_PATH DBT_POPULATE_CACHE DBT_PRINT DBT_PRINTER_WIDTH DBT_PROFILE
    DBT_PROFILES_DIR DBT_PROJECT_DIR DBT_QUIET DBT_RESOURCE_TYPES DBT_SAMPLE
    DBT_SEND_ANONYMOUS_USAGE_STATS DBT_SHOW_RESOURCE_REPORT DBT_SINGLE_THREADED DBT_STATE
    DBT_STATIC_PARSER DBT_STORE_FAILURES DBT_TARGET DBT_TARGET_PATH
    DBT_UPLOAD_TO_ARTIFACTS_INGEST_API DBT_USE_COLORS DBT_USE_COLORS_FILE
    DBT_USE_EXPERIMENTAL_PARSER DBT_USE_FAST_TEST_EDGES DBT_VERSION_CHECK DBT_WARN_ERROR
    DBT_WARN_ERROR_OPTIONS DBT_WRITE_JSON
    """.split()  # noqa: SIM905 -- one a line would fill a page
)
# The variables seen in the metadata of real artifacts.
_IN_ARTIFACTS = (
    "ACCOUNT_ID",
    "PROJECT_ID",
    "ENVIRONMENT_ID",
    "JOB_ID",
    "RUN_ID",
    "RUN_REASON",
    "RUN_REASON_CATEGORY",
    "RUN_TRIGGER_CATEGORY",
)

# Not a SimpleQueue: in Python 3.10 its get() may wait for ever when a timeout is over at once.
Mailbox = queue.Queue["Finished | Literal['cancel', 'stop', 'release']"]


class Interrupted(Exception):
    """The run must end now: cancelled, out of time, or the sandbox stops."""

    def __init__(self, why: Literal["cancel", "stop", "timeout"]) -> None:
        super().__init__(why)
        self.why = why


class Execution:
    """One run from Starting to its end, in its own thread."""

    def __init__(
        self,
        cloud: Cloud,
        run: Doc,
        *,
        mailbox: Mailbox,
        worker: DbtWorker,
        project_dir: Path,
        warehouse: Path,
        script: Script | None,
    ) -> None:
        self._cloud = cloud
        self._run = run
        self._mailbox = mailbox
        self._worker = worker
        self._project_dir = project_dir
        self._warehouse = warehouse
        self._script = script
        self._trigger = cloud.store.get("triggers", run["trigger_id"]) or {}
        self._job = cloud.store.get("jobs", run["job_definition_id"]) or {}
        self._home = cloud.environment_dir(run["environment_id"])
        self._checkout = self._home / "checkout"
        self._limit = time_limit(cloud, run)
        self._started: float | None = None
        self._released = False

    def execute(self) -> tuple[int, str | None]:
        cloud, run_id = self._cloud, self._run["id"]
        self._stay_starting()
        if not cloud.start(run_id):
            raise Interrupted("cancel")
        self._started = cloud.clock.monotonic()
        for step in cloud.steps(run_id):
            self._check()
            cloud.start_step(step)
            folder = cloud.step_dir(run_id, step["index"])
            folder.mkdir(parents=True, exist_ok=True)
            success = self._perform(step, folder)
            cloud.finish_step(step, SUCCESS if success else ERROR)
            if not success and not step["may_fail"]:
                return ERROR, None
        return SUCCESS, None

    def _perform(self, step: Doc, folder: Path) -> bool:
        try:
            if step["kind"] == "clone":
                return self._clone(folder)
            if step["kind"] == "profile":
                return self._profile(folder)
            if step["kind"] == "deps":
                return self._deps(step, folder)
            self._cloud.begin_artifacts(self._run["id"], step["index"])
            played = self._script(self._run, step["command"]) if self._script else None
            return self._dbt(step, folder) if played is None else self._play(played, folder)
        except checkout.ProjectError as error:
            self._say(folder, str(error))
            return False

    # -- waiting, and what ends it ---------------------------------------------------------

    def _receive(self, seconds: float) -> Finished | None:
        """Wait for dbt's end. Raises: Interrupted."""
        try:
            message = self._mailbox.get(timeout=seconds)
        except queue.Empty:
            message = None
        if message == "cancel" or message == "stop":
            raise Interrupted(message)
        if message == "release":
            self._released = True
            message = None
        clock = self._cloud.clock
        if self._started is not None and clock.monotonic() - self._started > self._limit:
            raise Interrupted("timeout")
        return message

    def _check(self) -> None:
        while self._receive(0) is not None:
            pass

    def _stay_starting(self) -> None:
        seconds, since = self._cloud.behaviour.starting_seconds, self._run["dequeued_at"]
        while between(since, None, self._cloud.clock.now()) < seconds:
            self._receive(POLL_SECONDS)
        self._check()

    # -- the steps -------------------------------------------------------------------------

    def _say(self, folder: Path, *lines: str) -> None:
        stamp = self._cloud.clock.now().strftime("%H:%M:%S")
        text = "".join(f"{stamp}  {line}\n" for line in lines)
        for name in ("console.log", "dbt.log"):
            with (folder / name).open("a", encoding="utf-8") as log:
                log.write(text)

    def _clone(self, folder: Path) -> bool:
        source = self._project_dir
        found = checkout.sync(source, self._checkout)
        commit = self._trigger.get("git_sha") or found
        environment = self._cloud.store.get("environments", self._run["environment_id"]) or {}
        branch = (
            self._trigger.get("git_branch")
            or (environment.get("custom_branch") if environment.get("use_custom_branch") else None)
            or "main"
        )
        self._cloud.store.update("runs", self._run["id"], git_sha=commit, git_branch=branch)
        self._run |= {"git_sha": commit, "git_branch": branch}
        self._say(folder, f"Cloning {source} ...", f"Checking out {branch} at {commit}.")
        return True

    def _profile(self, folder: Path) -> bool:
        settings = self._job.get("settings") or {}
        threads = self._trigger.get("threads_override") or settings.get("threads") or 4
        target = self._trigger.get("target_name_override") or settings.get("target_name") or ""
        adapter = checkout.write_profile(
            self._checkout,
            self._home / "profiles",
            warehouse=self._warehouse,
            threads=threads,
            target_name=target,
            schema=self._trigger.get("schema_override"),
        )
        self._say(folder, f"Profile for {adapter} written.", f"Threads: {threads}.")
        return True

    def _deps(self, step: Doc, folder: Path) -> bool:
        if not checkout.needs_packages(self._checkout):
            self._say(folder, "Warning: No packages were found in packages.yml")
            return True
        mark = self._home / "packages.sha256"
        digest = checkout.packages_digest(self._checkout)
        installed = checkout.packages_dir(self._project_dir)
        if installed.is_dir():
            self._say(folder, f"Packages taken from {installed}.")
            return True
        known = mark.is_file() and mark.read_text(encoding="utf-8") == digest
        if known and checkout.packages_dir(self._checkout).is_dir():
            self._say(folder, "Packages unchanged since the last run.")
            return True
        success = self._dbt(step, folder)
        if success:
            mark.write_text(checkout.packages_digest(self._checkout), encoding="utf-8")
        return success

    def _play(self, played: PastStep, folder: Path) -> bool:
        if played.seconds > 0:
            self._grow(played, folder)
        else:
            write_step(played, folder)
        while played.hold and not self._released:
            self._receive(POLL_SECONDS)
        self._released = False
        self._note_artifacts(folder / "target")
        return played.status == SUCCESS

    def _grow(self, played: PastStep, folder: Path) -> None:
        """Let a played step take its time and say its lines one by one."""
        clock, lines = self._cloud.clock, played.logs.splitlines(keepends=True)
        write_step(dataclasses.replace(played, logs=""), folder)
        begun, said = clock.monotonic(), 0
        while said < len(lines) or clock.monotonic() - begun < played.seconds:
            share = (clock.monotonic() - begun) / played.seconds
            due = min(len(lines), int(share * len(lines)) + 1)
            append_log(folder, "".join(lines[said:due]))
            said = due
            self._receive(_PLAYED_POLL_SECONDS)

    def _dbt(self, step: Doc, folder: Path) -> bool:
        command = step["command"]
        try:
            args = split(command)
        except ValueError as error:
            self._say(folder, str(error))
            return False
        if not args:
            self._say(folder, f"Invalid command: `{command}` has no sub-command")
            return False
        target = folder / "target"
        target.mkdir(exist_ok=True)
        shared = self._home / _PARTIAL_PARSE
        env = self._environment() | {
            "DBT_PROJECT_DIR": str(self._checkout),
            "DBT_PROFILES_DIR": str(self._home / "profiles"),
            "DBT_TARGET_PATH": str(target),
            "DBT_LOG_PATH": str(folder),
            "DBT_USE_COLORS": "false",
            "DBT_USE_COLORS_FILE": "false",
            "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        }
        if shared.is_file():
            env["DBT_PARTIAL_PARSE_FILE_PATH"] = str(shared)
        if subcommand(command) == "retry":
            resumed = self._results_to_resume(step)
            if resumed is not None:
                env["DBT_STATE"] = str(resumed)
        self._worker.invoke(
            args,
            env=env,
            cwd=self._checkout,
            console=folder / "console.log",
            on_end=self._mailbox.put,
        )
        finished: Finished | None = None
        try:
            while finished is None:
                finished = self._receive(POLL_SECONDS)
        except Interrupted as interrupted:
            self._worker.kill()
            (target / _PARTIAL_PARSE).unlink(missing_ok=True)
            if interrupted.why != "stop":
                self._worker.start()
            raise
        if finished.died:
            self._say(folder, "The dbt process ended before its command did.", self._last_words())
            self._worker.kill()
            self._worker.start()
            (target / _PARTIAL_PARSE).unlink(missing_ok=True)
            return False
        if (target / _PARTIAL_PARSE).is_file():
            # One for the environment, for the next step to start from; not an artifact.
            (target / _PARTIAL_PARSE).replace(shared)
        if not any(target.iterdir()):
            target.rmdir()
        if not finished.success and finished.exception:
            self._complete_console(folder, finished.exception)
        self._note_artifacts(target)
        return finished.success

    def _complete_console(self, folder: Path, exception: str) -> None:
        """An exception before dbt's logging stood has no line in the log yet."""
        console = folder / "console.log"
        if not console.is_file() or not console.stat().st_size:
            self._say(folder, *exception.splitlines())

    def _note_artifacts(self, target: Path) -> None:
        changes = {}
        if (target / "catalog.json").is_file():
            changes["has_docs_generated"] = True
        if (target / "sources.json").is_file():
            changes["has_sources_generated"] = True
        if changes:
            self._cloud.store.update("runs", self._run["id"], **changes)

    def _last_words(self) -> str:
        log = self._home / "worker.log"
        words = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        return words[-2000:]

    def _results_to_resume(self, step: Doc) -> Path | None:
        """Where ``dbt retry`` finds what to retry: the run resumed, else the newest before it."""
        cloud, run = self._cloud, self._run
        resume = run.get("resume")
        before = [(run["id"], index) for index in range(step["index"] - 1, 0, -1)]
        if resume:
            before.append((resume["run_id"], resume["index"]))
        else:
            last = cloud.store.select(
                "runs",
                {"job_definition_id": run["job_definition_id"]},
                also=[("id < ?", (run["id"],))],
                order_by="-id",
                limit=1,
            )
            for earlier in last:
                indexes = [s["index"] for s in cloud.steps(earlier["id"])]
                before += [(earlier["id"], index) for index in reversed(indexes)]
        for run_id, index in before:
            target = cloud.step_dir(run_id, index) / "target"
            if (target / "run_results.json").is_file():
                return target
        return None

    def _environment(self) -> dict[str, str]:
        """The variables of a step: this process's without dbt's own, the service's, the user's."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in _FLAGS and not name.startswith(_FOREIGN)
        }
        cloud = self._cloud_variables()
        self._warehouse.parent.mkdir(parents=True, exist_ok=True)
        return {
            **inherited,
            **cloud,
            # dbt copies only variables of this prefix into the artifacts' metadata.
            **{f"DBT_ENV_CUSTOM_ENV_DBT_CLOUD_{n}": cloud[f"DBT_CLOUD_{n}"] for n in _IN_ARTIFACTS},
            "DBT_SANDBOX_DUCKDB_PATH": str(self._warehouse),
            **variables.effective(self._cloud, self._run),
        }

    def _cloud_variables(self) -> dict[str, str]:
        """docs: build/environment-variables; the categories as seen in real artifacts."""
        run, trigger = self._run, self._trigger
        environment = self._cloud.store.get("environments", run["environment_id"]) or {}
        kind = environment.get("deployment_type")
        category = trigger.get("cause_category", "api")
        pull_request = _pull_request_of(trigger)
        words = {
            "ACCOUNT_ID": run["account_id"],
            "PROJECT_ID": run["project_id"],
            "ENVIRONMENT_ID": run["environment_id"],
            "ENVIRONMENT_NAME": environment.get("name", ""),
            "ENVIRONMENT_TYPE": {"production": "prod", "staging": "staging"}.get(kind or "", ""),
            "JOB_ID": run["job_definition_id"],
            "RUN_ID": run["id"],
            "RUN_REASON": trigger.get("cause", ""),
            "RUN_REASON_CATEGORY": pull_request[0] if pull_request else
            "scheduled" if category == "scheduled" else "other",
            "RUN_TRIGGER_CATEGORY": "RUN_REASON_CATEGORY_" + category.upper().replace(" ", "_"),
            "GIT_BRANCH": run.get("git_branch") or "",
            "GIT_SHA": run.get("git_sha") or "",
            "PR_ID": str(pull_request[1]) if pull_request else "",
            "INVOCATION_CONTEXT": "ci" if run["ci"] else "staging" if kind == "staging" else "prod",
        }  # fmt: skip
        return {f"DBT_CLOUD_{name}": str(value) for name, value in words.items()}


def _pull_request_of(trigger: Mapping[str, object]) -> tuple[str, object] | None:
    for host, name in (
        ("github", "github_pull_request_id"),
        ("gitlab", "gitlab_merge_request_id"),
        ("azure", "azure_pull_request_id"),
        ("github", "non_native_pull_request_id"),
    ):
        if trigger.get(name) is not None:
            kind = "merge_request" if host == "gitlab" else "pull_request"
            return f"{host}_{kind}", trigger[name]
    return None


def time_limit(cloud: Cloud, run: Mapping[str, object]) -> int:
    """Seconds a run may take: the trigger's, else the job's, never beyond the account's."""
    trigger = cloud.store.get("triggers", int(str(run["trigger_id"]))) or {}
    job = cloud.store.get("jobs", int(str(run["job_definition_id"]))) or {}
    account = cloud.store.get("accounts", int(str(run["account_id"]))) or {}
    hard = int(account.get("run_duration_limit_seconds") or 86400)
    own = trigger.get("timeout_seconds_override")
    if own is None:
        own = (job.get("execution") or {}).get("timeout_seconds")
    return min(int(own), hard) if own else hard
