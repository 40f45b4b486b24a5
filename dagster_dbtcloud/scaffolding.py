"""What `dg scaffold defs dagster_dbtcloud.DbtCloudComponent` writes: YAML or Python that works.

It knows the component by name only, and asks dbt Cloud nothing.
"""

# No `from __future__ import annotations`: pydantic reads the annotations as objects.

from typing import Any

import dagster as dg
from dagster.components import scaffold_component
from pydantic import BaseModel, Field

from dagster_dbtcloud.workspace import DEFAULT_ACCESS_URL


class DbtCloudScaffoldParams(BaseModel):
    """The options of ``dg scaffold defs dagster_dbtcloud.DbtCloudComponent``.

    What is left out is read from the environment when the component is loaded. There is no option
    for the token: it would stay in the shell's history and in the file.
    """

    account_id: str | None = Field(default=None, description="The account: its id or name.")
    project_id: str | None = Field(default=None, description="The project: its id or name.")
    environment_id: str | None = Field(
        default=None, description="The environment: its id or name. Default: production."
    )
    access_url: str | None = Field(default=None, description="The address of your dbt Cloud.")
    select: str | None = Field(default=None, description="Which dbt nodes, in dbt's words.")


class DbtCloudScaffolder(dg.Scaffolder[DbtCloudScaffoldParams]):
    """Writes a component that works as it stands, with the token from the environment."""

    @classmethod
    def get_scaffold_params(cls) -> type[DbtCloudScaffoldParams]:
        return DbtCloudScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[DbtCloudScaffoldParams]) -> None:
        given = request.params
        if request.scaffold_format == "python":
            path = request.target_path / "component.py"
            path.write_text(_python(given), encoding="utf-8")
            return
        workspace: dict[str, object] = {
            "account_id": _plain(given.account_id) or "{{ env.DBT_CLOUD_ACCOUNT_ID }}",
            "token": "{{ env.DBT_CLOUD_TOKEN }}",
            "access_url": given.access_url
            or f"{{{{ env('DBT_CLOUD_ACCESS_URL', '{DEFAULT_ACCESS_URL}') }}}}",
            "project_id": _plain(given.project_id) or "{{ env.DBT_CLOUD_PROJECT_ID }}",
        }
        if given.environment_id:
            workspace["environment_id"] = _plain(given.environment_id)
        attributes: dict[str, Any] = {"workspace": workspace}
        if given.select:
            attributes["select"] = given.select
        scaffold_component(request, attributes)


_PYTHON = """{imports}import dagster as dg
from dagster_dbtcloud import DbtCloudComponent, DbtCloudWorkspace


@dg.component_instance
def load(context: dg.ComponentLoadContext) -> DbtCloudComponent:
    return DbtCloudComponent(
        workspace=DbtCloudWorkspace(
{workspace}
        ),{select}
    )
"""


def _python(given: DbtCloudScaffoldParams) -> str:
    values = {
        "account_id": _argument(given.account_id, "DBT_CLOUD_ACCOUNT_ID"),
        "token": _argument(None, "DBT_CLOUD_TOKEN"),
        "access_url": repr(given.access_url)
        if given.access_url
        else f'os.getenv("DBT_CLOUD_ACCESS_URL", "{DEFAULT_ACCESS_URL}")',
        "project_id": _argument(given.project_id, "DBT_CLOUD_PROJECT_ID"),
    }
    if given.environment_id:
        values["environment_id"] = _argument(given.environment_id, "")
    return _PYTHON.format(
        imports="" if given.access_url else "import os\n\n",
        workspace="\n".join(f"            {name}={value}," for name, value in values.items()),
        select=f"\n        select={given.select!r}," if given.select else "",
    )


def _argument(text: str | None, variable: str) -> str:
    return repr(_plain(text)) if text else f'dg.EnvVar("{variable}")'


def _plain(text: str | None) -> int | str | None:
    return int(text) if text and text.isascii() and text.isdigit() else text
