"""Walking lists that change while they are read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_dbtcloud.cloud.pages import Page, PagingError, by_id, by_offset
from dagster_dbtcloud_tests.cloud.fakes import REPEATABLY


@dataclass(frozen=True)
class Row:
    id: int


@dataclass
class Table:
    """A list on a server; ``meanwhile`` changes it before each request but the first."""

    ids: list[int]
    descending: bool = False
    totals: bool | int = True
    largest_page: int = 100
    meanwhile: Callable[[Table], object] = id
    deaf_to: str = ""
    requests: list[dict[str, int]] = field(default_factory=list)

    def fetch(self, place: Mapping[str, int]) -> Page[Row]:
        if self.requests:
            self.meanwhile(self)
        self.requests.append(dict(place))
        heard = {key: value for key, value in place.items() if key != self.deaf_to}
        ids = sorted(self.ids, reverse=self.descending)
        ids = [id for id in ids if id > heard.get("id__gt", -1)]
        start = heard.get("offset", 0)
        page = ids[start : start + min(heard["limit"], self.largest_page)]
        count = self.totals if type(self.totals) is int else len(ids) if self.totals else None
        return Page(tuple(Row(id) for id in page), count)


def walk(rows: Iterator[Row]) -> list[int]:
    return [row.id for row in rows]


WALKS = (by_id, by_offset)


@pytest.mark.parametrize("walker", WALKS)
@pytest.mark.parametrize("totals", [True, False])
@pytest.mark.parametrize("largest_page", [100, 7, 1])
@pytest.mark.parametrize("length", [0, 1, 2, 9, 10, 11, 19, 20, 21, 55])
def test_every_row_once(
    walker: Callable[..., Iterator[Row]], totals: bool, largest_page: int, length: int
) -> None:
    """Whether the server counts or not, and if its pages are smaller than asked for."""
    table = Table(list(range(1, length + 1)), totals=totals, largest_page=largest_page)
    assert walk(walker(table.fetch, page_size=10)) == table.ids


@pytest.mark.parametrize(
    ("taken", "requests"), [(0, 0), (1, 1), (10, 1), (11, 2), (20, 2), (21, 3)]
)
def test_pages_are_fetched_as_they_are_taken(taken: int, requests: int) -> None:
    """The first n rows by id cost n / page_size requests, rounded up."""
    table = Table(list(range(1, 100)))
    assert len(list(itertools.islice(by_id(table.fetch, page_size=10), taken))) == taken
    assert len(table.requests) == requests


@pytest.mark.parametrize("walker", WALKS)
@pytest.mark.parametrize("totals", [2, 9])
def test_a_count_that_cannot_be_true_ends_nothing(
    walker: Callable[..., Iterator[Row]], totals: int
) -> None:
    """Fewer rows in all than on this page: the walk goes on to an empty page."""
    table = Table(list(range(1, 36)), totals=totals)
    assert walk(walker(table.fetch, page_size=10)) == table.ids


def test_a_whole_walk_costs_no_request_too_many() -> None:
    """The count tells that the last page was the last."""
    table = Table(list(range(1, 21)))
    walk(by_id(table.fetch, page_size=10))
    assert table.requests == [{"limit": 10}, {"limit": 10, "id__gt": 10}]


def test_a_walk_starts_above_an_id() -> None:
    """Rows up to it are left out, even by a server that does not know the filter."""
    table = Table([1, 2, 3, 4])
    assert walk(by_id(table.fetch, page_size=10, above=2)) == [3, 4]
    deaf = Table([1, 2, 3, 4], deaf_to="id__gt")
    assert walk(by_id(deaf.fetch, page_size=10, above=2)) == [3, 4]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("page_size", [1, 2, 3, 10])
def test_rows_that_vanish_hide_no_others(descending: bool, page_size: int) -> None:
    """The walk by offset steps back when what it stood on is gone."""

    def drop_three(table: Table) -> None:
        seen = sorted(table.ids, reverse=descending)[:3]
        if len(table.requests) == 2:
            table.ids = [id for id in table.ids if id not in seen]

    table = Table(list(range(1, 41)), descending=descending, meanwhile=drop_three)
    walked = walk(by_offset(table.fetch, page_size=page_size))
    assert len(walked) == len(set(walked))
    assert set(walked) >= set(table.ids)


@pytest.mark.parametrize("arriving", [1, 5, 10, 25])
def test_rows_that_arrive_repeat_no_others(arriving: int) -> None:
    """Newest first, new runs push the old ones on: met again, given once."""
    fresh = itertools.count(1000)

    def arrive(table: Table) -> None:
        if len(table.requests) < 4:
            table.ids += [next(fresh) for _ in range(arriving)]

    table = Table(list(range(1, 41)), descending=True, meanwhile=arrive)
    walked = walk(by_offset(table.fetch, page_size=10))
    assert len(walked) == len(set(walked))
    assert set(walked) >= set(range(1, 41))


def test_a_list_that_vanishes_ends() -> None:
    """All rows gone between two pages."""
    table = Table(list(range(1, 41)), meanwhile=lambda table: table.ids.clear())
    assert walk(by_offset(table.fetch, page_size=10)) == list(range(1, 11))


@REPEATABLY
@given(
    st.sets(st.integers(1, 60), max_size=40),
    st.lists(
        st.tuples(st.sets(st.integers(1, 60), max_size=8), st.integers(0, 3)),
        max_size=12,
    ),
    st.integers(1, 12),
    st.booleans(),
    st.booleans(),
    st.sampled_from(WALKS),
)
def test_rows_that_stay_are_met_exactly_once(
    ids: set[int],
    changes: list[tuple[set[int], int]],
    page_size: int,
    descending: bool,
    totals: bool,
    walker: Callable[..., Iterator[Row]],
) -> None:
    """Whatever goes away or arrives at the end between requests, in either order."""
    script = iter(changes)
    fresh = itertools.count(1000)
    gone: set[int] = set()

    def meanwhile(table: Table) -> None:
        going, arriving = next(script, (set(), 0))
        gone.update(going)
        table.ids = [id for id in table.ids if id not in going]
        table.ids += [next(fresh) for _ in range(arriving)]

    table = Table(
        list(ids),
        descending=descending and walker is by_offset,
        totals=totals,
        meanwhile=meanwhile,
    )
    walked = walk(walker(table.fetch, page_size=page_size))
    assert len(walked) == len(set(walked))
    assert set(walked) >= ids - gone


@pytest.mark.parametrize("totals", [True, False])
@pytest.mark.parametrize("length", [11, 15, 25, 150])
def test_a_server_that_ignores_the_offset_is_told(totals: bool, length: int) -> None:
    """Not for ever the first page, and no rows left out in silence."""
    table = Table(list(range(1, length + 1)), totals=totals, deaf_to="offset")
    with pytest.raises(PagingError, match="offset"):
        walk(by_offset(table.fetch, page_size=10))
    assert len(table.requests) < 10


def test_a_server_that_ignores_the_offset_of_a_single_page_is_fine() -> None:
    """There is nothing to ignore."""
    table = Table([1, 2, 3], deaf_to="offset")
    assert walk(by_offset(table.fetch, page_size=10)) == [1, 2, 3]


@pytest.mark.parametrize("totals", [True, False])
def test_a_server_that_ignores_the_id_filter_is_told(totals: bool) -> None:
    """The second page would be the first again."""
    table = Table(list(range(1, 31)), totals=totals, deaf_to="id__gt")
    with pytest.raises(PagingError, match="id__gt"):
        walk(by_id(table.fetch, page_size=10))


def test_a_server_that_ignores_the_order_is_told() -> None:
    """The highest id of a page would hide all below it."""
    table = Table(list(range(1, 31)), descending=True)
    with pytest.raises(PagingError, match="order_by"):
        walk(by_id(table.fetch, page_size=10))


def test_a_list_that_never_settles_is_told() -> None:
    """Each request finds other rows than the one before."""
    fresh = itertools.count(1000, 100)

    def replace(table: Table) -> None:
        start = next(fresh)
        table.ids = list(range(start, start + 40))

    table = Table(list(range(1, 41)), meanwhile=replace)
    with pytest.raises(PagingError, match="faster than it can be read"):
        walk(by_offset(table.fetch, page_size=10))
