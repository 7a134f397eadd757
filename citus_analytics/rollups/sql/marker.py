r"""A rollup's own description, kept by the database: what it was created from, in which version.

The description is the comment of the function `<target>_run`. It is for people, who read it with
`\df+`, and for autogenerate, which compares it with what is declared.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from citus_analytics.rollups.sql.spec import RollupSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

START: Final = "Rollup of citus_analytics, version "


def describe(spec: RollupSpec, *, version: int) -> str:
    """Return the description of a rollup, without its schema: the function has one."""
    fields = asdict(replace(spec, schema=None))
    del fields["schema"]
    fields["bucket"] = spec.bucket.total_seconds()
    return f"{START}{version}: {json.dumps(fields, ensure_ascii=False)}"


def read_description(comment: str, *, schema: str | None) -> tuple[RollupSpec, int] | None:
    """Return the rollup and its version, or None if the comment describes none."""
    number, separator, description = comment.removeprefix(START).partition(": ")
    if not (comment.startswith(START) and separator and number.isdecimal()):
        return None
    try:
        fields = json.loads(description)
        return RollupSpec(**_typed(fields), schema=schema), int(number)
    except (ValueError, TypeError, KeyError):
        # Somebody has edited it, or a later release writes something else.
        return None


def _typed(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **fields,
        "bucket": timedelta(seconds=fields["bucket"]),
        "dimensions": tuple(fields["dimensions"]),
    }
