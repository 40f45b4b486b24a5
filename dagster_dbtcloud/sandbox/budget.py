"""How many requests an account may make: so many a minute, then nothing for a while.

It counts and refuses; which account a request belongs to is known to ``routing.py``.
"""

from __future__ import annotations

import threading
from collections import deque

from dagster_dbtcloud.clock import Clock
from dagster_dbtcloud.sandbox.behaviour import Behaviour
from dagster_dbtcloud.sandbox.wire import Refusal

_MINUTE_SECONDS = 60.0


class Budget:
    """The budgets of all accounts (docs: dbt-apis/rate-limits). Safe to share between threads."""

    def __init__(self, clock: Clock, behaviour: Behaviour) -> None:
        self._clock = clock
        self._behaviour = behaviour
        self._lock = threading.Lock()
        self._recent: dict[int, deque[float]] = {}
        self._until: dict[int, float] = {}

    def spend(self, account_id: int) -> None:
        """Count a request.

        Raises: Refusal 429 for the one that is too many, and for all until the cool-down is over.
        """
        allowed = self._behaviour.requests_per_minute
        if allowed is None:
            return
        with self._lock:
            now = self._clock.monotonic()
            until = self._until.get(account_id, now)
            recent = self._recent.setdefault(account_id, deque())
            if until <= now:
                while recent and recent[0] <= now - _MINUTE_SECONDS:
                    recent.popleft()
                recent.append(now)
                if len(recent) <= allowed:
                    return
                recent.clear()
                until = self._until[account_id] = now + self._behaviour.cooldown_seconds
        seconds = str(max(1, round(until - now)))
        told = {"Retry-After": seconds} if self._behaviour.cooldown_retry_after else {}
        raise Refusal(429, "Too many requests.", headers=told)
