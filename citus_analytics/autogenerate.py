"""What `alembic check` and `alembic revision --autogenerate` may compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

from citus_analytics.rollup import rollups_of
from citus_analytics.rollup_sql import RollupSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from alembic.runtime.environment import NameFilterParentNames, NameFilterType
    from sqlalchemy import MetaData


def without_machinery(
    metadata: MetaData,
) -> Callable[[str | None, NameFilterType, NameFilterParentNames], bool]:
    """Return an `include_name` hook that leaves out the tables of rollup functions.

    They belong to `create_rollup_function`, and no model declares them, so that Alembic would
    propose to drop them.
    """
    specs = [RollupSpec.of(rollup) for rollup in rollups_of(metadata)]
    machinery = {(spec.schema, name) for spec in specs for name in (spec.changes, spec.outcome)}

    def include_name(
        name: str | None, type_: NameFilterType, parents: NameFilterParentNames
    ) -> bool:
        return type_ != "table" or (parents["schema_name"], name) not in machinery

    return include_name
