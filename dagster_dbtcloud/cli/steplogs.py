"""The logs of a run's steps as lines, each once, while the run is read again and again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dagster_dbtcloud.dbt.tail import LogTail

if TYPE_CHECKING:
    from dagster_dbtcloud.cloud.models import Run, RunStep


class StepLines:
    """What is new in each step of a run at each look."""

    def __init__(self) -> None:
        self._tails: dict[int, LogTail] = {}

    def new(self, run: Run) -> Iterator[tuple[RunStep, bool, list[str]]]:
        """Yield (step, whether it is met for the first time, its new lines) in order.

        Steps that have not begun are left out.
        """
        for step in run.run_steps:
            known = self._tails.get(step.index)
            if known is None and step.started_at is None and not step.logs:
                continue
            tail = known or self._tails.setdefault(step.index, LogTail())
            # a finished step's log is whole; some runs end without their steps having one
            final = run.is_complete or step.is_complete
            yield step, known is None, tail.feed(step.logs or "", final=final)
