"""The rollups of a database, and whether their machinery is whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from citus_analytics.errors import DeclarationError
from citus_analytics.rollups.sql import RollupSpec, Shape, read_description, render

if TYPE_CHECKING:
    from sqlalchemy import Connection

_DESCRIPTIONS: Final = text("""
SELECT n.nspname AS schema, d.description
FROM pg_catalog.pg_proc AS p
JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_description AS d
  ON d.classoid = 'pg_catalog.pg_proc'::regclass AND d.objoid = p.oid AND d.objsubid = 0
WHERE d.description LIKE 'Rollup of citus\\_analytics,%'
ORDER BY n.nspname, p.proname
""")
_FUNCTIONS: Final = text("""
SELECT p.proname, p.prosrc
FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname = :schema AND p.proname = ANY(CAST(:names AS text[]))
""")
# What fires in an ordinary session.
_TRIGGERS: Final = text("""
SELECT c.relname, t.tgname
FROM pg_catalog.pg_trigger AS t
JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = :schema AND t.tgname = ANY(CAST(:names AS text[])) AND t.tgenabled IN ('O', 'A')
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogRollup:
    """A rollup as the catalogs have it.

    Attributes:
        spec: What it was created from, its schema named also where the search path would find it.
        version: The version of its SQL.
        faults: What of its machinery is missing, disabled or changed, in words; empty if all of it
            is as it was created, or if this release does not know the version.
    """

    spec: RollupSpec
    version: int
    faults: tuple[str, ...]


def rollups(connection: Connection) -> tuple[CatalogRollup, ...]:
    """Return the rollups of a database, ordered by schema and name.

    A rollup is known by the description that its function `<target>_run` carries.
    """
    found = (
        read_description(row.description, schema=row.schema)
        for row in connection.execute(_DESCRIPTIONS)
    )
    return tuple(
        CatalogRollup(spec=spec, version=version, faults=_faults(connection, spec, version))
        for spec, version in filter(None, found)
    )


def _faults(connection: Connection, spec: RollupSpec, version: int) -> tuple[str, ...]:
    try:
        shape = render(spec, version=version).shape
    except DeclarationError:
        return ()
    return shape.faults(_found(connection, spec, shape))


def _found(connection: Connection, spec: RollupSpec, shape: Shape) -> Shape:
    functions = connection.execute(
        _FUNCTIONS, {"schema": spec.schema, "names": list(shape.functions)}
    )
    triggers = connection.execute(
        _TRIGGERS, {"schema": spec.schema, "names": [name for _, name in shape.triggers]}
    )
    return Shape(
        {row.proname: row.prosrc for row in functions},
        frozenset((row.relname, row.tgname) for row in triggers),
    )
