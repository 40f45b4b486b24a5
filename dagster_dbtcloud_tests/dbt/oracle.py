"""What real dbt says: a long-lived dbt process that answers what ``dbt ls`` would select."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

PROJECTS = Path(__file__).parent.parent / "projects"


class Refused(Exception):
    """dbt refused the question."""


class Oracle:
    """dbt on a copy of a test project; a context manager."""

    def __init__(self, project: str, into: Path) -> None:
        self.dir = into / project
        shutil.copytree(PROJECTS / project, self.dir)
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("DBT_")},
            "DO_NOT_TRACK": "1",
            "DBT_PROFILES_DIR": str(self.dir),
            "PYTHONWARNINGS": "ignore",
        }
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "dbt_process.py"), str(self.dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self._receive()

    @property
    def manifest(self) -> Path:
        """The manifest.json that dbt wrote."""
        return self.dir / "target" / "manifest.json"

    def ls(self, args: list[str]) -> set[str]:
        """Return what ``dbt ls`` selects. Raises: Refused."""
        return set(self._ask({"ls": _typed(args)})["ids"])

    def runner(self, args: list[str]) -> set[str]:
        """Return the same from the whole command, slower. Raises: Refused."""
        return set(self._ask({"runner": _typed(args)})["ids"])

    def command(self, words: list[str]) -> set[str]:
        """Return what another command, ``words[0]``, would run or test. Raises: Refused."""
        return set(self._ask({"command": words})["ids"])

    @contextmanager
    def other_selectors(
        self, selectors: list[dict[str, Any]]
    ) -> Iterator[dict[str, dict[str, Any]]]:
        """Give the project other YAML selectors; hand them out as the manifest would hold them.

        Raises: Refused.
        """
        own = (self.dir / "selectors.yml").read_text(encoding="utf-8")
        try:
            yield self._ask({"selectors": json.dumps({"selectors": selectors})})["selectors"]
        finally:
            self._ask({"selectors": own})

    def __enter__(self) -> Oracle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._process:
            self._process.terminate()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"dbt ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer


def _typed(args: list[str]) -> list[str]:
    """Ask for all types, where the question says none; ``dbt ls`` alone leaves analyses out."""
    said = any(word.endswith(("resource-type", "resource-types")) for word in args)
    return args if said else [*args, "--resource-type", "all"]
