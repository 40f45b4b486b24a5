"""Random selections over the words of a manifest, and manifests to compare it with; by seed.

They are made to be met, not to be sensible: names cut, globbed and misspelt, operators anywhere.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

from dagster_dbtcloud.dbt.manifest import Manifest

MODES = ["eager", "cautious", "buildable", "empty"]


class Generator:
    """One random selection after the other, over the words of ``manifest``."""

    def __init__(self, manifest: Manifest, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - cases, not secrets
        nodes = list(manifest.nodes.values())
        paths = {
            p
            for n in nodes
            for p in (n.original_file_path, n.original_file_path.rpartition("/")[0])
        }
        self.words = {
            "fqn": sorted({".".join(n.fqn[start:]) for n in nodes for start in range(len(n.fqn))}),
            "tag": sorted({tag for n in nodes for tag in n.tags}),
            "path": sorted(filter(None, paths)),
            "file": sorted({n.original_file_path.rpartition("/")[2] for n in nodes}),
            "package": ["zoo", "helper", "this"],
            "group": ["finance", "crm"],
            "access": ["private", "protected", "public"],
            "version": ["latest", "prerelease", "old", "none"],
            "test_type": ["generic", "schema", "singular", "data", "unit"],
            "test_name": sorted({n.test_metadata_name or n.name for n in nodes}),
            "resource_type": sorted({n.resource_type for n in nodes} - {"operation"}),
            "source": sorted(
                {f"{n.source_name}.{n.name}" for n in nodes if n.source_name}
                | {"raw", "raw_events"}
            ),
            **{
                kind: sorted({n.name for n in nodes if n.resource_type == kind})
                for kind in ("exposure", "metric", "semantic_model", "saved_query", "unit_test")
            },
            "config.materialized": ["view", "table", "incremental", "ephemeral", "seed", "test"],
            "config.severity": ["warn", "ERROR"],
            "config.meta.owner": ["core team", "ingest"][1:],
            "config.meta.critical": ["true", "false"],
            "config.tags": ["nightly", "core"],
        }

    def options(self) -> list[str]:
        """Return the arguments of one ``dbt ls``."""
        options: list[str] = []
        if self.random.random() < 0.9:
            options += ["--select", *self._union()]
        if self.random.random() < 0.4:
            options += ["--exclude", *self._union()]
        if self.random.random() < 0.6:
            options += ["--indirect-selection", self.random.choice(MODES)]
        return options

    def selectors(self, count: int) -> list[dict[str, Any]]:
        """Return ``count`` YAML selectors; later ones may refer to earlier ones."""
        made: list[dict[str, Any]] = []
        for number in range(count):
            earlier = [selector["name"] for selector in made]
            definition = self._definition(self.random.randint(0, 3), earlier)
            made.append({"name": f"s{number}", "definition": definition})
        return made

    def _union(self) -> list[str]:
        words = [",".join(self._criteria(self._few())) for _ in range(self._few())]
        return [" ".join(words)] if self.random.random() < 0.5 else words

    def _few(self) -> int:
        return self.random.choices([1, 2, 3], [6, 3, 1])[0]

    def _criteria(self, count: int) -> list[str]:
        criteria = [self._criterion() for _ in range(count)]
        return [self._misspelt(text) if self._rarely(0.1) else text for text in criteria]

    def _criterion(self) -> str:
        method, value = self._method_and_value()
        text = (
            value
            if method in ("fqn", "path", "file") and self._rarely(0.5)
            else f"{method}:{value}"
        )
        before = self.random.choices(["", "+", "1+", "2+", "0+", "@"], [8, 2, 1, 1, 0.3, 1])[0]
        after = self.random.choices(["", "+", "+1", "+2", "+0"], [8, 2, 1, 1, 0.3])[0]
        return f"{before}{text}{'' if before == '@' else after}"

    def _misspelt(self, text: str) -> str:
        """Put a sign where none belongs, or lose one; what then means a known difference, stays."""
        at = self.random.randrange(len(text))
        sign = self.random.choice("@+12:.?[]!/_^\\aA0")
        misspelt = text[:at] + self.random.choice([sign, sign + text[at], ""]) + text[at + 1 :]
        value = misspelt.rpartition(":")[2]
        if "test_type" in text or value.startswith("/") or not value.strip("./"):
            return text
        return misspelt

    def _method_and_value(self) -> tuple[str, str]:
        method = "fqn" if self._rarely(0.3) else self.random.choice(list(self.words))
        value = self.random.choice(self.words[method])
        if method in ("access", "version", "test_type", "resource_type"):
            return method, value  # dbt refuses other words
        if self._rarely(0.25):
            value = self._globbed(value, whole=method != "path")
        return method, value

    def _globbed(self, value: str, *, whole: bool) -> str:
        at = self.random.randrange(len(value) + 1)
        to = min(len(value), at + self.random.randint(0, 4))
        if not whole and "/" in value[at:to]:
            to = at
        glob = self.random.choice(["*", "*", "?", f"[{value[at : at + 1]}x]", "[!a]", "", "[", "]"])
        globbed = value[:at] + glob + value[to:]
        # A value that is no path to pathlib is refused; so is one of another form to fnmatch.
        return value if "**" in globbed or globbed.startswith("/") or not globbed else globbed

    def _definition(self, depth: int, earlier: list[str]) -> str | dict[str, Any]:
        roll = self.random.random()
        if depth and roll < 0.7:
            operation = self.random.choice(["union", "intersection"])
            members: list[Any] = [
                self._definition(depth - 1, earlier) for _ in range(self.random.randint(1, 3))
            ]
            if self._rarely(0.4):
                excluded = [self._definition(0, earlier) for _ in range(self._few())]
                members.insert(self.random.randrange(len(members) + 1), {"exclude": excluded})
            excluding = [m for m in members if isinstance(m, dict) and "exclude" in m]
            for member in excluding[1:]:  # dbt refuses a second one
                members.remove(member)
            return {operation: members}
        if earlier and roll > 0.9:
            return {"method": "selector", "value": self.random.choice(earlier)}
        if self._rarely(0.3):
            return self._criterion()
        method, value = self._method_and_value()
        if self._rarely(0.3):
            return {method: value}
        return self._mapping(method, value, earlier)

    def _mapping(self, method: str, value: str, earlier: list[str]) -> dict[str, Any]:
        definition: dict[str, Any] = {"method": method, "value": value}
        if self._rarely(0.3):
            definition["parents"] = True
            definition["parents_depth"] = self.random.choice([0, 1, 2, "1", "0"])
        if self._rarely(0.2):
            definition["childrens_parents"] = True
        elif self._rarely(0.3):
            definition["children"] = self.random.choice([True, True, False])
            definition["children_depth"] = self.random.choice([0, 1, 2, "1", "0"])
        if self._rarely(0.4):
            definition["indirect_selection"] = self.random.choice(MODES)
        if self._rarely(0.2):
            definition["exclude"] = [self._definition(0, earlier) for _ in range(self._few())]
        return definition

    def _rarely(self, probability: float) -> bool:
        return self.random.random() < probability


COLLECTIONS = [
    *("nodes", "nodes", "nodes", "sources", "exposures", "metrics", "semantic_models"),
    *("saved_queries", "unit_tests", "functions"),
]


def other_manifest(raw: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return a manifest as it may have been before: some nodes otherwise, some not there."""
    choose = random.Random(seed)  # noqa: S311 - cases, not secrets
    other: dict[str, Any] = copy.deepcopy(raw)
    for _ in range(choose.randint(3, 25)):
        entries = other[choose.choice(COLLECTIONS)]
        if not entries:
            continue
        unique_id = choose.choice(sorted(entries))
        if choose.random() < 0.1:
            entries.pop(unique_id)
        elif choose.random() < 0.8:
            _age(entries[unique_id], choose)
    for unique_id in choose.sample(sorted(other["macros"]), choose.choice([0, 0, 1])):
        other["macros"][unique_id]["macro_sql"] += " "
    if choose.random() < 0.3:
        project = [i for i in other["macros"] if i.split(".")[1] in ("zoo", "helper")]
        other["macros"].pop(choose.choice(project))
    return other


