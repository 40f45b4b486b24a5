"""The one place that imports what Dagster does not export.

Reason: a code server, its run workers and its step processes each load the user's code. All must
see the same manifest, so the code server leaves a pointer that Dagster carries to the others as
"reconstruction metadata". Writing it has a public way (``with_reconstruction_metadata`` of
``Definitions``) that plain ``@dbt_cloud_assets`` definitions never pass through; reading it back
has none. Should the class move, `recall` finds nothing and each process asks dbt Cloud itself:
slower, and two processes may see two manifests while dbt Cloud gets a newer one.
"""

from __future__ import annotations

from typing import Any


def _context() -> Any | None:
    try:
        from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext
    except ImportError:
        return None
    return DefinitionsLoadContext.get() if DefinitionsLoadContext.is_set() else None


def recall(key: str) -> str | None:
    """Return what the code server remembered under ``key``; None in the code server itself."""
    context = _context()
    if context is None or context.load_type.value != "RECONSTRUCTION":
        return None
    value = context.reconstruction_metadata.get(key)
    return value if isinstance(value, str) else None


def remember(key: str, value: str) -> None:
    """Hand ``value`` to every process that will load this code location again."""
    context = _context()
    if context is not None:
        context.add_to_pending_reconstruction_metadata(key, value)
