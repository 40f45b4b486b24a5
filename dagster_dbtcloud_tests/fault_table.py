"""Each fault at each place of a dbt Cloud run's life, and what Dagster makes of it: a table.

``python -m dagster_dbtcloud_tests.fault_table`` prints it; ``test_fault_matrix.py`` holds each row
to it. Every case is a real materialization on a real Dagster instance, over TCP, of a run that
follows a script; minutes pass on a clock that skips them.
"""

import contextlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import dagster as dg

from dagster_dbtcloud import DbtCloudWorkspace, dbt_cloud_assets
from dagster_dbtcloud.sandbox import Behaviour, Fault, PastStep, Sandbox, Script
from dagster_dbtcloud_tests.conftest import PROJECTS, SkippingClock
from dagster_dbtcloud_tests.dbt.builders import node, raw_manifest
from dagster_dbtcloud_tests.stage import run_results

MODELS = ("model.shop.a", "model.shop.b")
TESTS = ("test.shop.unique_a.1",)
RESULTS = (*((one, "success") for one in MODELS), *((one, "pass") for one in TESTS))
LOG = """10:00:00  Running with dbt=1.11.0
10:00:01  1 of 3 START sql view model main.a ..................... [RUN]
10:00:01  1 of 3 OK created sql view model main.a ................ [OK in 0.10s]
10:00:02  2 of 3 START sql view model main.b ..................... [RUN]
10:00:02  2 of 3 OK created sql view model main.b ................ [OK in 0.10s]
"""
BUILD_SECONDS = 5.0
REQUEST_SECONDS = 0.5
"""How long a request may take, really, where one is made to take longer."""
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
_SETTLED_SECONDS = 2.0
"""How long, really, a cancelled run may need to end before it counts as an orphan."""


