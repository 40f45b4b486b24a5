"""Read the console log of a dbt step: which node started or ended, and how.

It takes lines that are new (``tail.py`` finds them in a growing text) and says of each node exactly
one unique id or none: what two nodes could be called waits for the artifact. It does not know
Dagster. The formats are those of dbt v1 and of dbt v2 (Fusion): docs/dbt-cloud-api.md.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from dagster_dbtcloud.dbt.manifest import Manifest, Node

_LONGEST_LINE = 4_000  # characters; no node's line is longer, and others cost nothing
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

_LINE_V1 = re.compile(
    r"\d\d:\d\d:\d\d(?:\.\d+)? +"
    r"(?:\[\w+ *\] ?(?:\[[^\]]*\]:?)? +)?"  # level and thread, in debug logs
    r"(?P<index>\d{1,7}) of (?P<total>\d{1,7}) (?P<message>\S.*?) \.* \[(?P<status>[^\[\]]+)\] *"
)
_TIMED = re.compile(r"(?P<word>.+) in (?P<seconds>\d{1,9}\.\d\d)s")
_MESSAGE_V1 = re.compile(
    r"(?P<verb>START|OK created|OK snapshotted|OK loaded|PARTIALLY created"
    r"|ERROR creating|ERROR snapshotting|ERROR loading|ERROR STALE|ERROR"
    r"|PASS|WARN(?= \d| freshness)|FAIL(?= \d)|SKIP relation|SKIP|NO-OP)"
    r"(?: (?P<count>\d+)(?= ))? (?P<what>.+?)"
    r"(?: due to ephemeral model status '[\w ]+')?"
)
_WHAT_V1 = re.compile(
    r"(?:\w+ \S+ (?P<model>model)|seed (?P<seed>file)|(?P<snapshot>snapshot)"
    r"|(?P<function>function)|(?P<unit_test>unit_test)|(?:data_)?(?P<test>test)"
    r"|(?P<exposure>exposure)|saved[ _](?P<saved_query>query)|(?P<source>freshness of)) "
    r"(?P<name>.+)"
)
_LINE_V2 = re.compile(
    r"(?:\d\d:\d\d:\d\d(?:\.\d+)? +)? *"
    r"(?P<action>Succeeded|Warned|Failed|Passed|Skipped|Reused) "
    r"\[ *(?:(?P<seconds>\d{1,9}\.\d\d)s|-{7}|>24h) *\] "
    r"(?P<kind>\w+) +(?P<name>\S+)(?: \((?P<note>.*)\))? *"
)
_START_V2 = re.compile(r"(?:\d\d:\d\d:\d\d(?:\.\d+)? +)? *Started (?P<kind>\w+) (?P<name>\S+) *")

_STATUS_V1 = {
    "OK created": "success",
    "OK snapshotted": "success",
    "OK loaded": "success",
    "PARTIALLY created": "partial success",
    "ERROR creating": "error",
    "ERROR snapshotting": "error",
    "ERROR loading": "error",
    "ERROR STALE": "error",
    "ERROR": "error",
    "PASS": "pass",
    "WARN": "warn",
    "FAIL": "fail",
    "SKIP relation": "skipped",
    "SKIP": "skipped",
    "NO-OP": "no-op",
}
_STATUS_V2 = {
    "Succeeded": "success",
    "Warned": "warn",
    "Failed": "error",
    "Passed": "pass",
    "Skipped": "skipped",
    "Reused": "reused",
}
_TESTS = ("test", "unit_test")
_RELATIONS = ("model", "seed", "snapshot")


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """A node started or ended, as one line of the log says.

    ``unique_id`` is None when the line fits no node of the manifest, or more than one. ``status``
    is the word that run_results.json will have; None at a start, and where the log does not tell
    (a test that failed in dbt v2 may have failed or not run). ``seconds`` and ``failures`` (rows)
    are None where the line has none. ``index`` of ``total`` is dbt v1's order of scheduling.
    """

    unique_id: str | None
    finished: bool
    status: str | None
    description: str
    index: int | None = None
    total: int | None = None
    seconds: float | None = None
    failures: int | None = None


class StepLog:
    """The reader of one step's log: feed it the new lines, in order.

    A node is reported as started once and as finished once; lines that come again, as they do when
    a sliding window is read, give nothing. ``schema_override`` says that the run writes to other
    schemas than the manifest's: then an alias that only one node has will do.
    """

    def __init__(self, manifest: Manifest, *, schema_override: bool = False) -> None:
        self.total: int | None = None
        self._names = _names_in(manifest)
        self._schema_override = schema_override
        self._started: dict[int, str] = {}
        self._ended: dict[int, str] = {}
        self._seen: set[tuple[str, bool]] = set()
        self._finished = 0

    @property
    def finished(self) -> int:
        """How many nodes have ended so far, those without a unique id too."""
        return self._finished

    def feed(self, lines: Iterable[str]) -> list[NodeEvent]:
        """Return what the lines say; never raises, whatever they are."""
        return [event for line in lines if (event := self._event(line)) is not None]

    def _event(self, line: str) -> NodeEvent | None:
        if len(line) > _LONGEST_LINE:
            return None
        text = _ANSI.sub("", line).rstrip("\r\n")
        event = self._event_v1(text) or self._event_v2(text)
        if event is None:
            return None
        key = event.unique_id or f"{event.index}: {event.description}"
        if (key, True) in self._seen or (key, event.finished) in self._seen:
            return None
        self._seen.add((key, event.finished))
        self._finished += event.finished
        return event

    def _event_v1(self, text: str) -> NodeEvent | None:
        line = _LINE_V1.fullmatch(text)
        message = line and _MESSAGE_V1.fullmatch(line["message"])
        if line is None or message is None:
            return None
        index, total = int(line["index"]), int(line["total"])
        if not 1 <= index <= total or (message["what"].startswith("hook: ")):
            return None
        # dbt counts to one total in a step; another number is some other text.
        if self.total not in (None, total):
            return None
        verb, what = message["verb"], message["what"]
        timed = _TIMED.fullmatch(line["status"])
        if verb == "START":
            if line["status"] != "RUN":
                return None
        elif timed is None and not verb.startswith("SKIP"):
            return None  # cut, or not dbt's
        kinds, name = _kinds_and_name(verb, what)
        if not kinds:
            return None
        self.total = total
        unique_id = self._find(kinds, name, skipped=verb.startswith("SKIP"))
        if verb == "START":
            if index in self._ended:
                return None  # the window slid back
            if self._started.setdefault(index, name) != name:
                return None
            return NodeEvent(unique_id, False, None, what, index, total)
        if self._ended.setdefault(index, name) != name:
            return None
        if self._started.get(index, name) != name:
            unique_id = None  # two texts claim one place in dbt's order: neither is believed
        return NodeEvent(
            unique_id,
            True,
            "runtime error" if verb == "ERROR" and kinds == ("source",) else _STATUS_V1[verb],
            what,
            index,
            total,
            float(timed["seconds"]) if timed else None,
            int(message["count"]) if message["count"] and verb in ("WARN", "FAIL") else None,
        )

    def _event_v2(self, text: str) -> NodeEvent | None:
        start = _START_V2.fullmatch(text)
        line = start or _LINE_V2.fullmatch(text)
        if line is None:
            return None
        kind, name = _KINDS_V2.get(line["kind"]), line["name"]
        if kind is None:
            return None
        # A name that was too long has lost its middle.
        unique_id = None if "..." in name else self._find((kind,), name)
        description = f"{line['kind']} {name}"
        if start is not None:
            return NodeEvent(unique_id, False, None, description)
        status: str | None = _STATUS_V2[line["action"]]
        if line["action"] == "Failed" and kind in _TESTS:
            status = None
        seconds = float(line["seconds"]) if line["seconds"] else None
        return NodeEvent(unique_id, True, status, description, seconds=seconds)

    def _find(self, kinds: tuple[str, ...], name: str, *, skipped: bool = False) -> str | None:
        """Return the only node of these types that is called ``name``."""
        names = self._names
        found = (names.skipped if skipped else names.nodes).of(kinds, name)
        if not found and self._schema_override and not skipped:
            found = names.aliases.of(kinds, name.rpartition(".")[2])
        return found.pop() if len(found) == 1 else None


_KINDS_V2 = {
    **{kind: kind for kind in (*_RELATIONS, *_TESTS, "function", "exposure", "saved_query")},
    "data_test": "test",
    "unit": "unit_test",
}


def _kinds_and_name(verb: str, what: str) -> tuple[tuple[str, ...], str]:
    """Return the types that a v1 description can be of, and the name in it; none if it is none."""
    if verb == "SKIP relation":
        return _RELATIONS, what
    if verb in ("OK snapshotted", "ERROR snapshotting"):
        return ("snapshot",), what
    described = _WHAT_V1.fullmatch(what)
    if verb == "SKIP":
        kind, _, name = what.partition(" ")
        return ((kind,), name) if kind in _KINDS_V2 and name else ((), "")
    if described is not None:
        kinds = tuple(kind for kind, found in described.groupdict().items() if found)
        return kinds[:1], described["name"]
    # A test's result line has the bare name.
    bare = verb in ("PASS", "WARN", "FAIL", "ERROR") and " " not in what
    return (_TESTS, what) if bare else ((), "")


class _Table:
    """Nodes by type and name."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str], list[str]] = defaultdict(list)

    def add(self, node: Node, name: str) -> None:
        self._ids[node.resource_type, name].append(node.unique_id)

    def of(self, kinds: Iterable[str], name: str) -> set[str]:
        return {unique_id for kind in kinds for unique_id in self._ids.get((kind, name), ())}


