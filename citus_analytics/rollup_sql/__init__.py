"""A rollup as SQL: its change log, its triggers and the functions that run it.

Everything here is pure and versioned. A version renders the same text for ever, because migrations
name the version that they were written for; a new body is a new version.
"""

from __future__ import annotations

from dataclasses import dataclass

from citus_analytics.errors import DeclarationError
from citus_analytics.rollup_sql import v1
from citus_analytics.rollup_sql.marker import read_description
from citus_analytics.rollup_sql.shape import Shape
from citus_analytics.rollup_sql.spec import RollupSpec

__all__ = ["LATEST_VERSION", "RollupSpec", "RollupSql", "Shape", "read_description", "render"]

LATEST_VERSION = 1


@dataclass(frozen=True, slots=True)
class RollupSql:
    """The statements that create and drop a rollup's machinery, in order, and its shape."""

    create: tuple[str, ...]
    drop: tuple[str, ...]
    shape: Shape


def render(spec: RollupSpec, *, version: int = LATEST_VERSION) -> RollupSql:
    """Return the SQL of `spec` in the given version.

    Raises:
        DeclarationError: There is no such version.
    """
    versions = {1: v1}
    if version not in versions:
        known = ", ".join(map(str, versions))
        raise DeclarationError(
            f"rollup function {spec.function!r} asks for version {version}; this release of "
            f"citus_analytics renders version {known}. Install a release that knows it."
        )
    module = versions[version]
    return RollupSql(module.create(spec), module.drop(spec), module.shape(spec))
