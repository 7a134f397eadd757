"""A rollup as SQL: its change log, its triggers and the functions that run it.

Everything here is pure and versioned. A version renders the same text for ever, because migrations
name the version that they were written for; a new body is a new version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from citus_analytics.errors import DeclarationError
from citus_analytics.rollups.sql import v1, v1_replace
from citus_analytics.rollups.sql.marker import read_description
from citus_analytics.rollups.sql.shape import Shape
from citus_analytics.rollups.sql.spec import RollupSpec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LATEST_VERSION", "RollupSpec", "RollupSql", "Shape", "read_description", "render"]

LATEST_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupSql:
    """The SQL of a rollup, each part in order.

    Attributes:
        create: The statements that create the rollup's machinery.
        drop: Those that drop it, as much as there is of it.
        keep: Those that come before `drop` in a replacement, and put aside what has not run yet.
        relog: Those that come after `create` in a replacement, so that the next run is exact.
        shape: What a database has that has the machinery whole.
    """

    create: tuple[str, ...]
    drop: tuple[str, ...]
    keep: tuple[str, ...]
    relog: tuple[str, ...]
    shape: Shape


def render(spec: RollupSpec, *, version: int = LATEST_VERSION) -> RollupSql:
    """Return the SQL of `spec` in the given version.

    Raises:
        DeclarationError: There is no such version.
    """
    versions: dict[int, Callable[[RollupSpec], RollupSql]] = {1: _version_1}
    if version not in versions:
        known = ", ".join(map(str, versions))
        raise DeclarationError(
            f"rollup function {spec.function!r} asks for version {version}; this release of "
            f"citus_analytics renders version {known}. Install a release that knows it."
        )
    return versions[version](spec)


def _version_1(spec: RollupSpec) -> RollupSql:
    return RollupSql(
        create=v1.create(spec),
        drop=v1.drop(spec),
        keep=v1_replace.keep(spec),
        relog=v1_replace.relog(spec),
        shape=v1.shape(spec),
    )
