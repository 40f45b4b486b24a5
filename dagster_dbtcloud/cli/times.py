"""Durations and times as options take them: ``90``, ``45s``, ``30m``, ``2h``, ``1d``, or a date."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    _Duration = click.ParamType[float]
    _Since = click.ParamType[float | datetime]
else:
    _Duration = _Since = click.ParamType

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TEXT = re.compile(r"(\d+(?:\.\d+)?) ?([smhd]?)")


class Duration(_Duration):
    """A positive number of seconds, written with or without a unit."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        match = _TEXT.fullmatch(str(value).strip().lower())
        seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
        if seconds <= 0:
            self.fail(f"{value!r} is not a duration such as 90, 45s, 30m, 2h or 1d.", param, ctx)
        return seconds


class Since(_Since):
    """A duration before now (a float of seconds), or a date or time (aware, UTC if it says not)."""

    name = "duration|date"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | datetime:
        if isinstance(value, (float, datetime)):
            return value
        text = str(value).strip()
        if _TEXT.fullmatch(text.lower()):
            return Duration().convert(text, param, ctx)
        try:
            moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        except ValueError:
            self.fail(
                f"{value!r} is neither a duration such as 2h or 1d nor a date such as 2026-01-31 "
                "or 2026-01-31T06:00.",
                param,
                ctx,
            )
        return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment
