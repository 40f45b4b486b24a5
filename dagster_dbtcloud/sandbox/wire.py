"""How values look on dbt Cloud's wire: timestamps, durations, lists in queries, envelopes.

It knows no endpoint and holds no state.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

MAX_PAGE = 100
#: Ids are signed 64-bit numbers.
LARGEST = 2**63 - 1
NOT_FOUND = (
    "The requested resource was not found. Please check that you have the proper permissions."
)
INVALID = "The request was invalid. Please double check the provided data and try again."

_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))


class Refusal(Exception):
    """An answer other than success, raised anywhere below the routes.

    ``data`` goes into the envelope as it stands (field errors of a 400, null otherwise).
    """

    def __init__(
        self,
        status: int,
        message: str,
        data: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.data = data
        self.headers = dict(headers or {})


def not_found() -> Refusal:
    """The one answer to what is not there and to what the token may not see."""
    return Refusal(404, NOT_FOUND)


def unexpected(names: Sequence[str]) -> str:
    """What is said of properties that nobody knows."""
    quoted = ", ".join(f"'{name}'" for name in names)
    verb = "was" if len(names) == 1 else "were"
    return f"Additional properties are not allowed ({quoted} {verb} unexpected)"


def to_text(moment: datetime) -> str:
    """Store a moment: UTC, always with microseconds, so that text order is time order."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f+00:00")


def from_text(text: str) -> datetime:
    """Read what ``to_text`` wrote, or any ISO form with ``T``, ``Z`` or no offset (then UTC).

    Raises: ValueError.
    """
    # A "+" of the query string that nobody encoded arrives as a blank.
    text = re.sub(r"(\d:[\d.]+) (\d\d:?\d\d)$", r"\1+\2", text.strip()).replace(" ", "T", 1)
    text = re.sub(r"[zZ]$", "+00:00", text)
    # fromisoformat of Python 3.10 wants three or six digits.
    text = re.sub(r"\.(\d+)", lambda m: "." + m[1][:6].ljust(6, "0"), text)
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def run_time(text: str | None) -> str | None:
    """A stored moment as runs and steps show it: a blank, microseconds only if there are any."""
    return None if text is None else text.replace(".000000+", "+")


def job_time(text: str | None) -> str | None:
    """A stored moment as jobs, projects and environments show it: with ``T``."""
    shown = run_time(text)
    return None if shown is None else shown.replace(" ", "T")


def duration(seconds: float) -> str:
    """``HH:MM:SS``; hours do not roll over into days."""
    whole = max(0, int(seconds))
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def humanized(seconds: float, *, smallest: str = "minute") -> str:
    """The greatest two units of a duration in words, e.g. ``1 day, 36 seconds``."""
    rest = max(0, int(seconds))
    words = []
    for unit, size in _UNITS:
        count, rest = divmod(rest, size)
        if count:
            words.append(f"{count} {unit}{'' if count == 1 else 's'}")
        if unit == smallest:
            break
    return ", ".join(words[:2]) or f"0 {smallest}s"


def between(start: str | None, end: str | None, now: datetime) -> float:
    """Seconds from ``start`` to ``end`` (to ``now`` while there is no end); 0 without a start."""
    if start is None:
        return 0.0
    last = now if end is None else from_text(end)
    return max(0.0, (last - from_text(start)) / timedelta(seconds=1))


def listed(values: Iterable[str]) -> list[str]:
    """Read a list-valued parameter in any encoding that clients send, repeats merged.

    ``a,b``, ``["a","b"]``, ``['a']``, ``[a]`` and repeated parameters all work with dbt Cloud.
    """
    found: list[str] = []
    for value in values:
        for item in value.strip().strip("[]()").split(","):
            word = item.strip().strip("'\"").strip()
            if word and word not in found:
                found.append(word)
    return found


def whole_number(name: str, value: Any) -> int:
    """Raises: Refusal 400 naming the field."""
    try:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError(value)
        number = int(value)
        if abs(number) > LARGEST:
            raise ValueError(value)
        return number
    except (TypeError, ValueError):
        raise Refusal(
            400, f"{name}: a whole number is needed.", {name: ["A valid integer is required."]}
        ) from None


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    """An object, null being an empty one. Raises: Refusal 400 naming the field."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refusal(400, f"{name}: an object is needed.", {name: ["Expected a dictionary."]})
    return value


def truth(value: str) -> bool:
    return value.strip().lower() in {"1", "true", "yes", "t"}


def status_object(code: int, message: str = "Success!") -> dict[str, Any]:
    success = code < 400
    return {
        "code": code,
        "is_success": success,
        "user_message": message,
        "developer_message": "" if success else None,
    }


def envelope(data: Any, code: int = 200) -> dict[str, Any]:
    return {"status": status_object(code), "data": data}


def page(
    rows: Sequence[Any], *, total: int, filters: Mapping[str, Any], order_by: str
) -> dict[str, Any]:
    return {
        **envelope(list(rows)),
        "extra": {
            "filters": dict(filters),
            "order_by": order_by,
            "pagination": {"count": len(rows), "total_count": total},
        },
    }


def failure(refusal: Refusal) -> dict[str, Any]:
    return {"status": status_object(refusal.status, refusal.message), "data": refusal.data}
