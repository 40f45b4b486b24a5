"""Tokens and what they may do, as data.

The permission sets are dbt Cloud's names; which action each allows follows the documentation of
enterprise permissions, approximately (the API has no table of its own).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Right = Literal["read", "run", "jobs", "settings", "webhooks"]

_READ: frozenset[Right] = frozenset({"read"})
_RUN: frozenset[Right] = frozenset({"read", "run"})
_JOBS: frozenset[Right] = frozenset({"read", "run", "jobs"})
_ALL: frozenset[Right] = frozenset({"read", "run", "jobs", "settings"})
_HOOKS: frozenset[Right] = frozenset({"webhooks"})

# docs: platform/manage-access/enterprise-permissions
PERMISSION_SETS: Mapping[str, frozenset[Right]] = {
    "owner": _ALL | _HOOKS,
    "account_admin": _ALL | _HOOKS,
    "admin": _ALL | _HOOKS,
    "member": _ALL | _HOOKS,
    "job_admin": _ALL,
    "job_creator": _JOBS,
    "job_runner": _RUN,
    "job_viewer": _READ,
    "account_viewer": _READ,
    "readonly": _READ,
    "stakeholder": _READ,
    "analyst": _READ,
    "developer": _READ | _HOOKS,
    "metadata_only": frozenset(),
    "semantic_layer_only": frozenset(),
    "webhooks_only": _HOOKS,
}


@dataclass(frozen=True)
class Token:
    """Who asks. ``project_ids`` None means all projects of the account."""

    id: int
    name: str
    account_id: int
    permission: str
    project_ids: tuple[int, ...] | None

    @classmethod
    def of(cls, doc: Mapping[str, Any]) -> Token:
        projects = doc["project_ids"]
        return cls(
            id=doc["id"],
            name=doc["name"],
            account_id=doc["account_id"],
            permission=doc["permission"],
            project_ids=None if projects is None else tuple(projects),
        )

    def may(self, right: Right) -> bool:
        return right in PERMISSION_SETS.get(self.permission, frozenset())

    def sees_project(self, project_id: int | None) -> bool:
        return self.project_ids is None or project_id in self.project_ids

    @property
    def actor(self) -> dict[str, Any]:
        return {"id": self.id, "type": "service_token", "name": self.name}


NOBODY = Token(id=0, name="nobody", account_id=0, permission="", project_ids=())


def secret_of(header: str | None) -> str | None:
    """The token of an Authorization header; ``Token`` and ``Bearer`` mean the same."""
    scheme, _, secret = (header or "").partition(" ")
    return secret.strip() or None if scheme.lower() in {"token", "bearer"} else None
