"""A manifest in a compact form: what every reader needs at hand, whole entries in packed blocks.

It knows how entries are kept, not what they mean (``manifest.py`` does), and no files: a packed
manifest is a ``bytes``. It is read as a whole or not at all, and only by the package that wrote it:
`read` refuses another form, and what was damaged on the way.
"""

from __future__ import annotations

import marshal
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from hashlib import sha256
from typing import Any

from dagster_dbtcloud.dbt.walk import Broken

FORM = 1
"""The number of the form; a change of anything that is written here takes the next one."""

_MAGIC = b"dbtcloud" + FORM.to_bytes(2, "big")
_LENGTH = 8  # bytes of a length
_DIGEST = 32  # bytes
_ENTRIES = 64  # to a block: a few hundred kB, so that one can be read without reading much
_CONFIGS = 1_024
_LEVEL = 1  # of zlib: the higher ones gain a tenth, at several times the time
_MARSHAL = 4  # read by all Pythons since 3.4

# marshal, as in __pycache__: twice as fast as JSON, and it keeps equal texts equal. Like
# __pycache__, the cache is only as safe as the folder it is in.


class Packer:
    """Takes the entries of a manifest one by one, keeping of each but its bytes."""

    def __init__(self) -> None:
        self._entries: list[bytes] = []
        self._configs: list[int] = []
        self._config_numbers: dict[bytes, int] = {}
        self._config_values: list[Any] = []
        self._ids: list[tuple[str, list[str]]] = []
        self._values: list[tuple[str, bytes]] = []

    @property
    def names(self) -> list[str]:
        """The top-level names so far."""
        return [name for name, _ in (*self._ids, *self._values)]

    def collection(self, name: str) -> None:
        """Begin a top-level collection; the entries that follow are its own."""
        self._ids.append((name, []))

    def entry(self, unique_id: str, entry: Mapping[str, Any]) -> int:
        """Take the next entry; return its number. Raises: Broken."""
        self._entries.append(_bytes(entry))
        self._ids[-1][1].append(unique_id)
        config = entry.get("config") or {}
        key = _bytes(config)
        number = self._config_numbers.setdefault(key, len(self._config_values))
        if number == len(self._config_values):
            self._config_values.append(config)
        self._configs.append(number)
        return len(self._entries) - 1

    def value(self, name: str, value: object) -> None:
        """Take a top-level value that is no collection of nodes. Raises: Broken."""
        self._values.append((name, _squeezed(value)))

    def packed(self, order: Iterable[int], head: Mapping[str, Any]) -> bytes:
        """Return all of it. ``order`` is how entries will be read: neighbours share a block.

        ``head`` is for ``Packed.head``; what it holds twice, it will hold once.
        """
        ordered = list(order)
        places = array("I", bytes(4 * len(ordered)))
        for place, number in enumerate(ordered):
            places[number] = place
        entries = [
            _squeezed([self._entries[number] for number in part])
            for part in _parts(ordered, _ENTRIES)
        ]
        configs = [_squeezed(part) for part in _parts(self._config_values, _CONFIGS)]
        index = _squeezed(
            {
                "head": head,
                "ids": self._ids,
                "places": places.tobytes(),
                "configs": array("I", self._configs).tobytes(),
                "blocks": [
                    list(map(len, entries)),
                    list(map(len, configs)),
                    [(name, len(data)) for name, data in self._values],
                ],
            }
        )
        parts = [index, *entries, *configs, *(data for _, data in self._values)]
        body = b"".join((len(index).to_bytes(_LENGTH, "big"), *parts))
        return b"".join((_MAGIC, sha256(body).digest(), body))


