"""How the rollups of a database become those that are declared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from alembic.operations import MigrateOperation

from citus_analytics.migrations.operations import (
    CreateRollupFunctionOp,
    DropRollupFunctionOp,
    ReplaceRollupFunctionOp,
)
from citus_analytics.migrations.operations.rollup import LASTING
from citus_analytics.rollups.sql import LATEST_VERSION
from citus_analytics.sql import logger

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from citus_analytics.catalog import CatalogRollup
    from citus_analytics.migrations.diff.state import Declared, Live, TableKey
    from citus_analytics.rollups.sql import RollupSpec


@dataclass(frozen=True, slots=True)
class RollupChanges:
    """What is done before the tables change, and after.

    Attributes:
        first: Rollups that are dropped.
        last: Rollups that are created or replaced.
    """

    first: list[MigrateOperation] = field(default_factory=list)
    last: list[MigrateOperation] = field(default_factory=list)


def change_rollups(declared: Declared, live: Live, changed: AbstractSet[TableKey]) -> RollupChanges:
    """Return what brings the rollups to what is declared.

    The tables in `changed` are distributed differently from now on, or dropped. A change log joins
    the shards of its source when it is created: their rollups are created anew.
    """
    changes = RollupChanges()
    wanted = {(spec.schema, spec.target): spec for spec in declared.rollups}
    for key, found in live.rollups.items():
        spec = wanted.pop(key, None)
        if found.version > LATEST_VERSION:
            logger().warning(
                "rollup %s has version %s, of a later release of citus_analytics; this one leaves "
                "it alone",
                found.spec.function,
                found.version,
            )
        elif _goes(spec, found, declared, changed):
            changes.first.append(DropRollupFunctionOp(found.spec, found.version))
            changes.last.extend(_create(spec))
        elif spec is not None:
            changes.last.extend(_replace(spec, found))
    for spec in wanted.values():
        changes.last.extend(_create(spec))
    return changes


def _goes(
    spec: RollupSpec | None,
    found: CatalogRollup,
    declared: Declared,
    changed: AbstractSet[TableKey],
) -> bool:
    """Whether a rollup of the database cannot stay, as it is or replaced."""
    schema = found.spec.schema
    if not changed.isdisjoint([(schema, found.spec.source), (schema, found.spec.target)]):
        return True
    if spec is None:
        # Other applications may have rollups of their own in the database.
        return (schema, found.spec.source) in declared.tables
    return any(getattr(spec, name) != getattr(found.spec, name) for name in LASTING)


def _create(spec: RollupSpec | None) -> list[MigrateOperation]:
    return [] if spec is None else [CreateRollupFunctionOp(spec, LATEST_VERSION)]


def _replace(spec: RollupSpec, found: CatalogRollup) -> list[MigrateOperation]:
    if spec == found.spec and found.version == LATEST_VERSION and not found.faults:
        return []
    operation = ReplaceRollupFunctionOp(
        spec, LATEST_VERSION, found.spec, found.version, faults=found.faults
    )
    return [operation]