# --- the table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One row. ``leaves``: the step gives up a run that goes on; ``method``: wait or stream.

    ``retried``: the first run fails, and Dagster's retry has dbt Cloud retry it.
    """

    name: str
    faults: tuple[Fault, ...]
    behaviour: Mapping[str, Any] = field(default_factory=dict)
    leaves: bool = False
    retried: bool = False
    method: str = "wait"
    build_seconds: float = BUILD_SECONDS
    nightly: bool = False


@dataclass(frozen=True)
class Row:
    """What became of a case."""

    case: Case
    succeeded: bool
    runs: int
    recorded: int
    lost: int
    twice: int
    orphans: int
    rules: Sequence[Mapping[str, Any]] = ()
    said: str = ""

    @property
    def holds(self) -> bool:
        """One dbt Cloud run (and its retry); every result once, unless the step left the run;
        nothing goes on.
        """
        lost = len(RESULTS) if self.case.leaves else 0
        expected = (2 if self.case.retried else 1, lost, 0, 0)
        found = (self.runs, self.lost, self.twice, self.orphans)
        return found == expected and self.succeeded is not self.case.leaves


_Kind = Mapping[str, Any]
_TIMES: Mapping[str, Mapping[str, Any]] = {
    "once": {"count": 1},
    "three times": {"count": 3},
    "for a minute": {"count": None, "for_seconds": 60},
}
_KINDS: Mapping[str, _Kind] = {
    "no answer": {"kind": "lost"},
    "no answer, but done": {"kind": "lost", "after_effect": True},
    "reset": {"kind": "reset"},
    "reset, but done": {"kind": "reset", "after_effect": True},
    "cut answer": {"kind": "cut"},
    "time-out": {"kind": "delay", "seconds": 1.4 * REQUEST_SECONDS},
    "time-out, but done": {"kind": "delay", "seconds": 1.4 * REQUEST_SECONDS, "after_effect": True},
    "500": {"kind": "status", "status": 500},
    "502, but done": {"kind": "html", "status": 502, "after_effect": True},
    "503": {"kind": "status", "status": 503},
    "504, but done": {"kind": "status", "status": 504, "after_effect": True},
    "a proxy's page": {"kind": "html"},
    "a proxy's page, but done": {"kind": "html", "after_effect": True},
    "429": {"kind": "status", "status": 429},
    "429 with Retry-After": {"kind": "status", "status": 429, "retry_after": "7"},
}
# What a place is tried with every day, and how often; the night takes all.
_DAILY: Mapping[str, Mapping[str, Sequence[str]]] = {
    "trigger": {
        "no answer": ("once",),
        "no answer, but done": ("once", "for a minute"),
        "reset, but done": ("once",),
        "cut answer": ("three times",),
        "time-out, but done": ("once",),
        "503": ("three times",),
        "a proxy's page, but done": ("once",),
        "429": ("for a minute",),
    },
    "polling": {
        "reset": ("three times",),
        "cut answer": ("once",),
        "time-out": ("once",),
        "503": ("for a minute",),
        "a proxy's page": ("three times",),
    },
    "logs": {"cut answer": ("three times",), "500": ("for a minute",)},
    "artifacts": {
        "no answer": ("for a minute",),
        "cut answer": ("once",),
        "a proxy's page": ("three times",),
        "429 with Retry-After": ("three times",),
    },
    "retry": {"no answer, but done": ("once",), "503": ("three times",)},
    "cancel": {
        "no answer, but done": ("once",),
        "cut answer": ("once",),
        "503": ("three times", "for a minute"),
        "429": ("once",),
    },
}
_LIST_DOWN = Fault("status", place="list", status=503, count=4)
_SPECIAL = (
    Case("trigger: done 12 s after its answer was lost",
         (Fault("late_effect", place="trigger", seconds=12),)),
    Case("trigger: 408, but done",
         (Fault("status", place="trigger", status=408, after_effect=True),)),
    Case("trigger: no answer, but done, and listed 20 s late",
         (Fault("lost", place="trigger", after_effect=True),
          Fault("late_list", place="list", count=None, for_seconds=20))),
    Case("trigger: no answer, but done, and no list to look at",
         (Fault("lost", place="trigger", after_effect=True), _LIST_DOWN)),
    Case("trigger: no answer twice, done the second time",
         (Fault("lost", place="trigger"), Fault("lost", place="trigger", after_effect=True))),
    Case("polling: 404 just after the trigger",
         (Fault("status", place="polling", status=404, count=3),)),
    Case("polling: a good token is refused twice",
         (Fault("status", place="polling", status=401, count=2),)),
    Case("polling: the request budget is spent",
         (Fault("status", place="polling", status=429, count=None, for_seconds=300),)),
    Case("logs: late by a minute",
         (Fault("late_logs", place="logs", count=None, for_seconds=60),)),
    Case("logs: never", (Fault("late_logs", place="logs", count=None),)),
    Case("logs: too large", (), {"logs_limit_bytes": 10}),
    Case("logs: cut while they are streamed",
         (Fault("cut", place="logs", skip=2, count=3),), method="stream"),
    Case("logs: late while they are streamed",
         (Fault("late_logs", place="logs", count=None, for_seconds=8),), method="stream"),
    Case("artifacts: late by a minute",
         (Fault("late_artifacts", place="artifacts", count=None, for_seconds=60),)),
    Case("artifacts: a good token is refused twice",
         (Fault("status", place="artifacts", status=401, count=2),)),
    Case("everything: 503 for a minute",
         (Fault("status", status=503, count=None, for_seconds=60),)),
    Case("everything: one answer in three is lost",
         (Fault("lost", count=None, probability=0.33, method="GET"),)),
)  # fmt: skip


def _cases() -> Iterator[Case]:
    for place, daily in _DAILY.items():
        for kind, values in _KINDS.items():
            for times, limits in _TIMES.items():
                fault = Fault.parse({**values, **limits, "place": place})
                yield Case(
                    f"{place}: {kind}, {times}",
                    (fault,),
                    leaves=place == "cancel",
                    retried=place == "retry",
                    nightly=times not in daily.get(kind, ()),
                )
    yield from _SPECIAL


CASES: tuple[Case, ...] = tuple(_cases())


# --- a case in the world -------------------------------------------------------------------------


class World:
    """A sandbox whose runs are played, a Dagster instance, and the assets of two models."""

    def __init__(self, sandbox: Sandbox, clock: SkippingClock, folder: Path) -> None:
        self.sandbox = sandbox
        self._last = 0
        self._manifest = folder / "manifest.json"
        entries = [node(one, *MODELS[:place]) for place, one in enumerate(MODELS)]
        entries += [node(one, model) for one, model in zip(TESTS, MODELS, strict=False)]
        self._manifest.write_text(json.dumps(raw_manifest(*entries)))
        # In memory: the disk is not what is tried here, and it takes most of the time.
        self.instance = dg.DagsterInstance.ephemeral()
        self._clock = clock

    def workspace(self, case: Case) -> DbtCloudWorkspace:
        sandbox = self.sandbox
        slow = any(fault.kind == "delay" for fault in case.faults)
        return DbtCloudWorkspace(
            account_id=sandbox.account_id,
            token=sandbox.token,
            access_url=sandbox.url,
            project_id=sandbox.project_id,
            environment_id=sandbox.environment_id,
            manifest=self._manifest,
            clock=self._clock,
            request_timeout=REQUEST_SECONDS if slow else 30.0,
        )

    def assets(self, case: Case) -> dg.AssetsDefinition:
        # Long enough for a run; a run that is left goes on for longer.
        timeout = 30.0 if case.leaves else None

        policy = dg.RetryPolicy(max_retries=1) if case.retried else None

        @dbt_cloud_assets(workspace=self.workspace(case), retry_policy=policy)
        def shop(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
            invocation = dbt_cloud.cli(["build"], context=context)
            yield from getattr(invocation, case.method)(timeout)

        return shop

    def _script(self, case: Case) -> Script:
        seconds = 36_000.0 if case.leaves else case.build_seconds

        def build(run: Mapping[str, Any], line: str) -> PastStep:
            failed = run["retrying_run_id"]
            results: Sequence[tuple[str, str]] = RESULTS
            if failed is not None:
                results = [(one, dict(RESULTS)[one]) for one in self.sandbox.unfinished(failed)]
            elif case.retried:
                results = [(one, "error" if one == MODELS[1] else did) for one, did in RESULTS]
            status = 20 if case.retried and failed is None else 10
            made: dict[str, Any] = {"run_results.json": run_results(*results), "manifest.json": {}}
            return PastStep(line, status=status, logs=LOG, seconds=seconds, artifacts=made)

        return build

    def play(self, case: Case) -> Row:
        """Materialize once, under the faults of the case, and count."""
        sandbox = self.sandbox
        sandbox.play(self._script(case))
        for name in ("logs_limit_bytes",):
            setattr(sandbox.behaviour, name, case.behaviour.get(name, getattr(Behaviour(), name)))
        for fault in case.faults:
            sandbox.faults.add(fault)
        try:
            result = dg.materialize(
                [self.assets(case)],
                instance=self.instance,
                resources={"dbt_cloud": self.workspace(case)},
                run_config=_QUIET,
                raise_on_error=False,
            )
        finally:
            rules = sandbox.faults.listed()
            sandbox.faults.clear()
        runs = sandbox.runs(after=self._last)
        self._last = max([self._last, *(int(run["id"]) for run in runs)])
        orphans = 0
        for run in runs:
            try:
                sandbox.wait(int(run["id"]), _SETTLED_SECONDS)
            except TimeoutError:
                orphans += 1
                sandbox.cancel(int(run["id"]))
                sandbox.wait(int(run["id"]))
        found = self._recorded(result.run_id)
        failures = [e.step_failure_data for e in result.all_events if e.is_step_failure]
        errors = [one.error.to_string() for one in failures if one.error is not None]
        return Row(
            case,
            succeeded=result.success,
            runs=len(runs),
            recorded=sum(found.values()),
            lost=len(RESULTS) - len(found),
            twice=sum(1 for count in found.values() if count > 1),
            orphans=orphans,
            rules=rules,
            said="\n".join(errors),
        )

    def _recorded(self, run_id: str) -> Counter[str]:
        """Return how often the event log holds each result of a Dagster run."""
        found: Counter[str] = Counter()
        for record in self.instance.all_logs(run_id):
            event = record.dagster_event
            if event is None:
                continue
            if event.is_step_materialization and event.asset_key is not None:
                found[event.asset_key.to_user_string()] += 1
            elif event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
                found[event.asset_check_evaluation_data.check_name] += 1
        return found


@contextlib.contextmanager
def world(clock: SkippingClock | None = None) -> Iterator[World]:
    """A world whose time passes as ``clock`` skips it."""
    clock = clock or SkippingClock()
    with (
        tempfile.TemporaryDirectory() as folder,
        Sandbox(project_dir=PROJECTS / "tiny", clock=clock, warm=False) as sandbox,
    ):
        made = World(sandbox, clock, Path(folder))
        with made.instance:
            yield made


def play(stand: World, case: Case) -> Row:
    """Play a case in a world; a retry in one of its own.

    What the first attempt stored is looked for from the time on when dbt Cloud made its run, and
    Dagster dates events by the machine's clock: hours that others have skipped would part the two.
    """
    if not case.retried:
        return stand.play(case)
    with world() as fresh:
        return fresh.play(case)


# --- the command ---------------------------------------------------------------------------------

HEAD = f"{'case':<58}{'runs':>6}{'recorded':>10}{'lost':>6}{'twice':>7}{'orphans':>9}"


def line(row: Row) -> str:
    counts = f"{row.runs:>6}{row.recorded:>10}{row.lost:>6}{row.twice:>7}{row.orphans:>9}"
    return f"{row.case.name:<58}{counts}{'' if row.holds else '   <- does not hold'}"


@click.command()
@click.option("--all", "everything", is_flag=True, help="The nightly cases as well.")
@click.option("-k", "word", default="", help="Only cases whose name holds this.")
def main(everything: bool, word: str) -> None:
    """Print what becomes of a dbt Cloud run under each fault."""
    dg.get_dagster_logger().setLevel("CRITICAL")
    broken = 0
    click.echo(HEAD)
    with world() as made:
        for case in CASES:
            if (everything or not case.nightly) and word in case.name:
                row = play(made, case)
                broken += not row.holds
                click.echo(line(row))
                if not row.holds and row.said:
                    click.echo(row.said[:3000])
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