class Packed:
    """A packed manifest: its head at once, entries one at a time."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        at = len(_MAGIC) + _DIGEST
        length = int.from_bytes(data[at : at + _LENGTH], "big")
        at += _LENGTH
        index = _whole(data[at : at + length])
        at += length
        self.head: dict[str, Any] = index["head"]
        """What the packer was given, less what was taken from it."""
        self._ids: list[tuple[str, list[str]]] = index["ids"]
        self.places = array("I", index["places"])
        """Where the entry of a number is, among all entries; neighbours are read fastest."""
        self._config_numbers = array("I", index["configs"])
        entries, configs, values = index["blocks"]
        self._values: dict[str, tuple[int, int]] = {}
        entry_spans, at = _spans(entries, at)
        config_spans, at = _spans(configs, at)
        spans, at = _spans([size for _, size in values], at)
        self._values = {name: span for (name, _), span in zip(values, spans, strict=True)}
        # Neighbours are read one after the other, and parents with their children.
        self._entry_block = lru_cache(maxsize=16)(_reader(data, entry_spans))
        self._config_block = lru_cache(maxsize=4)(_reader(data, config_spans))
        self._last: tuple[int, dict[str, Any]] = (-1, {})

    def take(self, name: str) -> Any:
        """Return a part of the head, and keep it no longer."""
        return self.head.pop(name)

    def entry(self, number: int) -> dict[str, Any]:
        """Return an entry, whole; twice the same while no other is asked for."""
        last, entry = self._last
        if last != number:
            block, place = divmod(self.places[number], _ENTRIES)
            entry = marshal.loads(self._entry_block(block)[place])  # noqa: S302 - see above
            self._last = number, entry
        return entry

    def config(self, number: int) -> dict[str, Any]:
        """Return the config of an entry; entries with equal ones may share it."""
        block, place = divmod(self._config_numbers[number], _CONFIGS)
        config: dict[str, Any] = self._config_block(block)[place]
        return config

    @cached_property
    def raw(self) -> RawManifest:
        """The manifest as it was parsed, each part made when it is asked for."""
        return RawManifest(self)

    def names(self) -> list[str]:
        return [*(name for name, _ in self._ids), *self._values]

    def part(self, name: str) -> Any:
        """Return a top-level part. Raises: KeyError."""
        span = self._values.get(name)
        if span is not None:
            return _whole(self.data[slice(*span)])
        first = 0
        for collection, ids in self._ids:
            if collection == name:
                return Collection(self, ids, first)
            first += len(ids)
        raise KeyError(name)


class RawManifest(Mapping[str, Any]):
    """manifest.json as it was parsed, to look at: read-only, entries made anew when asked for."""

    def __init__(self, packed: Packed) -> None:
        self._packed = packed
        self._names = packed.names()
        self._known: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._known:
            self._known[name] = self._packed.part(name)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"<manifest.json: {', '.join(self._names)}>"


class Collection(Mapping[str, Any]):
    """The entries of one collection."""

    def __init__(self, packed: Packed, ids: Sequence[str], first: int) -> None:
        self._packed = packed
        self._numbers = {unique_id: number for number, unique_id in enumerate(ids, first)}

    def __getitem__(self, unique_id: str) -> dict[str, Any]:
        return self._packed.entry(self._numbers[unique_id])

    def __contains__(self, unique_id: object) -> bool:
        return unique_id in self._numbers

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


def read(data: bytes) -> Packed | None:
    """Return what was packed; None when it is damaged, or of another form."""
    start = len(_MAGIC) + _DIGEST
    if data[: len(_MAGIC)] != _MAGIC:
        return None
    if sha256(memoryview(data)[start:]).digest() != data[len(_MAGIC) : start]:
        return None
    return Packed(data)


def _squeezed(value: object) -> bytes:
    return zlib.compress(_bytes(value), _LEVEL)


def _bytes(value: Any) -> bytes:
    try:
        return marshal.dumps(value, _MARSHAL)
    except ValueError as bad:
        raise Broken from bad  # nested more deeply than anything that dbt writes


def _whole(data: bytes) -> Any:
    return marshal.loads(zlib.decompress(data))  # noqa: S302 - see above


def _parts(values: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _spans(sizes: Iterable[int], at: int) -> tuple[list[tuple[int, int]], int]:
    spans = []
    for size in sizes:
        spans.append((at, at + size))
        at += size
    return spans, at


def _reader(data: bytes, spans: Sequence[tuple[int, int]]) -> Any:
    def block(number: int) -> Any:
        return _whole(data[slice(*spans[number])])

    return block
