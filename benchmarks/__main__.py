"""Measure all, and write it into docs/performance.md and README.md: `make bench`.

What is measured is in `tasks.py`; here it is run, in turn with what it is compared with, and told.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from benchmarks import project
from dagster_dbtcloud.sandbox import PastStep, Sandbox
from dagster_dbtcloud_tests.kill_daemon import POSTGRESQL, postgresql

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
README = ROOT / "README.md"
TINY = ROOT / "dagster_dbtcloud_tests" / "projects" / "tiny"
MARKS = ("<!-- made by `make bench` -->", "<!-- end -->")

ALL_MODELS, ALL_MANIFESTS = "100,1000,10000", "10,100,500"
ALL_RESULTS, ALL_STORAGE = "100,300,1000", ""
IMPORTS = {
    "`import dagster`": "import dagster",
    "the public names of `dagster_dbtcloud`, Dagster included": (
        "from dagster_dbtcloud import DbtCloudCredentials, DbtCloudWorkspace,"
        " build_dbt_cloud_polling_sensor, dbt_cloud_assets"
    ),
    "`dagster_dbtcloud.dbt.selection` alone": "import dagster_dbtcloud.dbt.selection",
}
PEER_IMPORT = "from dagster_dbt.cloud_v2.asset_decorator import dbt_cloud_assets"

Figures = Mapping[str, Any]


@dataclass
class Bench:
    """A sandbox per size of project, and the processes that are measured on it."""

    work: Path
    best_of: int
    peer: str | None
    peer_most: int
    env: dict[str, str] = field(default_factory=dict)

    def run(self, task: str, *arguments: object, python: str = sys.executable) -> Figures:
        """Run a task in a process of its own."""
        figures: Figures = json.loads(
            self._python(python, "-m", "benchmarks.tasks", task, *map(str, arguments))
        )
        return figures

    def imported(self, statement: str, python: str = sys.executable) -> float:
        """Return the CPU seconds that a statement takes in a Python that has done nothing yet."""
        program = (
            f"import time; begun = time.process_time(); {statement}; "
            "took = time.process_time() - begun; import sys; sys.stdout.write(str(took))"
        )
        return min(float(self._python(python, "-c", program)) for _ in range(2 * self.best_of))

    def _python(self, python: str, *arguments: str) -> str:
        done = subprocess.run(  # noqa: S603 - our own tasks, by the Python that is asked for
            [python, *arguments],
            cwd=ROOT,
            env={**os.environ, **self.env, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise click.ClickException(f"{' '.join(arguments)}: {done.stderr[-2000:]}")
        return done.stdout.splitlines()[-1]

    def best(self, *tasks: Sequence[object]) -> list[dict[str, Any]]:
        """Run tasks in turn, several times; return the least of each figure, per task."""
        found: list[list[Figures]] = [[] for _ in tasks]
        for _ in range(self.best_of):
            for task, runs in zip(tasks, found, strict=True):
                runs.append(self.run(*map(str, task)))
        return [{name: min(run[name] for run in runs) for name in runs[0]} for runs in found]


@dataclass(frozen=True)
class Row:
    what: str
    cells: tuple[str, ...]


def loads(bench: Bench, models: int) -> dict[str, str]:
    """Measure the loads of a project of one size."""
    click.echo(f"{models:,} models", err=True)
    path = bench.work / f"{models}.json"
    size = project.write(path, models)
    content = path.read_bytes()
    cache = bench.work / f"cache-{models}"
    with Sandbox(project_dir=TINY, warm=False) as sandbox:
        step = PastStep("dbt build", artifacts={"manifest.json": content})
        sandbox.insert_run(sandbox.create_job("nightly", ["dbt build"]), steps=[step])
        sandbox.play(lambda _, command: PastStep(command, artifacts={"manifest.json": content}))
        bench.env = {**sandbox.env, "DAGSTER_DBTCLOUD_CACHE_DIR": str(cache)}
        cells = {"manifest.json": _megabytes(size)}
        cold: list[Figures] = []
        for _ in range(bench.best_of):
            for kept in cache.rglob("*") if cache.exists() else ():
                if kept.is_file():
                    kept.unlink()
            sandbox.clear_requests()
            cold.append(bench.run("load", "ours", models))
            asked = _asked(sandbox)
        cells["cold: requests, downloads, dbt Cloud runs"] = ", ".join(map(str, asked))
        (packed,) = (cache / "manifests").iterdir()
        cells["cached"] = _megabytes(packed.stat().st_size)

        sandbox.clear_requests()
        floor, ours = bench.best(("load", "floor", models), ("load", "ours", models))
        cells["warm: requests"] = f"{len(sandbox.requests) / bench.best_of:g}"
        cells["floor"] = f"{floor['cpu']:.2f} s, {floor['peak']:.0f} MB"
        cells["warm"] = f"{ours['cpu']:.2f} s, {ours['peak']:.0f} MB"
        cells["warm: time against the floor"] = f"**{ours['cpu'] / floor['cpu']:.2f}**"
        cells["warm: memory against the floor"] = f"**{ours['peak'] / floor['peak']:.2f}**"
        least = min(figures["cpu"] for figures in cold)
        cells["cold"] = f"{least:.2f} s, {min(figures['peak'] for figures in cold):.0f} MB"
        cells["cold: time against the floor"] = f"{least / floor['cpu']:.2f}"

        left = bench.run("pointer")
        bench.env["BENCHMARK_POINTER"] = json.dumps(left)
        cells["what travels with a run"] = f"{len(json.dumps(left))} bytes"
        sandbox.clear_requests()
        floor, ours = bench.best(("start", "floor", models), ("start", "ours", models))
        cells["start: requests"] = f"{len(sandbox.requests) / bench.best_of:g}"
        cells["start: time against the floor"] = f"**{ours['cpu'] / floor['cpu']:.2f}**"
        cells["start: memory against the floor"] = f"**{ours['peak'] / floor['peak']:.2f}**"
        (chosen,) = bench.best(("select", packed))
        cells["selection, slowest of eight"] = f"{chosen['cpu']:.2f} s"
        if bench.peer and models <= bench.peer_most:
            sandbox.clear_requests()
            peer = bench.run("load", "peer", models, python=bench.peer)
            cells["dagster-dbt, cold"] = f"{peer['cpu']:.2f} s, {peer['peak']:.0f} MB"
            asked = _asked(sandbox)
            cells["dagster-dbt, cold: requests, downloads, dbt Cloud runs"] = ", ".join(
                map(str, asked)
            )
            cells["cold: time against dagster-dbt"] = f"{least / peer['cpu']:.2f}"
    bench.env = {}
    return cells


def _asked(sandbox: Sandbox) -> tuple[int, int, int]:
    """Count the requests, and those that fetch a manifest or start a dbt Cloud run."""
    asked = [(request.method, request.path.rstrip("/")) for request in sandbox.requests]
    return (
        len(asked),
        sum(path.endswith("/manifest.json") for _, path in asked),
        sum(method == "POST" and path.endswith("/run") for method, path in asked),
    )


WAYS = ("outputs", "ours", "bare")
HANDED_HEADS = (
    *("as outputs", "here", "each result as an output", "each result here"),
    *("the same by the clock", "each as a bare event"),
    *("here against outputs", "here against bare events"),
)


def reports(bench: Bench, models: Sequence[int]) -> list[Row]:
    """Measure handing over results, from the fewest models to the most."""
    return [Row(f"{count:,}", _handed_over(bench, count, "memory")) for count in models]


def storages(bench: Bench, models: int) -> list[Row]:
    """Measure it where Dagster keeps its events in other ways."""
    rows = [Row("in memory", _handed_over(bench, models, "memory"))]
    rows.append(Row("SQLite files", _handed_over(bench, models, "sqlite")))
    if POSTGRESQL:
        with postgresql(bench.work) as address:
            rows.append(Row("PostgreSQL", _handed_over(bench, models, address)))
    return rows


def _handed_over(bench: Bench, models: int, storage: str) -> tuple[str, ...]:
    click.echo(f"results of {models:,} models", err=True)
    figures = bench.best(*(("report", way, models, storage) for way in WAYS))
    results = models * (1 + project.TESTS)
    if any(found["events"] != results for found in figures):
        raise click.ClickException(f"Not all of {results} results were handed over: {figures}")
    yielded, ours, bare = (found["cpu"] for found in figures)
    each = (yielded, ours, figures[1]["clock"], bare)
    return (
        *(f"{yielded:.1f} s", f"{ours:.1f} s"),
        *(f"{took / results * 1000:.1f} ms" for took in each),
        f"**{ours / yielded:.3f}**",
        f"{ours / bare:.2f}",
    )


def imports(bench: Bench) -> list[Row]:
    """Measure what imports cost."""
    click.echo("imports", err=True)
    rows = [Row(what, (_seconds(bench.imported(line)),)) for what, line in IMPORTS.items()]
    if bench.peer:
        took = bench.imported(PEER_IMPORT, python=bench.peer)
        rows.append(Row("the same names of dagster-dbt, Dagster included", (_seconds(took),)))
    return rows


def _seconds(took: float) -> str:
    return f"{took:.2f} s" if took >= 0.1 else f"{took * 1000:.0f} ms"


def large(bench: Bench, megabytes: Sequence[int]) -> list[Row]:
    """Measure reading manifest.json of about so many megabytes."""
    rows = []
    for size in megabytes:
        click.echo(f"a manifest of about {size} MB", err=True)
        path = bench.work / f"{size}-mb.json"
        exact = project.write(path, max(1, round(size * 86)))
        figures = bench.run("read", path)
        path.unlink()
        grown = figures["peak"] - figures["before"]
        rows.append(
            Row(
                _megabytes(exact),
                (
                    f"{figures['cpu']:.1f} s",
                    f"{grown:.0f} MB ({grown * 1e6 / exact:.1f} times the file)",
                    _megabytes(int(figures["packed"])),
                ),
            )
        )
    return rows


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def table(heads: Sequence[str], rows: Sequence[Row]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        f"|---|{'---|' * (len(heads) - 1)}",
        *(f"| {' | '.join((row.what, *row.cells))} |" for row in rows),
        "",
    ]


def renew(path: Path, parts: Sequence[str]) -> None:
    """Write the made part of a page; the rest of the page is written by hand."""
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    made = "\n".join(parts)
    path.write_text(f"{before}{MARKS[0]}\n\n{made}\n{MARKS[1]}{after}", encoding="utf-8")


def in_short(columns: Mapping[int, Mapping[str, str]], results: Sequence[Row]) -> list[str]:
    """Return what the README says of all this: some of the same figures, as they are there."""
    most, many = max(columns), results[-1]
    cells = columns[most]
    rows = [
        ("load, manifest cached: time", "warm: time against the floor"),
        ("load, manifest cached: memory", "warm: memory against the floor"),
        ("start of a run worker or step: time", "start: time against the floor"),
    ]
    return [
        *table(
            (f"{most:,} models, {most * project.TESTS:,} tests", "against Dagster's own floor"),
            [Row(what, (cells[name],)) for what, name in rows],
        ),
        (
            f"The results of {many.what} models and their tests reach Dagster in {many.cells[1]}"
            f" here, in {many.cells[0]} as outputs of a step.\n"
        ),
    ]


@click.command()
@click.option("--models", default=ALL_MODELS, help="Sizes of the projects.")
@click.option("--results", default=ALL_RESULTS, help="Models whose results are handed over.")
@click.option("--storage", default=ALL_STORAGE, help="The same, in each kind of event storage.")
@click.option("--manifests", default=ALL_MANIFESTS, help="Megabytes of manifests that are read.")
@click.option("--best-of", default=3, help="How often each load is measured.")
@click.option("--peer", default=None, help="The Python of an environment with dagster-dbt.")
@click.option("--peer-most", default=1_000, help="Models up to which that is measured too.")
@click.option(
    "--write/--no-write",
    default=None,
    help="Whether the pages are renewed; by default when all sizes are measured.",
)
def main(
    models: str,
    results: str,
    storage: str,
    manifests: str,
    best_of: int,
    peer: str | None,
    peer_most: int,
    write: bool | None,
) -> None:
    """Measure dagster_dbtcloud against Dagster's own floor; needs no account and no network."""
    asked = (models, results, storage, manifests)
    whole = asked == (ALL_MODELS, ALL_RESULTS, ALL_STORAGE, ALL_MANIFESTS)
    made: list[str] = []

    def tell(title: str, heads: Sequence[str], rows: Sequence[Row]) -> None:
        if rows:
            part = [f"### {title}", "", *table(heads, rows)]
            click.echo("\n".join(part))
            made.extend(part)

    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = Bench(work, best_of, peer, peer_most)
        python, dagster = platform.python_version(), version("dagster")
        cores = f"{os.cpu_count()} cores ({platform.machine()})"
        made.append(f"Python {python}, Dagster {dagster}, {cores}; best of {best_of}.\n")
        click.echo(made[0])
        tell("Imports", ("what", "CPU time"), imports(bench))
        columns = {size: loads(bench, size) for size in _numbers(models)}
        names = next(iter(columns.values()), {})
        rows = [
            Row(name, tuple(cells.get(name, "-") for cells in columns.values())) for name in names
        ]
        tell("Loading", ("models", *(f"{size:,}" for size in columns)), rows)
        handed = reports(bench, _numbers(results))
        tell("Results", ("models, 2 tests each", *HANDED_HEADS), handed)
        if kept := _numbers(storage):
            head = f"{kept[0]:,} models' results, kept"
            tell(
                "Results, by where Dagster keeps them",
                (head, *HANDED_HEADS),
                storages(bench, kept[0]),
            )
        titles = ("manifest.json", "CPU time", "memory at the peak", "packed")
        tell("Reading manifest.json", titles, large(bench, _numbers(manifests)))
    if write if write is not None else whole:
        renew(PAGE, made)
        if columns and handed:
            renew(README, in_short(columns, handed))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


if __name__ == "__main__":
    main()
