"""Measure all, and write docs/performance.md: `python -m benchmarks`, or `make bench`.

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

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
TINY = ROOT / "dagster_dbtcloud_tests" / "projects" / "tiny"
MARKS = ("<!-- made by `make bench` -->", "<!-- end -->")

Figures = Mapping[str, Any]


@dataclass
class Bench:
    """A sandbox per size of project, and the processes that are measured on it."""

    work: Path
    best_of: int
    peer: str | None
    env: dict[str, str] = field(default_factory=dict)

    def run(self, task: str, *arguments: object, python: str = sys.executable) -> Figures:
        """Run a task in a process of its own."""
        done = subprocess.run(  # noqa: S603 - our own tasks, by the Python that is asked for
            [python, "-m", "benchmarks.tasks", task, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, **self.env, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise click.ClickException(f"{task} {arguments}: {done.stderr[-2000:]}")
        figures: Figures = json.loads(done.stdout.splitlines()[-1])
        return figures

    def best(self, *tasks: Sequence[object], times: int | None = None) -> list[dict[str, Any]]:
        """Run tasks in turn, several times; return the least of each figure, per task."""
        found: list[list[Figures]] = [[] for _ in tasks]
        for _ in range(times or self.best_of):
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
        cold: list[float] = []
        for _ in range(bench.best_of):
            for kept in cache.rglob("*") if cache.exists() else ():
                if kept.is_file():
                    kept.unlink()
            sandbox.clear_requests()
            figures = bench.run("load", "ours", models)
            cold.append(figures["cpu"])
            asked = [request.path for request in sandbox.requests]
        downloads = sum(path.endswith("/manifest.json") for path in asked)
        runs = sum(path.endswith("/run/") for path in asked)
        cells["cold: requests, downloads, dbt Cloud runs"] = f"{len(asked)}, {downloads}, {runs}"
        cells["cold: peak memory"] = f"{figures['peak']:.0f} MB"
        (packed,) = (cache / "manifests").iterdir()
        cells["cached"] = _megabytes(packed.stat().st_size)

        sandbox.clear_requests()
        floor, ours = bench.best(("load", "floor", models), ("load", "ours", models))
        cells["warm: requests"] = f"{len(sandbox.requests) / bench.best_of:g}"
        cells["floor"] = f"{floor['cpu']:.2f} s, {floor['peak']:.0f} MB"
        cells["warm"] = f"{ours['cpu']:.2f} s, {ours['peak']:.0f} MB"
        cells["warm: time against the floor"] = f"**{ours['cpu'] / floor['cpu']:.2f}**"
        cells["warm: memory against the floor"] = f"**{ours['peak'] / floor['peak']:.2f}**"
        cells["cold"] = f"{min(cold):.2f} s"
        cells["cold: time against the floor"] = f"{min(cold) / floor['cpu']:.2f}"

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
        if bench.peer:
            sandbox.clear_requests()
            peer = bench.run("load", "peer", models, python=bench.peer)
            asked = [request.path for request in sandbox.requests]
            cells["dagster-dbt, cold"] = f"{peer['cpu']:.2f} s, {peer['peak']:.0f} MB"
            started = sum(request.method == "POST" and request.path.endswith("/run/")
                          for request in sandbox.requests)  # fmt: skip
            cells["dagster-dbt, cold: requests, dbt Cloud runs"] = f"{len(asked)}, {started}"
    bench.env = {}
    return cells


def reports(bench: Bench, models: Sequence[int]) -> list[Row]:
    """Measure handing over results, from the fewest models to the most."""
    rows = []
    for count in models:
        click.echo(f"results of {count:,} models", err=True)
        times = bench.best_of if count <= min(models) else 1
        yielded, ours = bench.best(
            ("report", "outputs", count), ("report", "ours", count), times=times
        )
        if not yielded["events"] == ours["events"] == count * (1 + project.TESTS):
            raise click.ClickException(f"Not all results were handed over: {yielded}, {ours}")
        rows.append(
            Row(
                f"{count:,}",
                (
                    f"{yielded['cpu']:.1f} s",
                    f"{ours['cpu']:.1f} s",
                    f"{ours['cpu'] / count / 3 * 1000:.1f} ms",
                    f"**{ours['cpu'] / yielded['cpu']:.2f}**",
                ),
            )
        )
    return rows


def imports(bench: Bench) -> list[Row]:
    """Measure what imports cost."""
    click.echo("imports", err=True)
    dagster, package, engine = bench.best(
        *((name,) for name in ("import_dagster", "import_package", "import_engine"))
    )
    rows = [
        Row("`import dagster`", (f"{dagster['cpu']:.2f} s",)),
        Row(
            "the public names of `dagster_dbtcloud`, Dagster included",
            (f"{package['cpu']:.2f} s",),
        ),
        Row("`dagster_dbtcloud.dbt.selection` alone", (f"{engine['cpu'] * 1000:.0f} ms",)),
    ]
    if bench.peer:
        peer = min(bench.run("import_peer", python=bench.peer)["cpu"] for _ in range(bench.best_of))
        rows.append(Row("the same names of dagster-dbt, Dagster included", (f"{peer:.2f} s",)))
    return rows


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


def page(parts: Sequence[str]) -> str:
    """Return the page with this made part in it; the rest of the page is written by hand."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}\n\n" + "\n".join(parts) + f"\n{MARKS[1]}{after}"


@click.command()
@click.option("--models", default="100,1000,10000", help="Sizes of the projects.")
@click.option("--results", default="100,300,1000", help="Models whose results are handed over.")
@click.option("--manifests", default="10,100,500", help="Megabytes of manifests that are read.")
@click.option("--best-of", default=3, help="How often each load is measured.")
@click.option("--peer", default=None, help="The Python of an environment with dagster-dbt.")
@click.option("--write/--no-write", default=True, help="Whether docs/performance.md is renewed.")
def main(
    models: str, results: str, manifests: str, best_of: int, peer: str | None, write: bool
) -> None:
    """Measure dagster_dbtcloud against Dagster's own floor; needs no account and no network."""
    sizes = [int(number) for number in models.split(",") if number]
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bench = Bench(work, best_of, peer)
        python, dagster = platform.python_version(), version("dagster")
        cores = f"{os.cpu_count()} cores ({platform.machine()})"
        made = [f"Python {python}, Dagster {dagster}, {cores}; best of {best_of}.\n"]
        made += ["### Imports", "", *table(("what", "CPU time"), imports(bench))]
        columns = [loads(bench, size) for size in sizes]
        rows = [Row(what, tuple(c[what] for c in columns)) for what in (columns or [{}])[0]]
        made += ["### Loading", "", *table(("models", *(f"{n:,}" for n in sizes)), rows)]
        counts = [int(number) for number in results.split(",") if number]
        heads = (
            "models, 2 tests each",
            "as outputs",
            "here",
            "each result",
            "here against outputs",
        )
        made += ["### Results", "", *table(heads, reports(bench, counts))]
        wanted = [int(number) for number in manifests.split(",") if number]
        titles = ("manifest.json", "CPU time", "memory at the peak", "packed")
        made += ["### Reading manifest.json", "", *table(titles, large(bench, wanted))]
    click.echo("\n".join(made))
    if write:
        PAGE.write_text(page(made), encoding="utf-8")


if __name__ == "__main__":
    main()
