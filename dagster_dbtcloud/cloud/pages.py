"""Walk a list that changes while it is read: no row skipped, none given twice.

It knows nothing of HTTP: it is given a function that fetches one page. Facts 7 and 31 of
docs/dbt-cloud-api.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

LARGEST_PAGE = 100  # rows; the service's limit (fact 7)

# How often a walk may be thrown back, or learn nothing new, before the server is to blame.
_MOST_STEPS_BACK = 100
_MOST_STALE_PAGES = 100
_FAR_AHEAD = 1_000  # pages; so many rows do not come in between two requests


class PagingError(Exception):
    """The server does not page as it should; the rows that are missing cannot be had."""


class _Row(Protocol):
    @property
    def id(self) -> int: ...


RowT = TypeVar("RowT", bound=_Row)


@dataclass(frozen=True)
class Page(Generic[RowT]):
    """Some rows of a list, and how many there are in all if the server tells."""

    rows: tuple[RowT, ...]
    total_count: int | None = None

    def ends_at(self, offset: int) -> bool | None:
        """Tell whether no rows follow this page; None if the count is missing or cannot be true."""
        reached = offset + len(self.rows)
        if self.total_count is None or self.total_count < reached:
            return None if self.rows else True
        return reached == self.total_count


Fetch = Callable[[Mapping[str, int]], Page[RowT]]


def by_id(fetch: Fetch[RowT], *, page_size: int, above: int | None = None) -> Iterator[RowT]:
    """Walk by ascending id with ``id__gt``: what comes or goes meanwhile moves no other row.

    Raises: PagingError if the server heeds neither ``id__gt`` nor the order.
    """
    last = above
    while True:
        mark = {} if last is None else {"id__gt": last}
        page = fetch({"limit": page_size, **mark})
        fresh = [row for row in page.rows if last is None or row.id > last]
        ended = not page.rows or page.ends_at(0)
        if not ended:
            ids = [row.id for row in page.rows]
            if not fresh:
                raise PagingError("the server does not heed 'id__gt'")
            if ids != sorted(ids):
                raise PagingError("the server does not heed 'order_by=id'")
        for row in {row.id: row for row in fresh}.values():
            last = row.id if last is None else max(last, row.id)
            yield row
        if ended:
            return


def by_offset(fetch: Fetch[RowT], *, page_size: int) -> Iterator[RowT]:
    """Walk by offset, in any order, each page overlapping the one before by a row.

    A page that shares no row with what was seen tells that rows before it vanished and others
    slipped past us: then the walk steps back. Rows pushed into view again are dropped by their id.

    Raises: PagingError if the list never settles, or the server does not heed ``offset``.
    """
    seen: set[int] = set()
    before: int | None = None
    offset = stale = steps_back = 0
    limit = max(2, page_size)
    overlapping = False
    while True:
        page = fetch({"limit": limit, "offset": offset})
        ids = tuple(row.id for row in page.rows)
        if overlapping and seen.isdisjoint(ids):
            steps_back += 1
            if steps_back > _MOST_STEPS_BACK:
                raise PagingError("the list changes faster than it can be read")
            offset = max(0, offset - page_size)
            overlapping, before = offset > 0, None
            continue

        known = len(seen)
        for row in page.rows:
            if row.id not in seen:
                seen.add(row.id)
                yield row
        if not ids:
            return
        stale = stale + 1 if len(seen) == known else 0
        if stale == _MOST_STALE_PAGES:
            raise PagingError("the list changes faster than it can be read")
        # The same start again may be chance, when rows came in before it; or the server is deaf.
        if ids[0] == before:
            probe = fetch({"limit": limit, "offset": offset + _FAR_AHEAD * limit})
            if probe.rows and probe.rows[0].id == before:
                raise PagingError("the server does not heed 'offset'")
        ended = page.ends_at(offset)
        if ended or (ended is None and len(ids) == 1 and stale > 0):
            return
        before = ids[0]
        overlapping = len(ids) > 1
        offset += len(ids) - 1 if overlapping else 1
        limit = min(page_size + 1, LARGEST_PAGE)
