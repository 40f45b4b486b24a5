"""When a request is tried again, and after how long: pure functions, the table of the design.

They neither wait nor ask for the time; the client does. Fact 21 of docs/dbt-cloud-api.md.

============================  ==================  ============================
failure                       GET, DELETE, cancel  other POST
============================  ==================  ============================
never sent                    again                again
sent, no answer               again                raised: it may have worked
429                           again                again: it was not carried out
5xx, unreadable answer        again                raised: it may have worked
any other answer              raised               raised
============================  ==================  ============================
"""

from __future__ import annotations

import enum
import math
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

# Seconds. After a 429 the door stays closed for five minutes, perhaps without a word (fact 21).
COOL_DOWN = 300.0
FIRST_RATE_LIMIT_WAIT = 30.0
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0
_SHORTEST_WAIT = 0.01  # below it the budget is spent: rounding could leave a rest for ever
_SPREAD = 0.25  # clients that failed together must not come back together


class Failure(enum.Enum):
    """What went wrong with one try, as far as trying again is concerned."""

    NEVER_SENT = "never sent"
    NO_ANSWER = "sent, no answer"
    RATE_LIMITED = "too many requests"
    SERVER = "an error of the server"
    UNREADABLE = "an unreadable answer"
    REFUSED = "refused"


SURELY_UNDONE = frozenset({Failure.NEVER_SENT, Failure.RATE_LIMITED})
_AGAIN_IF_REPEATABLE = SURELY_UNDONE | {Failure.NO_ANSWER, Failure.SERVER, Failure.UNREADABLE}


def of_status(status_code: int) -> Failure:
    """Return the kind of failure that an HTTP error status is."""
    if status_code == 429:
        return Failure.RATE_LIMITED
    if status_code == 408:
        return Failure.NO_ANSWER
    return Failure.SERVER if status_code >= 500 else Failure.REFUSED


def decide(
    failure: Failure,
    *,
    repeatable: bool,
    attempt: int,
    elapsed: float,
    retry_for: float,
    retry_after: float | None = None,
    jitter: float = 0.0,
) -> float | None:
    """Return the seconds to wait before the next try, or None to give up.

    ``repeatable``: doing it twice does no harm. ``attempt`` counts from 1. ``elapsed`` and
    ``retry_for`` are seconds: since the first try, and the budget of all tries together (the last
    wait is shortened to end with it). ``retry_after`` is the server's word in seconds. ``jitter``
    lies in [0, 1) and lengthens the wait by up to a quarter.
    """
    if failure not in (_AGAIN_IF_REPEATABLE if repeatable else SURELY_UNDONE):
        return None
    left = retry_for - elapsed
    if left < _SHORTEST_WAIT:
        return None
    doubled = 2.0 ** min(attempt - 1, 30)
    wait = min(_FIRST_WAIT * doubled, _LONGEST_WAIT)
    longest = _LONGEST_WAIT
    if retry_after is not None:
        # Never faster than our own pace: a server that always says 0 is not to be hammered.
        wait, longest = max(wait, retry_after), COOL_DOWN
    elif failure is Failure.RATE_LIMITED:
        wait, longest = FIRST_RATE_LIMIT_WAIT * doubled, COOL_DOWN
    wait = min(wait * (1 + _SPREAD * jitter), longest)
    return min(wait, left)


def parse_retry_after(text: str | None, *, now: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks for; None if it says nothing usable.

    Both forms are read, seconds (not milliseconds) and an HTTP date; a date in the past is 0.
    Source: https://www.rfc-editor.org/rfc/rfc9110#field.retry-after.
    """
    if text is None:
        return None
    text = text.strip()
    try:
        seconds = float(text)
    except ValueError:
        return _seconds_until(text, now)
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _seconds_until(text: str, now: datetime) -> float | None:
    try:
        when = parsedate_to_datetime(text)
        if when.tzinfo is None:
            when = when.replace(tzinfo=timezone.utc)
        return max(0.0, (when - now).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
