"""A rollup as SQL: its change log, its triggers and the functions that run it.

Everything here is pure and versioned. A version renders the same text for ever, because migrations
name the version that they were written for; a new body is a new version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from citus_analytics.errors import DeclarationError
from citus_analytics.rollup_sql import v1
from citus_analytics.rollup_sql.spec import RollupSpec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LATEST_VERSION", "RollupSpec", "RollupSql", "render"]

LATEST_VERSION = 1


@dataclass(frozen=True, slots=True)
class RollupSql:
    """The statements that create a rollup's machinery, and those that drop it, in order."""

    create: tuple[str, ...]
    drop: tuple[str, ...]


def render(spec: RollupSpec, *, version: int = LATEST_VERSION) -> RollupSql:
    """Return the SQL of `spec` in the given version.

    Raises:
        DeclarationError: There is no such version.
    """
    versions: dict[int, tuple[Callable[[RollupSpec], tuple[str, ...]], ...]] = {
        1: (v1.create, v1.drop),
    }
    if version not in versions:
        known = ", ".join(map(str, versions))
        raise DeclarationError(
            f"rollup function {spec.function!r} asks for version {version}; this release of "
            f"citus_analytics renders version {known}. Install a release that knows it."
        )
    create, drop = versions[version]
    return RollupSql(create(spec), drop(spec))