class _Names:
    """Every text by which a log may call a node, and the nodes it may mean."""

    def __init__(self, manifest: Manifest) -> None:
        self.nodes, self.skipped, self.aliases = _Table(), _Table(), _Table()
        for node in manifest.nodes.values():
            for name in _names_of(node):
                self.nodes.add(node, name)
            self.skipped.add(node, _name_when_skipped(node))
            if node.resource_type in (*_RELATIONS, "function"):
                self.aliases.add(node, node.alias or node.name)


_names: WeakKeyDictionary[Manifest, _Names] = WeakKeyDictionary()


def _names_in(manifest: Manifest) -> _Names:
    """Return the names in the manifest, made once for all its steps."""
    if manifest not in _names:
        _names[manifest] = _Names(manifest)
    return _names[manifest]


def _names_of(node: Node) -> Iterator[str]:
    kind = node.resource_type
    if kind in (*_RELATIONS, "function"):
        # dbt leaves out the database when it is the connection's own; who knows which that is.
        short = f"{node.schema_}.{node.alias or node.name}"
        yield short
        yield f"{node.database}.{short}"
    elif kind == "unit_test":
        version = "" if node.version is None else f"_v{node.version}"
        yield f"{node.properties.get('model')}::{node.name}{version}"
    elif kind == "source":
        yield f"{node.source_name}.{node.name}"
    else:
        yield node.name
        if kind == "test" and node.alias and node.config.get("store_failures"):
            yield f"{node.schema_}.{node.alias}"


def _name_when_skipped(node: Node) -> str:
    """Skipped nodes are called by their name, where others are by their alias."""
    return f"{node.schema_}.{node.name}" if node.resource_type in _RELATIONS else node.name