def _age(entry: dict[str, Any], choose: random.Random) -> None:
    """Change one thing of a node."""
    text = choose.choice(["was", "otherwise"])
    kind = entry["resource_type"]
    changes: list[Callable[[], object]] = [
        lambda: entry.update(description=text),
        lambda: entry["fqn"].insert(1, text),
        lambda: entry.update(label=text) if "label" in entry else None,
        lambda: (
            entry["unrendered_config"].update({choose.choice(CONFIGS): text})
            if "unrendered_config" in entry
            else None
        ),
        lambda: entry["unrendered_config"].clear() if "unrendered_config" in entry else None,
    ]
    if "raw_code" in entry:
        changes += [lambda: entry.update(raw_code=text)] * 2
        changes.append(lambda: [c.update(description=text) for c in entry["columns"].values()])
    if "checksum" in entry and isinstance(entry["checksum"], dict):
        changes.append(lambda: entry["checksum"].update(checksum=text))
    elif "checksum" in entry:
        changes.append(lambda: entry.update(checksum=text))
    if kind == "model":
        changes += [
            lambda: entry.update(access=choose.choice(["public", "private"])),
            lambda: entry.update(latest_version=7),
            lambda: entry["contract"].update(checksum=text),
            # To break the contract of a version is an error to dbt, and ends its answer.
            lambda: (
                entry["contract"].update(enforced=not entry["contract"]["enforced"])
                if entry["version"] is None
                else None
            ),
        ]
    if kind == "source":
        changes += [
            lambda: entry.update({choose.choice(["database", "schema", "identifier"]): text}),
            lambda: entry.update(loaded_at_field=text),
            lambda: entry["quoting"].update(schema=True),
        ]
    if kind == "exposure":
        changes += [
            lambda: entry.update(url=text),
            lambda: entry["owner"].update(name=text),
            lambda: entry["depends_on"]["nodes"].pop(),
            lambda: entry["depends_on"]["nodes"].reverse(),
        ]
    if kind == "semantic_model":
        changes += [lambda: entry.update(primary_entity=text), lambda: entry["entities"].clear()]
        changes.append(lambda: entry["config"]["meta"].update(owner=text))
    if kind == "saved_query":
        changes += [
            lambda: entry["query_params"].update(metrics=[]),
            lambda: entry["exports"].clear(),
            lambda: entry["exports"][0].update(name=text) if entry["exports"] else None,
            lambda: entry.update(tags=[text]),
        ]
    if kind == "function":
        changes += [
            lambda: entry["arguments"].clear(),
            lambda: entry["returns"].update(data_type=text),
        ]
    choose.choice(changes)()


CONFIGS = [
    *("materialized", "alias", "schema", "tags", "meta", "group", "severity", "where", "enabled"),
    *("post-hook", "unheard_of"),
]
