"""Real dbt in a process of its own, answering JSON lines; started by ``oracle.py``.

It takes nothing from the package under test. Apart, because dbt warns, logs and keeps global state.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, TextIO

from dbt.cli.flags import Flags
from dbt.cli.main import cli, dbtRunner
from dbt.clients.yaml_helper import load_yaml_text
from dbt.config.runtime import RuntimeConfig, load_profile, load_project
from dbt.config.selectors import SelectorDict
from dbt.contracts.graph.manifest import Manifest
from dbt.contracts.state import PreviousState
from dbt.flags import set_flags
from dbt.task import runnable
from dbt.task.build import BuildTask
from dbt.task.clone import CloneTask
from dbt.task.list import ListTask
from dbt.task.run import RunTask
from dbt.task.seed import SeedTask
from dbt.task.snapshot import SnapshotTask
from dbt.task.test import TestTask

_LS = ["ls", "--output", "json", "--output-keys", "unique_id"]
_GLOBAL = ["--quiet", "--no-write-json", "--log-path", "logs"]
_TASKS = {
    "build": BuildTask,
    "clone": CloneTask,
    "run": RunTask,
    "seed": SeedTask,
    "snapshot": SnapshotTask,
    "test": TestTask,
}


class QuickListTask(ListTask):  # type: ignore[misc] # dbt ships no usable types
    """``dbt ls`` without what costs most: the graph is built once, and no line is logged."""

    graph: Any
    _graph_of_all: Any = None

    def compile_manifest(self) -> None:
        if QuickListTask._graph_of_all is None:
            super().compile_manifest()
            QuickListTask._graph_of_all = self.graph
        self.graph = QuickListTask._graph_of_all

    def output_results(self, results: Iterable[str]) -> list[str]:
        return list(results)


class Dbt:
    """One project, parsed once; each question is a ``dbt ls`` of its own."""

    def __init__(self) -> None:
        parsed = dbtRunner().invoke(["--quiet", "parse"])
        if parsed.exception is not None:
            raise parsed.exception
        self.manifest: Manifest = parsed.result
        self._configs: dict[str, RuntimeConfig] = {}
        # Reading the manifest to compare with takes dbt a second; once is enough.
        runnable.PreviousState = lru_cache(maxsize=1)(PreviousState)

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        if "ls" in question:
            return self._ids(self._list(question["ls"]))
        if "runner" in question:
            return self._ids(self._run(question["runner"]))
        if "command" in question:
            return {"ids": sorted(self._selected_by(question["command"]))}
        return self._selectors(question["selectors"])

    def _list(self, args: list[str]) -> list[str]:
        """The task behind ``dbt ls``, reading arguments as it does; a quarter of the time."""
        flags = self._flags([*_LS, *args])
        return list(QuickListTask(flags, self._config(flags), self.manifest).run())

    def _run(self, args: list[str]) -> list[str]:
        """The whole command, project and profile read again."""
        done = dbtRunner(manifest=self.manifest).invoke([*_GLOBAL, *_LS, *args])
        if done.exception is not None:
            raise done.exception
        return list(done.result)

    def _selected_by(self, words: list[str]) -> set[str]:
        """What another command would run, as its task finds it before it connects anywhere."""
        flags = self._flags(words)
        task = _TASKS[words[0]](flags, self._config(flags), self.manifest)
        task.compile_manifest()
        queued: set[str] = set(task.get_graph_queue().get_selected_nodes())
        return queued | getattr(task, "selected_unit_tests", set())

    def _selectors(self, text: str) -> dict[str, Any]:
        """Replace selectors.yml; return what dbt would write of it into the manifest."""
        with open("selectors.yml", "w", encoding="utf-8") as file:
            file.write(text)
        self._configs.clear()
        self._config(self._flags(_LS))  # refuses here what dbt refuses
        listed = load_yaml_text(text)["selectors"]
        return {"selectors": SelectorDict.parse_from_selectors_list(listed)}

    def _flags(self, words: list[str]) -> Flags:
        with cli.make_context("dbt", [*_GLOBAL, *words]) as context:
            name, command, rest = cli.resolve_command(context, [words[0], *context.args])
            assert command is not None
            with command.make_context(name, rest, parent=context) as inner:
                flags = Flags(inner)
        set_flags(flags)
        return flags

    def _config(self, flags: Flags) -> RuntimeConfig:
        """The project, read once for each mode: dbt reads YAML selectors with the flags in hand."""
        mode = flags.INDIRECT_SELECTION
        if mode not in self._configs:
            self._configs[mode] = self._load(flags)
        return self._configs[mode]

    def _load(self, flags: Flags) -> RuntimeConfig:
        profile = load_profile(flags.PROJECT_DIR, {})
        project = load_project(flags.PROJECT_DIR, False, profile, {})
        return RuntimeConfig.from_parts(project, profile, flags)

    def _ids(self, lines: list[str]) -> dict[str, Any]:
        return {"ids": [json.loads(line)["unique_id"] for line in lines]}


def main() -> None:
    # Whatever dbt prints must not get between the answers.
    answers: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.chdir(sys.argv[1])
    dbt = Dbt()
    _send(answers, {"ready": True})
    for line in sys.stdin:
        try:
            answer = dbt.answer(json.loads(line))
        # dbt refuses in many ways, some of them crashes (ValueError of a glob); all are "no".
        except (Exception, SystemExit) as refused:  # noqa: BLE001
            answer = {"error": f"{type(refused).__name__}: {refused}"}
        _send(answers, answer)


def _send(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer, default=str) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
