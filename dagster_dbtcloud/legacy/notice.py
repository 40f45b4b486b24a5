"""The word that there is a better way, once for each name in a process."""

import warnings

told: set[str] = set()


def deprecated(name: str, instead: str, *, stacklevel: int = 3) -> None:
    """Say once in a process that there is a better way."""
    if name not in told:
        told.add(name)
        warnings.warn(
            f"dagster_dbtcloud.legacy.{name} is kept for those who come from dagster-dbt. Use "
            f"{instead}; docs/migration.md shows how.",
            DeprecationWarning,
            stacklevel=stacklevel,
        )
