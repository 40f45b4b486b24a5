"""What a newer manifest has that the loaded code location has not, and the other way round.

It compares names, not code: a changed model is the same asset. Asking for a reload is for whoever
gives the sensor a function to call.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from hashlib import sha256

from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.translator import ASSET_TYPES, EPHEMERAL

_NAMED = 5


@dataclass(frozen=True)
class Drift:
    """The difference between production and this code location, by dbt's ``unique_id``.

    ``run_id`` is the dbt Cloud run whose manifest is the newer one. ``renamed`` holds pairs of old
    and new: the same code under another name.
    """

    run_id: int
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.renamed)

    def __str__(self) -> str:
        kinds = (
            ("added", self.added),
            ("removed", self.removed),
            ("renamed", [f"{old} to {new}" for old, new in self.renamed]),
        )
        parts = [
            f"{len(names)} {word} ({', '.join(names[:_NAMED])}{', …' * (len(names) > _NAMED)})"
            for word, names in kinds
            if names
        ]
        return (
            f"the dbt project has changed since this code location was loaded (dbt Cloud run "
            f"{self.run_id}): {', '.join(parts)}; reload the code location"
        )

    @property
    def digest(self) -> str:
        """A short text that is the same for the same difference, whatever the run."""
        words = repr((self.added, self.removed, self.renamed))
        return sha256(words.encode()).hexdigest()[:12] if self else ""


def compare(loaded: Manifest, newer: Manifest, *, run_id: int) -> Drift:
    """Return which assets came, went, or changed their name. Linear."""
    old, new = _assets(loaded), _assets(newer)
    gone, came = [key for key in old if key not in new], [key for key in new if key not in old]
    by_code: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for key in came:
        by_code[new[key]].append(key)
    renamed: list[tuple[str, str]] = []
    for key in gone:
        same = by_code.get(old[key], [])
        if old[key][1] and len(same) == 1:
            renamed.append((key, same.pop()))
    froms, tos = {key for key, _ in renamed}, {key for _, key in renamed}
    return Drift(
        run_id,
        tuple(sorted(key for key in came if key not in tos)),
        tuple(sorted(key for key in gone if key not in froms)),
        tuple(sorted(renamed)),
    )


def _assets(manifest: Manifest) -> dict[str, tuple[str, str]]:
    """Return each asset's type and the checksum of its code."""
    found: dict[str, tuple[str, str]] = {}
    for unique_id, node in manifest.nodes.items():
        if node.resource_type in ASSET_TYPES and not (
            node.materialized == EPHEMERAL or node.facts.is_external
        ):
            checksum = node.properties.get("checksum")
            code = checksum.get("checksum") if isinstance(checksum, dict) else None
            found[unique_id] = (node.resource_type, str(code or ""))
    return found
